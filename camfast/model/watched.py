"""A model at one moment, to tell later whether what was made of it then still holds.

Seen are its modules and their attributes, the hooks on them, and where weights and buffers lie; of their values, on the CPU,
how often PyTorch wrote them, and three of each. Nothing is registered on the model. A look takes about a microsecond per module.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as every_module

__all__ = ["Watched"]

_PLAIN = {Tensor, nn.Parameter, getattr(nn, "Buffer", nn.Parameter)}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_OURS = ("camfast.", "torch.nn.utils.")  # hooks that need no pass of ours, or make a weight of others
_OF_MODULES = list(nn.Module().__dict__)  # what every module has, before the attributes of its own
_SAMPLES = 3
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of a value


class Watched:
    """What ``model`` is now.

    Attributes:
        hooked: a module with a hook of the user's, whose code runs in a pass and in nothing that was made of one; or None.
        training: whether any module is in training mode.
        odd: the type of a weight that is no plain tensor, whose memory cannot be watched; or None.
    """

    def __init__(self, model: nn.Module) -> None:
        self.hooked: str | None = "every module" if _hooked_everywhere() else None
        self.training = False
        parts: list[Any] = []  # modules and their attributes, in the order of a walk
        tensors: list[Tensor | None] = []
        seen: set[nn.Module] = set()
        waiting: list[nn.Module | None] = [model]
        while waiting:
            module = waiting.pop()
            if module is None or module in seen:
                continue
            seen.add(module)
            own = module.__dict__
            parts.append(module)
            parts += _attributes(own)
            tensors += module._parameters.values()
            tensors += module._buffers.values()
            if module.training:
                self.training = True
            if (
                own["_forward_hooks"]
                or own["_forward_pre_hooks"]
                or own["_backward_hooks"]
                or own["_backward_pre_hooks"]
            ):
                self.hooked = _hooked(module) or self.hooked
            if module._modules:
                waiting += module._modules.values()
        self._parts = parts
        self._weights: list[Tensor] = [tensor for tensor in tensors if tensor is not None]
        odd = set(map(type, self._weights)) - _PLAIN
        self.odd = odd.pop().__name__ if odd else None
        self._places = [] if odd else list(map(Tensor.data_ptr, self._weights))
        self._written: list[int] | None = None
        self._probes: list[list[np.ndarray]] = []  # views of a few values of each weight, by their bytes
        self._probed: list[bytes] = []

    @property
    def reason(self) -> str | None:
        """Why nothing can stand for a pass of this model; None where something can."""
        if self.odd:
            return f"weights must be plain tensors, whose memory can be watched, got {self.odd}"
        if self.hooked:
            return f"a hook on {self.hooked} must run in every pass; remove it first"
        return None

    def keep(self, values: bool = False) -> Watched:
        """A copy to compare with later; with ``values`` it knows what is in the weights.

        Their memory is held, so that what reads them there never reads memory that was given back.
        """
        kept = copy.copy(self)
        if values:
            kept._written = _written(self._weights)
        kept._weights = [weight.detach() for weight in self._weights]
        if values and not self.odd:
            kinds: dict[int, list[np.ndarray]] = {}
            for weight in kept._weights:
                if weight.numel() and weight.device.type == "cpu" and weight.element_size() in _BITS:
                    kinds.setdefault(weight.element_size(), []).append(_probe(weight))
            kept._probes = list(kinds.values())
            kept._probed = _bits(kept._probes)
        return kept

    def same(self, now: Watched) -> bool:
        """Whether the model is ``now`` what it was: what was made of it may be used."""
        try:
            return self._parts == now._parts and self.same_weights(now)
        except Exception:  # attributes that cannot be compared, and are others
            return False

    def same_weights(self, now: Watched) -> bool:
        """Whether the weights are ``now`` where they were, and where values count, what they were."""
        if self._places != now._places:
            return False
        return self._written is None or (
            self._written == _written(now._weights) and self._probed == _bits(self._probes)
        )


def _attributes(own: dict[str, Any]) -> list[Any]:
    """The values of a module's attributes besides those that every module has."""
    if next(iter(own)) == _OF_MODULES[0]:  # these were set first
        return list(own.values())[len(_OF_MODULES) :]
    return [value for name, value in own.items() if name not in _OF_MODULES]


def _hooked(module: nn.Module) -> str | None:
    """The type of ``module``, where one of its hooks is neither ours nor PyTorch's way to make a weight."""
    for kind in _HOOKS:
        for hook in module.__dict__[kind].values():
            hook = getattr(hook, "func", hook)  # functools.partial
            if not str(getattr(hook, "__module__", "")).startswith(_OURS):
                return type(module).__name__
    return None


def _hooked_everywhere() -> bool:
    return any(getattr(every_module, f"_global{kind}", None) for kind in _HOOKS)


def _written(weights: list[Tensor]) -> list[int]:
    """How often PyTorch wrote each of ``weights``; it does not count for those made in inference mode."""
    return [0 if weight.is_inference() else weight._version for weight in weights]


def _probe(weight: Tensor) -> np.ndarray:
    """The bits of the first, the middle and the last value in a weight's memory; of all values of a small one."""
    start = weight.storage_offset()
    room = min(weight.numel(), weight.untyped_storage().nbytes() // weight.element_size() - start)
    count = min(room, _SAMPLES)
    some = weight.as_strided((count,), (max((room - 1) // max(count - 1, 1), 1),), start)
    return some.view(_BITS[weight.element_size()]).numpy()


def _bits(probes: list[list[np.ndarray]]) -> list[bytes]:
    """The values of ``probes``; as bytes, in which NaN equals itself."""
    return [np.concatenate(of_size).tobytes() for of_size in probes]
