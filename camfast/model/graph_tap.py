"""A tap on a training step's own pass: it cuts no graph, changes no mode, and its gradients can be differentiated again.

    images -> trunk (the step's graph) -> TAP: activations [N, C, *map] -> head (the step's graph) -> output
                                                     |                                     |
                                                     +------- gradient, with a graph ------+

The second derivative that a loss over heat needs runs through the head alone; from the activations on down it is the one
backward pass that the step takes anyway. Hooks exist only between ``with`` and its end.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from .inputs import Images, Inputs
from .regions import Regions
from .restored import Restored
from .tap import NoGradient, Quirks, Tap

__all__ = ["GraphTap"]


class GraphTap(Tap):
    """Captures activations during one ordinary pass, and gives gradients with a graph to the model's parameters.

    Modules stay in the mode they are in, buffers and random numbers go as in any pass. What follows the layer runs in
    ways that can be differentiated twice:

    - attention without its fused kernels, whose dropout draws in an order of its own on a GPU;
    - compiled parts eagerly; the whole pass, where the layer itself is inside one. Those before the layer stay compiled;
    - reentrant checkpoints plainly, and of a model with attention all checkpoints. Where the layer itself is inside such a
      one, the very first pass is taken twice, the second time from the buffers and random numbers it began with.

    Args:
        wrapper: what is called: the model, or what ``torch.compile`` or data-parallel training made of it.
        model: the module in the wrapper, which has the layers.
        layers: as in :class:`~camfast.model.tap.Tap`.
        names: as in :class:`~camfast.model.tap.Tap`.
        quirks: as in :class:`~camfast.model.tap.Tap`.
    """

    keeps_graph: ClassVar[bool] = True

    def __init__(
        self,
        wrapper: nn.Module,
        model: nn.Module,
        layers: Sequence[nn.Module],
        *,
        names: Sequence[str] | None = None,
        quirks: Quirks | None = None,
    ) -> None:
        super().__init__(model, layers, names=names, graph=True, eval_mode=False, quirks=quirks)
        self.wrapper = wrapper
        self.own_output: Any = None
        """What the model returned, before its wrapper had it: no backward pass from here meets the wrapper's hooks."""
        self._head = Restored()  # what holds from the first layer to the end of the pass
        self._in_head = False
        self._regions = Regions()  # of the pass
        self._around = -1  # the number of the checkpointed region around the layer, where it must run plainly
        self._ungraphed = False  # whether the layer ran under no_grad()
        self._eager_head = False  # whether compiled parts behind the layer must be told to run eagerly

    def __enter__(self) -> GraphTap:
        super().__enter__()
        tap = weakref.ref(self)
        note = lambda *args: None if (own := tap()) is None else own._note(*args)  # noqa: E731
        self._restored.hook(self.model, note)
        return self

    def __exit__(self, *exception: object) -> None:
        self.own_output = None
        super().__exit__(*exception)

    def run(self, images: Images) -> Any:
        """The pass, with the graph that any pass has; returns what the wrapper returned.

        Raises ``ValueError`` when a layer did not run, ran without a graph, or when the output does not depend on it.
        """
        output = self._pass(Inputs.of(images, self.model).whole())
        self._check_captured()
        if not self._has_graph(self.own_output):
            raise self._cut_off(self.names)
        return output

    @property
    def _layers(self) -> tuple[str, ...]:
        return tuple(self.names)

    @property
    def activations(self) -> list[Tensor]:
        """The captured outputs, in the order of ``layers``, with their graph."""
        return self.captured

    def gradients(
        self,
        outputs: Tensor | GradientEdge,
        seeds: Tensor | None = None,
        missing_ok: bool = False,
        keep: bool = False,
        only: Sequence[int] | None = None,
    ) -> list[Any]:
        """As :meth:`Tap.gradients`, with a graph; K seeds take K backward passes of the head."""
        places = range(len(self.names)) if only is None else only
        wanted, names = [self.captured[place] for place in places], [self.names[place] for place in places]
        rank = outputs.ndim if isinstance(outputs, Tensor) else 2
        several = seeds is not None and seeds.ndim > rank
        with _gathered(self.model):
            rows = [_gradients(outputs, wanted, seed) for seed in (seeds if several else [seeds])]  # type: ignore[union-attr]
        columns = list(zip(*rows, strict=True))
        missing = [name for name, column in zip(names, columns, strict=True) if column[0] is None]
        if missing and not missing_ok:
            raise self._cut_off(missing)
        stacked = lambda column: None if column[0] is None else torch.stack(column)  # noqa: E731
        return [stacked(column) if several else column[0] for column in columns]

    def _surround(self, restored: Restored) -> None:
        """Nothing: the pass is the training step's own."""

    def _is_early(self, turn: int) -> bool:
        return False  # nothing is cut: every call may be captured, and the pass cannot be repeated if one is missing

    def _pass(self, inputs: Inputs) -> Any:
        known = self.quirks.regions
        before = None if self._layers in known else _State(self.model, inputs.image.device)
        output = self._one_pass(inputs)
        if before is not None:
            known[self._layers] = self._around
            if self._around >= 0:  # the layer is in a region that must run plainly: the pass starts anew, this once
                output = None
                before.restore()
                output = self._one_pass(inputs)
        self.quirks.calls = [self._runs.get(layer, 0) for layer in self.layers]
        return output

    def _call(self, inputs: Inputs) -> Any:
        compiled = _compiled_parts(self.wrapper)
        region = self.quirks.regions.get(self._layers, -1)
        self._regions = Regions(None if region < 0 else region, both=_has_attention(self.model))
        with Restored() as self._head:
            self._in_head = self._ungraphed = False
            self._around = -1
            self._eager_head = bool(compiled)
            if any(_is_inside(layer, part) for part in compiled for layer in self.layers):
                self._head.enter(torch.compiler.set_stance("force_eager"))
                self._eager_head = False  # it is by now
            self._head.enter(self._regions.counted())
            return self.wrapper(*inputs.args, **inputs.kwargs)

    def _cut_off(self, names: Sequence[str]) -> NoGradient:
        if not self._ungraphed:
            return super()._cut_off(names)
        listed = ", ".join(map(repr, names))
        return NoGradient(
            f"differentiable=True needs a graph from layer {listed} to the scores, got one that the model's no_grad() cuts "
            "behind it; name a layer after that"
        )

    def _note(self, module: nn.Module, args: Any, output: Any) -> None:
        if threading.get_ident() == self._running_in:
            self.own_output = output

    def _capture(self, keys: list[Any], tensor: Tensor) -> Tensor:
        if tensor.is_inference():
            raise ValueError("the model runs the layer in torch.inference_mode(), where no gradient can be recorded")
        # In a frozen trunk under the model's own no_grad(), or in a reentrant checkpoint.
        ungraphed = not torch.is_grad_enabled()
        if not self._in_head:
            self._in_head = True
            regions = self._regions
            if regions.current is not None and (regions.both or ungraphed):
                self._around = regions.current
            if regions.plain_from is None:
                regions.plain_from = regions.begun
            self._head.enter(_twice_differentiable_attention())
            if self._eager_head:
                self._head.enter(torch.compiler.set_stance("force_eager"))
        if ungraphed:
            self._ungraphed = True
            torch.set_grad_enabled(True)  # until the end of that no_grad()
        # A view, so that gradients end here and not at the layer's own output, on which others may have hooks.
        start = tensor.view_as(tensor) if tensor.requires_grad else _Start.apply(tensor, _token())
        self._captured.update(dict.fromkeys(keys, start))
        return start.clone()  # an operation in place must not overwrite what was captured


