"""What a model's layers produce: the feature maps of one pass, layer by layer.

The pass leaves no trace: hooks exist only while it runs, and the model's modes and buffers are as before afterwards.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..brief import brief
from ..model.bounded import Bounded
from ..model.copy_on_write import CopyOnWrite, Kept
from ..model.inputs import Images, Inputs
from ..model.layers import Layer
from ..model.layouts import has_channels_second
from ..model.outputs import tensors_in
from ..model.restored import Restored, thread_kept
from ..model.tap import is_map
from ..model.untouched import quiet
from ..pictures.grids import Grid, grid, pictures_of
from ..pictures.tensorboard import Log, opened
from .positions import Positions
from .selection import Chosen, Types, choose

__all__ = ["FeatureMaps", "Maps"]

Reduce = Literal["mean"] | int | Callable[[Tensor], Tensor] | None
Histograms = bool | Sequence[Literal["weights", "gradients"]]


class Maps(Mapping[str, Tensor]):
    """Maps by layer, ``[N, C, *map]``, in the order in which the layers ran.

    A layer that ran several times in the pass has an entry for each call: ``"conv"``, ``"conv#2"``, ...
    """

    def __init__(self, maps: Mapping[str, Tensor], channels: Mapping[str, Tensor] | None = None) -> None:
        self._maps = dict(maps)
        self.channels = dict(channels or {})
        """Which channels were kept, int64 ``[N, n]``, where the ``n`` of largest variance were asked for."""

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._maps:
            raise KeyError(f"expected one of {', '.join(self._maps) or 'no layers'}, got {name!r}")
        return self._maps[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._maps)

    def __len__(self) -> int:
        return len(self._maps)

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {list(maps.shape)}" for name, maps in self.items()) or "no maps"

    def grid(self, name: str, image: int = 0, labels: bool | Sequence[str] | None = None, **options: Any) -> Grid:
        """The maps of layer ``name`` for one image, as :func:`camfast.grid` draws them; ``options`` are its.

        ``labels=True`` numbers the tiles by channel. Of one-dimensional maps ``[C, L]`` a single tile has the channels
        as rows; of volumes the middle slice is shown.
        """
        if labels is True:
            kept = self.channels.get(name)
            count = self[name].shape[1] if self[name].ndim > 3 else 1
            labels = [str(number) for number in (range(count) if kept is None else kept[image].tolist())]
        return grid(pictures_of(self[name][image]), labels=labels, **options)

    def to_tensorboard(self, writer: Any, step: int = 0, image: int = 0, **options: Any) -> None:
        """Writes one image a layer, the grid of its maps, under the layer's name.

        ``writer`` is a ``SummaryWriter`` or the path of a log directory; ``options`` are those of :func:`camfast.grid`.
        Raises ``OSError`` where the log cannot be written.
        """
        with opened(writer) as log:
            for name in self:
                log.add_picture(name, self.grid(name, image, **options).tensor, step)


class FeatureMaps:
    """Feature maps of a model's layers: ``camfast.FeatureMaps(model)(images)`` is a mapping from names to maps.

    Args:
        model: any module.
        layers: names, patterns such as ``"features.*"``, modules, or a mixture; None: the whole model.
        types: module classes, or their names, that a pattern or the whole model is narrowed down to; None: convolutions
            of the whole model, everything that a pattern matches.
        reduce: ``"mean"`` over channels ``[N, 1, *map]``; an int for the channels of largest variance over positions,
            each image its own, largest first ``[N, n, *map]``; a callable from ``[N, C, *map]`` to a tensor; None: all
            channels.
        device: where maps are moved as they come, such as ``"cpu"``; None: they stay.
        callback: called with ``(name, maps)`` as the maps come; nothing is kept then.
        reshape: a callable from a layer's output to ``[N, C, *map]``, for unusual layouts. By default convolutions and
            the like tell by their kind, and of other layers changes planted in one image tell, in a few passes more at
            the first call of a shape.
        eval_mode: run in evaluation mode; the modules' modes are restored either way.

    A map is the layer's output as the layer returned it, whatever operation in place follows: it is copied where one
    does, and only there. Reductions happen as maps come, so that not all of them are alive at once.

    Raises ``ValueError`` for layers, patterns and types that the model does not have.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layer | Sequence[Layer] | None = None,
        types: Types | None = None,
        *,
        reduce: Reduce = None,
        device: torch.device | str | None = None,
        callback: Callable[[str, Tensor], object] | None = None,
        reshape: Callable[[Tensor], Tensor] | None = None,
        eval_mode: bool = True,
    ) -> None:
        if isinstance(reduce, str) and reduce != "mean":
            raise ValueError(f"reduce must be 'mean', a number of channels, a callable or None, got {reduce!r}")
        if isinstance(reduce, int) and reduce < 1:
            raise ValueError(f"reduce must be 1 channel or more, got {reduce}")
        self.model = model
        self.reduce = reduce
        self.device = device
        self.callback = callback
        self.reshape = reshape
        self.eval_mode = eval_mode
        self._chosen = choose(model, layers, types)
        self._last: weakref.ref[Maps] | None = None
        self._positions = Positions(model)
        self._read: dict[Any, bool] = Bounded()  # shapes of images for which positions were looked for
        self._runs: Counter[Chosen] = Counter()  # how often each layer ran then

    @property
    def layers(self) -> list[str]:
        """Names of the layers that are looked at."""
        return [layer.label for layer in self._chosen]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.model).__name__}, layers={brief(self.layers)})"

    @thread_kept
    def __call__(self, images: Images) -> Maps:
        """One pass of ``images``. The mapping is empty when there is a callback.

        Raises ``ValueError`` when a layer that was named has no map or did not run, or when no layer has one.
        """
        maps: dict[str, Tensor] = {}
        kept: dict[str, Kept] = {}
        channels: dict[str, Tensor] = {}
        # Reduced and moved maps are tensors of their own; only what is kept as it is needs to be protected.
        plain = self.callback is None and self.reduce is None

        def take(name: str, value: Tensor) -> None:
            if plain:
                moved = value if self.device is None else value.to(self.device)
                if moved is value:
                    kept[name] = guard.keep(value)
                else:
                    maps[name] = moved
                return
            reduced, indices = _reduced(value, self.reduce)
            if self.device is not None:
                reduced = reduced.to(self.device)
            if reduced.untyped_storage()._cdata == value.untyped_storage()._cdata:
                reduced = reduced.clone()
            if indices is not None:
                channels[name] = indices
            if self.callback is None:
                maps[name] = reduced
            else:
                self.callback(name, reduced)

        guard = CopyOnWrite()
        with guard if plain else contextlib.nullcontext():
            order = self._run(images, take)
            maps.update((name, one.tensor) for name, one in kept.items())
        result = Maps({name: maps[name] for name in order if name in maps}, channels)
        self._last = weakref.ref(result)
        return result

    def to_tensorboard(
        self,
        writer: Any,
        step: int = 0,
        images: Images | None = None,
        *,
        image: int = 0,
        histograms: Histograms = False,
        prefix: str = "",
        **options: Any,
    ) -> None:
        """Writes one image a layer, the grid of its maps, under the layer's dotted name.

        ``writer`` is a ``SummaryWriter`` or the path of a log directory. With ``images`` a pass is made, and each grid
        is drawn and written as its layer runs, so that no map is kept; without, the maps of the last call are written,
        which must still be held by the caller. ``image`` is the number of the image in the batch; ``prefix`` is put
        before every name. ``histograms`` adds those of the layers' parameters, ``"weights"``, and of their ``.grad``,
        ``"gradients"`` (True: both). ``options`` are those of :func:`camfast.grid`.

        Raises ``OSError`` where the log cannot be written, ``ValueError`` where there are no maps.
        """
        with opened(writer) as log:
            if images is not None:

                def draw(name: str, value: Tensor) -> None:
                    reduced, _ = _reduced(value[image : image + 1] if image >= 0 else value[image:][:1], self.reduce)
                    log.add_picture(prefix + name, grid(pictures_of(reduced[0]), **options).tensor, step)

                self._run(images, draw)
            else:
                last = None if self._last is None else self._last()
                if last is None or not last:
                    raise ValueError("expected images, or maps of a call before that are still held, got neither")
                for name in last:
                    log.add_picture(prefix + name, last.grid(name, image, **options).tensor, step)
            if histograms:
                self._add_histograms(log, step, prefix, histograms)

    def _add_histograms(self, log: Log, step: int, prefix: str, histograms: Histograms) -> None:
        wanted = ("weights", "gradients") if histograms is True else tuple(histograms or ())
        for layer in self._chosen:
            for name, parameter in layer.module.named_parameters(recurse=False):
                tag = f"{prefix}{layer.name}.{name}"
                if "weights" in wanted:
                    log.add_histogram(tag, parameter, step)
                if "gradients" in wanted and parameter.grad is not None:
                    log.add_histogram(f"{tag}.grad", parameter.grad, step)

    def _run(self, images: Images, take: Callable[[str, Tensor], None]) -> list[str]:
        """One pass; ``take`` gets each name and map ``[N, C, *map]`` as it comes. Returns the names in order."""
        inputs = Inputs.of(images, self.model)
        self._find_positions(inputs)
        order: list[str] = []
        flat: dict[str, str] = {}  # layers without a map, and why

        def on_output(layer: Chosen, turn: int, output: Any) -> None:
            name = layer.entry(turn)
            if name is None:
                return
            try:
                value = self._map(layer, turn, output, inputs)
            except ValueError as error:
                flat.setdefault(layer.label, str(error))
                return
            order.append(name)
            take(name, value)

        calls = self._watched(inputs, on_output)
        for layer in self._chosen:
            if layer.required and calls[layer] < (layer.call or 1):
                raise ValueError(f"every layer must run in the model's forward pass, got no call of {layer.label!r}")
            if layer.required and layer.label in flat:
                raise ValueError(f"expected layers with a spatial map, got {layer.label!r}: {flat[layer.label]}")
        if not order:
            why = next(iter(flat.items()), None)
            reason = "none of them ran" if why is None else f"{why[0]!r}: {why[1]}"
            raise ValueError(f"expected layers with a spatial map, got none ({reason})")
        return order

    def _watched(self, inputs: Inputs, on_output: Callable[[Chosen, int, Any], None]) -> Counter[Chosen]:
        """One pass; ``on_output`` gets each layer, the number of its call, and what it gives. Returns how often each ran."""
        cut, thread = inputs.cut(), threading.get_ident()
        calls: Counter[Chosen] = Counter()

        def hook(layer: Chosen, output: Any) -> None:
            if threading.get_ident() == thread:
                calls[layer] += 1
                with torch.no_grad():
                    on_output(layer, calls[layer], output)

        with quiet(self.model, self.eval_mode), torch.no_grad(), Restored() as restored:
            for layer in self._chosen:
                restored.hook(layer.module, lambda module, args, output, layer=layer: hook(layer, output))
            self.model(*cut.args, **cut.kwargs)
        return calls

    def _find_positions(self, inputs: Inputs) -> None:
        """At the first call of a shape: where the positions are in what those layers give whose kind does not tell."""
        shapes = tuple(tuple(image.shape[1:]) for image in inputs.images())
        if self.reshape is not None or shapes in self._read:
            return
        seen: list[tuple[Chosen, int]] = []

        def on_output(layer: Chosen, turn: int, output: Any) -> None:
            if layer.entry(turn) is not None and any(map(is_map, tensors_in(output))):
                seen.append((layer, turn))

        if all(has_channels_second(layer.module) for layer in self._chosen):
            return
        self._runs = self._watched(inputs, on_output)
        self._positions.read([(layer.module, self._call(layer, turn)) for layer, turn in seen], inputs)
        self._read[shapes] = True

    def _call(self, layer: Chosen, turn: int) -> str:
        return f"{layer.name}#{turn}" if self._runs[layer] > 1 else layer.name

    def _map(self, layer: Chosen, turn: int, output: Any, inputs: Inputs) -> Tensor:
        """A layer's output as ``[N, C, *map]``; ``ValueError`` says why it is none."""
        if self.reshape is not None:
            value = self.reshape(output)
            if not isinstance(value, Tensor) or value.ndim < 3:
                raise ValueError("reshape must return a tensor [N, C, *map]")
            return value
        tensor = next(filter(is_map, tensors_in(output)), None)
        if tensor is None:
            shapes = ", ".join(str(list(t.shape)) for t in tensors_in(output)) or "no tensor"
            raise ValueError(f"its output is {shapes}, without positions")
        layout = self._positions.layout((layer.module, self._call(layer, turn)), tensor, inputs)
        if layout is None:
            raise ValueError(f"its output {list(tensor.shape)} fits no grid of positions; pass reshape=")
        return layout.view(tensor)


def _reduced(value: Tensor, reduce: Reduce) -> tuple[Tensor, Tensor | None]:
    """The reduced map, and the numbers of its channels where some were chosen."""
    if reduce is None:
        return value, None
    if callable(reduce):
        return reduce(value), None
    if reduce == "mean":
        return value.mean(1, keepdim=True), None
    spread = value.flatten(2).float().var(2, unbiased=False).nan_to_num(-1.0)  # [N, C]
    indices = spread.topk(min(int(reduce), spread.shape[1]), 1).indices
    chosen = indices[(...,) + (None,) * (value.ndim - 2)].expand(-1, -1, *value.shape[2:])
    return value.gather(1, chosen), indices
