"""Methods that look at layers: a tap on them, one pass, a map of each, one heatmap."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from .. import ops
from ..errors import DoubtWarning, warn
from ..model.bounded import Bounded
from ..model.calls import image_seen, one_by_one, separate_calls
from ..model.find_layer import find_layers, remembered_layers
from ..model.graph_tap import GraphTap
from ..model.inputs import Images, Inputs, input_errors
from ..model.layers import ALL_CALLS, call_of, resolve
from ..model.layouts import Layout, layout_of, named_layout
from ..model.outputs import scores_of
from ..model.placement import PREPARED
from ..model.probe import read_layer
from ..model.tap import NoGradient, Quirks, Tap
from ..ops import reference
from ..targets import Targets
from .chosen import Chosen, choose, scores_for
from .differentiable import maps_with_graph
from .explainer import Explainer, Layers, Options, Size
from .explanation import Explanation
from .layer_map import LayerMap, LayerMaps
from .ranges import Normalize
from .reading import kind_of
from .search import objective_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["LayerExplainer", "LayerOptions"]


class LayerOptions(Options, total=False):
    """Options of every method that looks at layers, as :class:`LayerExplainer` describes them."""

    reshape: Callable[[Tensor], Tensor] | None
    layout: str | None
    fuse: Literal["mean", "max"]


class LayerExplainer(Explainer):
    """Explains ``model`` by the activations of one of its layers, or of several.

    Args:
        layers: the layer whose activations are explained: a dotted name, a module, or a list of either; None takes the
            last layer with a spatial map, found by passes over one image at the first call (see :attr:`layers`). Of a
            layer that runs several times in a pass ``"net#1"`` is the first call, ``"net#2"`` the second, ``"net#*"``
            every call, as that many layers; without a number the last call is explained.
        reshape: turns the layer's output into ``[N, C, *map]``, for token layouts that are not recognised. It is
            applied to the gradients too, so it may only slice, reshape and permute.
        layout: names the dimensions of the layer's output, where they are not recognised: ``"channels_first"``,
            ``"channels_last"``, ``"tokens"``, ``"tokens_batch_second"``, or letters in their order, ``n`` for the batch,
            ``c`` for the channels, and ``t``, ``d``, ``h``, ``w`` for positions: ``"n t c"``, ``"n c w h"``. By default
            a change planted in one image tells, in one pass more at the first call of each shape.
        fuse: how the maps of several layers become one: ``"mean"`` or ``"max"``.

    The other arguments are those of :class:`camfast.Explainer`.

    Raises:
        TypeError: for a ``reshape`` that cannot be called.
        ValueError: for layers that the model does not have.
    """

    takes_frames: ClassVar[bool] = True
    """Whether the method can explain frames that share a row of scores."""

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = None,
        *,
        reshape: Callable[[Tensor], Tensor] | None = None,
        layout: str | None = None,
        fuse: Literal["mean", "max"] = "mean",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(model, **options)
        if reshape is not None and not callable(reshape):
            raise TypeError(f"reshape must be a callable, got {type(reshape).__name__}")
        if fuse not in ("mean", "max"):
            raise ValueError(f"fuse must be 'mean' or 'max', got {fuse!r}")
        if layout is not None and not isinstance(layout, str):
            raise TypeError(f"layout must be a string such as 'n t c', got {type(layout).__name__}")
        if layout is not None and reshape is not None:
            raise ValueError("expected reshape= or layout=, got both")
        self.reshape = reshape
        self.layout = layout
        self.fuse = fuse
        self._quirks = Quirks()
        self._modules: list[nn.Module] = []
        self._named = layers is not None
        self._all_calls: tuple[list[str], list[nn.Module]] | None = None  # where all calls of a layer are asked for
        self._looked_at: dict[Any, int] = Bounded()  # which of several images the layers see, by layers and shapes
        self._separate: dict[str, bool] = {}  # of layers that run several times: whether each call sees something else
        self._found: dict[Any, tuple[list[str], list[nn.Module]]] = {}  # by kind of target, where no layer is named
        self._just_searched = False
        # By kind of target and shapes: what a differentiable call may rely on.
        self._differentiated: dict[Any, bool] = Bounded()
        if layers is not None:
            self._names, self._modules = resolve(self.model, layers)
            if any(call_of(name)[1] == ALL_CALLS for name in self._names):
                self._all_calls = self._names, self._modules

    @property
    def layers(self) -> list[str]:
        """Names of the layers in use, with the number of the call where one runs several times; empty until one is found."""
        if len(self._quirks.calls) != len(self._names):
            return list(self._names)
        return [_numbered(name, runs) for name, runs in zip(self._names, self._quirks.calls, strict=True)]

    def layer_maps(self, images: Images, targets: Targets = None, *, differentiable: bool = False) -> LayerMaps:
        """What is there before the heatmap: the model's output, what is explained of it, and the map of each layer.

        Arguments are those of a call. :meth:`result` makes the explanation of it. With ``differentiable`` the output has its
        graph too, for losses of what the model returns besides scores.
        """
        if differentiable:
            return maps_with_graph(self, images, targets)
        inputs = self.prepare(images, targets)
        try:
            found = self._passed(inputs, targets)
        except NoGradient:
            if not self._searched_again(inputs, targets):
                raise
        else:
            if not self.is_unreached(found.maps) or not self._searched_again(inputs, targets):
                return found
        return self._passed(inputs, targets)

    def _passed(self, inputs: Inputs, targets: Targets) -> LayerMaps:
        with self.tap() as tap:
            output = self.run(tap, inputs)
            scores = self.scores(targets, output, inputs)
            chosen = choose(targets, scores, self.class_names, output, self.classes(inputs))
            return LayerMaps(inputs, chosen, self.maps(tap, chosen, inputs))

    def scores(self, targets: Targets, output: Any, inputs: Inputs) -> Tensor:
        """The scores in ``output``; of frames that the model brings together one row for several of them."""
        try:
            return scores_for(targets, output, inputs.batch)
        except ValueError:
            scores = scores_of(output, inputs.batch, rows="fewer")
            rows = scores.shape[0]
        if not self.takes_frames:
            raise ValueError(
                f"{type(self).__name__} scores one image at a time, got {rows} rows of scores for {inputs.batch} images, as of "
                "frames that belong together; a method of gradients or activations, such as LayerCAM, explains these"
            )
        return scores

    def known_layers(self, targets: Targets) -> tuple[str, ...]:
        """Names of the layers that a call with ``targets`` explains, in use from here on; empty where none is found yet."""
        if not self._named:
            self._names, self._modules = self._found.get(kind_of(targets), ([], []))
        return tuple(self._names)

    def is_unreached(self, maps: Sequence[LayerMap]) -> bool:
        """Whether no gradient at all reached a layer that was found, for other targets of the same kind."""
        if self._named or not self.uses_gradients or maps[0].weights.device.type != "cpu":
            return False  # elsewhere the question would wait for the device
        return not any(bool(layer.weights.amax() != 0 or layer.weights.amin() != 0) for layer in maps)

    def _searched_again(self, inputs: Inputs, targets: Targets) -> bool:
        """Looks for a layer once more, for these very targets; whether it is another one.

        What was found for other targets of their kind may not suit them. What was found just now was found for them.
        """
        if self._named or self._just_searched:
            return False
        before = self._names
        self._search(inputs, targets, again=True)
        return self._names != before

    # The steps of a call, in order.

    def explain(self, images: Images, targets: Targets, size: Size, normalize: Normalize) -> Explanation:
        """The call itself, without ``aug_smooth``."""
        return self.result(self.layer_maps(images, targets), size, normalize)

    def explain_with_graph(self, images: Images, targets: Targets, size: Size, normalize: Normalize) -> Explanation:
        """The call itself, with ``differentiable``."""
        return self.result(maps_with_graph(self, images, targets), size, normalize)

    def prepare(self, images: Images, targets: Targets = None) -> Inputs:
        """Checks the images and settles the layers: where none is named, the last one that ``targets`` depend on."""
        inputs = super().prepare(images, targets)
        if not self._named:
            self._search(inputs, targets)
        return self._settled(inputs)

    def _settled(self, inputs: Inputs) -> Inputs:
        """Looks up the calls of layers of which all are asked for, and which of several images the layers see."""
        if self._all_calls is not None:
            self._names, self._modules = one_by_one(self.model, inputs, *self._all_calls, self.eval_mode)
        images = inputs.images()
        if len(images) < 2:
            return inputs
        key = (*self._names, *(tuple(image.shape[1:]) for image in images))
        if key not in self._looked_at:
            self._looked_at[key] = image_seen(self.model, inputs, self._names, self._modules, self.eval_mode)
        return inputs.about(images[self._looked_at[key]])

    def _doubt_calls(self, inputs: Inputs) -> None:
        """Says so, once, where a layer ran several times, each time on something else, and no call was asked for."""
        for name, module, runs in zip(self._names, self._modules, self._quirks.calls, strict=False):
            if runs < 2 or call_of(name)[1] is not None or name in self._separate:
                continue
            self._separate[name] = separate_calls(self.model, inputs, module, runs, self.eval_mode)
            if self._separate[name]:
                warn(
                    f"layer {name!r} ran {runs} times in one pass, each time on something else, and the map is of its "
                    f"last call; name a call by layers='{name}#1' to '{name}#{runs}', or all by '{name}#*'",
                    DoubtWarning,
                )

    def _search(self, inputs: Inputs, targets: Targets, again: bool = False) -> None:
        kind = kind_of(targets)
        self._just_searched = False
        if again or kind not in self._found:
            with input_errors(self.model, inputs):
                names = [] if again else remembered_layers(self.model, inputs, self.uses_gradients, kind)
                if not names:
                    objective = objective_of(targets, inputs.batch, self.class_names, self.classes(inputs))
                    names = find_layers(self.model, inputs, self.uses_gradients, objective, kind)
                    self._just_searched = True
            self._found[kind] = resolve(self.model, names)
        self._names, self._modules = self._found[kind]

    def tap(self) -> Tap:
        """A tap on the layers, for one call."""
        return Tap(
            self.model,
            self._modules,
            names=self._names,
            graph=self.uses_gradients,
            eval_mode=self.eval_mode,
            quirks=self._quirks,
        )

    def graph_tap(self) -> GraphTap:
        """The same for a pass whose graph is kept."""
        return GraphTap(self._wrapper, self.model, self._modules, names=self._names, quirks=self._quirks)

    def run(self, tap: Tap, inputs: Inputs) -> Any:
        """The pass; what the model returns."""
        with input_errors(self.model, inputs):
            return tap.run(inputs)

    def maps(self, tap: Tap, chosen: Chosen, inputs: Inputs) -> list[LayerMap]:
        """The map of each layer. The tap is still open, so that a method may run further passes."""
        raise NotImplementedError

    def result(self, found: LayerMaps, size: Size = None, normalize: Normalize = True) -> Explanation:
        """The explanation of what a call found, with ``size`` and ``normalize`` of the call."""
        self._doubt_calls(found.inputs)
        if self.eigen_smooth:
            found = replace(found, maps=[layer.eigen_smoothed() for layer in found.maps])
        return super().result(found, size, normalize)

    def combine(self, maps: Sequence[LayerMap], size: tuple[int, ...], normalize: bool) -> Tensor:
        """One heatmap of the layers' maps.

        Of one layer: the op does it all. Of several: each map is made non-negative, scaled to [0, 1] and resized; the
        mean (or maximum) is scaled to [0, 1] again. Raw maps are resized and averaged.
        """
        if len(maps) == 1:
            return super().combine(maps, size, normalize)
        resized = []
        for layer in maps:
            own = layer(None, normalize=False)
            if normalize:
                own = reference.min_max(reference.positive(own), rank=len(size))
            resized.append(ops.resize_normalize(own, size, normalize=False))
        fused = self.fused(resized)
        return ops.resize_normalize(fused, size) if normalize else fused

    def fused(self, maps: Sequence[Tensor]) -> Tensor:
        """One of several maps of the same size: their mean, or their maximum (``fuse``)."""
        stacked = torch.stack(list(maps))
        return stacked.mean(0) if self.fuse == "mean" else stacked.amax(0)

    def to_grid(self, activations: Tensor, inputs: Inputs, name: str) -> Callable[[Tensor], Tensor]:
        """A function that turns what has the layout of ``activations`` into ``[..., N, C, *map]``, mostly as a view."""
        if self.reshape is not None:
            return functools.partial(_reshaped, self.reshape, activations.shape)
        layout = self._layout(activations, inputs, name)
        if layout is None:
            raise ValueError(
                f"layer {name!r} must give [N, C, *map] or tokens [N, T, C] that fit the image's grid, got "
                f"{list(activations.shape)} for images {list(inputs.image.shape)}; pass reshape= to turn it into a map, "
                "or layout= to name its dimensions"
            )
        if math.prod(layout.map) == 1:
            raise ValueError(
                f"layer {name!r} must give a map of several positions, got {list(activations.shape)}, which has one; name "
                "a layer before the pooling"
            )
        return layout.view

    def _layout(self, activations: Tensor, inputs: Inputs, name: str) -> Layout | None:
        """Where the positions are in a layer's output: by a planted change, once for each shape."""
        if self.layout is not None:
            return named_layout(self.layout, activations.shape, inputs.image.shape, self.model)
        place = next((i for i, names in enumerate(zip(self._names, self.layers, strict=True)) if name in names), None)
        if place is None:  # no layer's output
            return layout_of(activations.shape, inputs.image.shape, self.model)
        if (
            activations.ndim == inputs.image.ndim == 3
            and layout_of(activations.shape, inputs.image.shape, self.model) is None
        ):
            return (
                None  # a spectrogram without a channel dimension, cut into patches: rows of tokens in an unknown order
            )
        reading = read_layer(self.model, self._modules[place], self._names[place], activations, inputs, self.eval_mode)
        if reading.doubt is not None:
            warn(
                f"{reading.doubt}, so that they are taken from its shape {list(activations.shape)}; "
                "layout= names its dimensions, reshape= turns it into [N, C, *map]",
                DoubtWarning,
            )
        if reading.place is not None and reading.layout is not None:
            warn(f"{reading.place}, but is drawn over all of it; {PREPARED}", DoubtWarning)
        elif reading.place is not None:
            raise ValueError(
                f"{reading.place}: expected positions of the image, got {list(activations.shape)} for images "
                f"{list(inputs.image.shape)}; {PREPARED}, or pass layout= or reshape= to draw a map as it lies"
            )
        return reading.layout

    def image_axes(self, inputs: Inputs, rank: int) -> tuple[int, ...] | None:
        return None if self.reshape is not None else super().image_axes(inputs, rank)

    def grids(self, tap: Tap, inputs: Inputs) -> list[Tensor]:
        """The activations of each layer as ``[N, C, *map]``."""
        return [self.to_grid(A, inputs, name)(A) for name, A in zip(self.layers, tap.activations, strict=True)]

    def use_layers_of(self, other: LayerExplainer) -> None:
        """Takes the layers of ``other``, an explainer of the same model, in place of its own."""
        self._names, self._modules, self._named = other._names, other._modules, True
        self._quirks = other._quirks

    def close(self) -> None:
        """Ends the use of this explainer and lets go of the model; nothing is registered on it between calls."""
        super().close()
        self._modules = []


def _numbered(name: str, runs: int) -> str:
    return f"{name}#{runs}" if runs > 1 and call_of(name)[1] is None else name


def _reshaped(reshape: Callable[[Tensor], Tensor], shape: torch.Size, tensor: Tensor) -> Tensor:
    """``reshape`` applied to a tensor of ``shape``, or to K of them at once."""
    if tensor.ndim > len(shape):
        return _reshaped(reshape, shape, tensor.flatten(0, 1)).unflatten(0, tensor.shape[:2])
    result = reshape(tensor)
    if (
        not isinstance(result, Tensor)
        or not 3 <= result.ndim <= 5
        or not result.shape[0]
        or 0 not in (result.shape[0] % len(tensor), len(tensor) % len(result))
    ):
        got = list(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise ValueError(f"reshape must turn {list(tensor.shape)} into [N, C, *map], got {got}")
    return result
