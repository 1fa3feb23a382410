"""Gradients of what layers produce, and of any tensor on the way, after any scalar's backward pass."""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..brief import brief
from ..model.inputs import Images, Inputs
from ..model.layers import Layer
from ..model.outputs import replace_first, scores_in
from ..model.restored import Restored, thread_kept
from ..model.tap import Tap
from .maps import Maps
from .positions import Positions
from .selection import Chosen, Types, choose

__all__ = ["Gradients"]


class Gradients(Mapping[str, Tensor]):
    """Gradients of layers' outputs and of other tensors that are no leaves, by name.

    Of a pass and a scalar of your own::

        with camfast.Gradients(model, ["layer1", "layer4"]) as gradients:
            output = model(images)
            gradients.watch(output, "scores")
            output[:, 3].sum().backward()
        gradients["layer4"]  # [N, C, *map], the shape the layer returned

    or in one call, which touches no parameter and no ``.grad``::

        maps = camfast.Gradients(model, "layer4")(images, lambda output: output[:, 3].sum())

    ``layers`` and ``types`` choose as in :class:`camfast.FeatureMaps`. Gradients are those of the layer's output as it
    was returned, before any operation in place that follows. A layer that runs several times in a pass has an entry a
    call: ``"conv"``, ``"conv#2"``, ...; a new pass of the model replaces what the one before left.

    Hooks exist inside ``with`` only. Gradients stay until the object goes, or until :meth:`clear`.
    """

    def __init__(
        self, model: nn.Module, layers: Layer | Sequence[Layer] | None = None, types: Types | None = None
    ) -> None:
        self.model = model
        self._chosen = choose(model, layers, types)
        self._positions = Positions(model)
        self._gradients: dict[str, Tensor] = {}
        self._calls: Counter[Chosen] = Counter()
        self._restored = Restored()
        self._thread: int | None = None

    @property
    def layers(self) -> list[str]:
        """Names of the layers that are looked at."""
        return [layer.label for layer in self._chosen]

    def __repr__(self) -> str:
        """What is looked at, or the shapes of the gradients that there are."""
        if not self._gradients:
            return f"{type(self).__name__}({type(self.model).__name__}, layers={brief(self.layers)})"
        return repr(Maps(self._gradients))

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._gradients:
            known = ", ".join(self._gradients) or "none: no backward pass reached a layer"
            raise KeyError(f"expected a layer with a gradient, got {name!r}; there are {known}")
        return self._gradients[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._gradients)

    def __len__(self) -> int:
        return len(self._gradients)

    def __enter__(self) -> Gradients:
        if self._thread is not None:
            raise RuntimeError("expected one use of a Gradients object at a time, got a second `with`")
        self._restored.back(self._end())
        self._thread = threading.get_ident()
        own = weakref.proxy(self)  # so that one that is forgotten takes its hooks with it
        try:
            self._restored.hook(self.model, lambda module, args: own._calls.clear(), before=True)
            for layer in self._chosen:
                self._restored.hook(layer.module, lambda module, args, output, layer=layer: own._note(layer, output))
        except BaseException:
            self._restored.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._restored.close()

    def watch(self, tensor: Tensor, name: str) -> Any:
        """Notes the gradient of ``tensor`` under ``name`` once a backward pass reaches it; returns the hook's handle.

        The tensor need not be a leaf, nor the output of a module. Its hook goes with ``with``, or by
        ``handle.remove()``. Raises ``ValueError`` for a tensor that no gradient can reach.
        """
        if not tensor.requires_grad:
            raise ValueError(f"expected a tensor that requires a gradient, got {name!r}, which does not")

        def keep(gradient: Tensor) -> None:
            self._gradients[name] = gradient.detach()

        handle = tensor.register_hook(keep)
        self._restored.back(handle.remove)
        return handle

    def clear(self) -> None:
        """Forgets every gradient."""
        self._gradients.clear()

    @thread_kept
    def __call__(
        self, images: Images, scalar: Callable[[Any], Tensor] | None = None, *, eval_mode: bool = True
    ) -> Maps:
        """One pass and one backward pass, down to the first of the layers: its maps are ``[N, C, *map]``.

        ``scalar`` makes a number of the model's output; None: the sum of each image's top score. Raises ``ValueError``
        when it is no scalar, or does not depend on a layer.
        """
        inputs = Inputs.of(images, self.model)
        names = calls = self.layers
        modules = [layer.module for layer in self._chosen]
        with Tap(self.model, modules, names=names, eval_mode=eval_mode) as tap:
            output = tap.run(inputs)
            runs = tap.quirks.calls
            several = any(layer.call is None and n > 1 for layer, n in zip(self._chosen, runs, strict=True))
            found = [] if several else tap.gradients(_value(output, scalar))
        if several:  # once more, with each call by itself
            each = [
                (name, layer.module, f"{layer.name}#{turn}")
                for layer, n in zip(self._chosen, runs, strict=True)
                for turn in range(1, n + 1)
                if (name := layer.entry(turn)) is not None
            ]
            names, calls = [name for name, _, _ in each], [call for _, _, call in each]
            modules = [module for _, module, _ in each]
            with Tap(self.model, modules, names=calls, eval_mode=eval_mode) as tap:
                found = tap.gradients(_value(tap.run(inputs), scalar))
        where = list(zip(modules, calls, strict=True))
        self._positions.read(where, inputs)
        maps = {}
        for name, call, gradient in zip(names, where, found, strict=True):
            layout = self._positions.layout(call, gradient, inputs)
            maps[name] = gradient if layout is None else layout.view(gradient)
        return Maps(maps)

    def _note(self, layer: Chosen, output: Any) -> Any:
        """The forward hook: puts a hook on the layer's output, which starts a graph here where there is none yet."""
        if threading.get_ident() != self._thread or not torch.is_grad_enabled():
            return None
        self._calls[layer] += 1
        key = layer.entry(self._calls[layer])
        if key is None:
            return None

        def follow(tensor: Tensor) -> Tensor:
            if tensor.requires_grad:
                self.watch(tensor, key)
                return tensor
            leaf = tensor.detach().requires_grad_()
            self.watch(leaf, key)
            return leaf.clone()  # an operation in place may follow, which a leaf does not allow

        return replace_first(output, lambda tensor: tensor.is_floating_point(), follow)[0]

    def _end(self) -> Callable[[], None]:
        own = weakref.ref(self)

        def end() -> None:
            if (gradients := own()) is not None:
                gradients._calls.clear()
                gradients._thread = None

        return end


def _value(output: Any, scalar: Callable[[Any], Tensor] | None) -> Tensor:
    """The number to differentiate, ``[]``."""
    value = _top_score(output) if scalar is None else scalar(output)
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"scalar must return a tensor of one value, got {got}")
    return value.reshape(())


def _top_score(output: Any) -> Tensor:
    scores = scores_in(output)
    if scores is None:
        raise ValueError("expected scores in the model's output, got none; pass scalar=")
    return scores.reshape(len(scores), -1).amax(1).sum()