class _Start(torch.autograd.Function):
    """Begins a graph behind a trunk without one, where no gradient is collected."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, token: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        return None, None


def _token() -> Tensor:
    return torch.empty(0, requires_grad=True)


def _gradients(outputs: Tensor | GradientEdge, wanted: list[Tensor], seed: Tensor | None) -> tuple[Tensor | None, ...]:
    if isinstance(outputs, Tensor) and not outputs.requires_grad:
        return (None,) * len(wanted)
    # Under autocast formulas of gradients would be cast once more.
    with torch.autocast(wanted[0].device.type, enabled=False):
        return torch.autograd.grad(outputs, wanted, seed, create_graph=True, allow_unused=True)


@contextlib.contextmanager
def _gathered(model: nn.Module) -> Iterator[None]:
    """Weights that fully sharded training gathers for a gradient stay so until the step's own backward pass.

    It would scatter them after each, and the second derivative needs them once more.
    """
    sharded: list[Any] = [module for module in model.modules() if hasattr(module, "set_reshard_after_backward")]
    groups = [getattr(module._get_fsdp_state(), "_fsdp_param_group", None) for module in sharded]
    before = [getattr(group, "reshard_after_backward", True) for group in groups]
    with Restored() as restored:
        for module, scattered in zip(sharded, before, strict=True):
            put_back = functools.partial(module.set_reshard_after_backward, scattered, recurse=False)
            restored.back(put_back)
            module.set_reshard_after_backward(False, recurse=False)
        yield


_ATTENTION = ("flash_sdp", "mem_efficient_sdp", "math_sdp", "cudnn_sdp")


@contextlib.contextmanager
def _twice_differentiable_attention() -> Iterator[None]:
    """Attention by its formula: the fused kernels have no second derivative."""
    backends = torch.backends.cuda  # the switches of the CPU's kernels too
    with Restored() as restored:
        for name in _ATTENTION:
            enable = getattr(backends, f"enable_{name}")
            restored.back(functools.partial(enable, getattr(backends, f"{name}_enabled")()))
            enable(name == "math_sdp")
        yield


class _State:
    """What a pass in training mode changes: buffers and random numbers."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
        self._device = device if device.type == "cuda" else None
        self._random = torch.random.get_rng_state()
        self._on_device = None if self._device is None else torch.cuda.get_rng_state(self._device)

    def restore(self) -> None:
        with torch.no_grad():
            for buffer, value in self._buffers:
                buffer.copy_(value)
        torch.random.set_rng_state(self._random)
        if self._on_device is not None:
            torch.cuda.set_rng_state(self._on_device, self._device or "cuda")


def _has_attention(model: nn.Module) -> bool:
    """Whether a part of ``model`` is called attention: what it computes without fused kernels is not what they keep."""
    return any("att" in type(module).__name__.lower() for module in model.modules())


def _compiled_parts(model: nn.Module) -> list[nn.Module]:
    """The modules of ``model`` that ``torch.compile`` made, or that compile their own call."""
    return [m for m in model.modules() if m._compiled_call_impl is not None or "_orig_mod" in m._modules]


def _is_inside(layer: nn.Module, part: nn.Module) -> bool:
    """Whether a hook on ``layer`` would run inside a compiled ``part``: the outermost module runs its hooks outside."""
    own = part._compiled_call_impl is not None
    return any(module is layer and (own or module is not part) for module in part.modules())
