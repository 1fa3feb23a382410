"""What all methods share: one pass, targets, a map of each layer, one heatmap."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn

from .. import ops
from ..errors import DoubtWarning
from ..model.find_layer import find_layers
from ..model.inputs import Images, Inputs, input_errors
from ..model.layers import Layer, resolve
from ..model.layouts import Layout, layout_of, named_layout, same_proportions, size_of
from ..model.outputs import scores_of
from ..model.probe import image_axes, read_layer
from ..model.tap import NoGradient, Quirks, Tap, unwrapped
from ..ops import reference
from ..targets import Targets
from . import augmentation
from .chosen import Chosen, choose
from .doubts import blank_rows, warn_of_blank
from .explanation import Explanation
from .rules import Rule, eigen_grad_cam, eigen_smoothed
from .search import kind_of, objective_of

__all__ = ["Explainer", "LayerMap"]

MANY = 100
"""More targets an image than this get heatmaps at the layer's resolution, unless a size is asked for."""

Size = int | Sequence[int] | Literal["map"] | None
Needs = Literal["activations", "gradients", "head", "images", "image gradients", "methods"]
Self = TypeVar("Self", bound="Explainer")


@dataclass
class LayerMap:
    """The map of one layer, before it is computed: an op of :mod:`camfast.ops` and its first two arguments."""

    rule: Rule
    activations: Tensor  # [N, C, *map]
    weights: Tensor  # gradients [N, (K,) C, *map], or weights [N, (K,) C]
    gradients: Tensor | None = None  # [N, C, *map], where they are known and not the weights

    @property
    def size(self) -> tuple[int, ...]:
        """The layer's own resolution."""
        return tuple(self.activations.shape[2:])

    def __call__(self, size: int | Sequence[int] | None, normalize: bool) -> Tensor:
        """``[N, (K,) *size]``."""
        return self.rule(self.activations, self.weights, size, normalize)

    def eigen_smoothed(self) -> LayerMap:
        """The same with the first principal component of weight times activation in place of their sum."""
        W = eigen_smoothed(self.rule, self.activations, self.weights)
        if W is None:
            raise ValueError("eigen_smooth=True needs a method that sums weighted channels, got a map of another kind")
        return LayerMap(eigen_grad_cam, self.activations, W)

    def summed(self, eigen_smooth: bool = False) -> SummedMap:
        """The map computed at the layer's own resolution, so that gradients need not be kept."""
        layer = self.eigen_smoothed() if eigen_smooth else self
        return SummedMap.of(self.activations, layer(None, normalize=False))


class SummedMap(LayerMap):
    """A layer's map that is computed: raw values ``[N, (K,) *map]`` at the layer's own resolution."""

    @classmethod
    def of(cls, activations: Tensor, maps: Tensor) -> SummedMap:
        """``activations`` ``[N, C, *map]`` tell which dimensions are the map's."""
        return cls(_finished, activations, maps)

    def eigen_smoothed(self) -> SummedMap:
        return self


def joined(parts: Sequence[LayerMap]) -> SummedMap:
    """One map of parts that hold some of the targets each."""
    return SummedMap.of(parts[0].activations, torch.cat([part.weights for part in parts], 1))


def _finished(activations: Tensor, maps: Tensor, size: Any, normalize: bool) -> Tensor:
    own = tuple(activations.shape[2:])
    return ops.resize_normalize(maps, own if size is None else size, normalize, relu=normalize)


class Explainer:
    """Explains ``model``: heatmaps of what in each image raised a score.

    The model is left as it was after each call: no hooks, no graph, no changed flags or buffers. Between calls nothing
    is registered on it, so several explainers, in several threads, may share one model.

    Args:
        model: any module that returns scores. Models from ``torch.compile`` are explained eagerly, data-parallel ones
            by the module they wrap.
        layers: the layer whose activations are explained: a dotted name, a module, or a list of either; None takes the
            last layer with a spatial map, found by passes over one image at the first call (see :attr:`layers`).
        reshape: turns the layer's output into ``[N, C, *map]``, for token layouts that are not recognised. It is
            applied to the gradients too, so it may only slice, reshape and permute.
        layout: names the dimensions of the layer's output, where they are not recognised: ``"channels_first"``,
            ``"channels_last"``, ``"tokens"``, ``"tokens_batch_second"``, or letters in their order, ``n`` for the batch,
            ``c`` for the channels, and ``t``, ``d``, ``h``, ``w`` for positions: ``"n t c"``, ``"n c w h"``. By default
            a change planted in one image tells, in one pass more at the first call of each shape.
        eval_mode: run in evaluation mode. False explains the model in the mode it is in.
        class_names: names of the classes, in the order of the scores; targets may then be names.
        fuse: how the maps of several layers become one: ``"mean"`` or ``"max"``.
        aug_smooth: mean heatmap of six calls: the images and their mirror images, times 0.9, 1 and 1.1 (as in
            pytorch-grad-cam; not scaled to [0, 1] again). Scores and targets are those of the images themselves.
        eigen_smooth: the first principal component of the weighted channels in place of their sum, which takes out
            noise. Its sign is arbitrary: the entry of largest magnitude is made positive.

    Raises ``TypeError`` for something that is no module, and ``ValueError`` for layers it does not have.
    """

    name: ClassVar[str]  # in METHODS, and of the functional form
    needs: ClassVar[Needs] = "gradients"  # what a call costs beside the pass: its row in the README's table
    uses_gradients: ClassVar[bool] = True
    smoothing: ClassVar[tuple[str, ...]] = ("aug_smooth", "eigen_smooth")  # the options that make sense

    def __init__(
        self,
        model: nn.Module,
        layers: Layer | Sequence[Layer] | None = None,
        *,
        reshape: Callable[[Tensor], Tensor] | None = None,
        layout: str | None = None,
        eval_mode: bool = True,
        class_names: Sequence[str] | None = None,
        fuse: Literal["mean", "max"] = "mean",
        aug_smooth: bool = False,
        eigen_smooth: bool = False,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        if isinstance(model, torch.jit.ScriptModule):
            raise TypeError("model must run in Python, got a ScriptModule, whose layers cannot be tapped")
        if reshape is not None and not callable(reshape):
            raise TypeError(f"reshape must be a callable, got {type(reshape).__name__}")
        if fuse not in ("mean", "max"):
            raise ValueError(f"fuse must be 'mean' or 'max', got {fuse!r}")
        self.model = unwrapped(model)
        if layout is not None and not isinstance(layout, str):
            raise TypeError(f"layout must be a string such as 'n t c', got {type(layout).__name__}")
        if layout is not None and reshape is not None:
            raise ValueError("expected reshape= or layout=, got both")
        self.reshape = reshape
        self.layout = layout
        self.eval_mode = eval_mode
        self.class_names = class_names
        for option, wanted in (("aug_smooth", aug_smooth), ("eigen_smooth", eigen_smooth)):
            if wanted and option not in self.smoothing:
                raise ValueError(f"{type(self).__name__} has no {option}, got {option}={wanted!r}; leave it out")
        self.fuse = fuse
        self.aug_smooth = aug_smooth
        self.eigen_smooth = eigen_smooth
        self._quirks = Quirks()
        self._closed = False
        self._names: list[str] = []
        self._modules: list[nn.Module] = []
        self._named = layers is not None
        self._looked = False  # whether a heatmap was looked at, to be sure that it is not blank
        self._found: dict[Any, tuple[list[str], list[nn.Module]]] = {}  # by kind of target, where no layer is named
        if layers is not None:
            self._names, self._modules = resolve(self.model, layers)

    @property
    def layers(self) -> list[str]:
        """Names of the layers in use; empty until the first call has found one."""
        return list(self._names)

    def __call__(
        self, images: Images, targets: Targets = None, size: Size = None, normalize: bool = True
    ) -> Explanation:
        """Scores and heatmaps of ``images``.

        Args:
            images: float ``[N, C, H, W]`` (or ``[N, C, L]``, ``[N, C, D, H, W]``), scaled as the model was trained; a
                tuple or list for a model of several inputs, a dict for keyword arguments.
            targets: what to explain: None for each image's top class, a class for all images, a list of one an image, a
                tensor ``[N]`` or ``[N, K]``, ``TopK(k)``, ``"all"`` for every class, class names, or callables
                ``scores_of_one_image -> scalar``, such as those of :mod:`camfast.targets`; one for all images, one an
                image, or a list of K an image.
                A class of a segmentation model, ``[N, classes, H, W]``, counts by the mean of its plane.
            size: the heatmap's size: None for that of the images (of the layer, where an image has more than 100
                targets), ``"map"`` for the layer's own (of several, the largest), an int or a tuple.
            normalize: True gives values in [0, 1], by ReLU and min-max; False the raw map, signed where the method is.

        Returns an :class:`~camfast.Explanation`. Its heatmap is float32 (float64 for a model in float64) ``[N, H, W]``,
        or ``[N, K, H, W]`` for K targets an image, on the images' device. Where an image's activations or gradients are
        not finite its heatmap is NaN, and no other image's is touched.

        Raises ``TypeError`` and ``ValueError`` for images, targets and sizes that do not fit; what the model raises
        passes through. The model is left as it was in either case.
        """
        if self.aug_smooth:
            return augmentation.mean_explanation(self.explain, Inputs.of(images, self.model), targets, size, normalize)
        return self.explain(images, targets, size, normalize)

    # The steps of a call, in order; a method overrides those in which it differs.

    def explain(self, images: Images, targets: Targets, size: Size, normalize: bool) -> Explanation:
        """The call itself, without ``aug_smooth``."""
        inputs = self.prepare(images, targets)
        try:
            maps, chosen = self._layer_maps(inputs, targets)
            unreached = self._unreached(maps)
        except NoGradient:
            unreached = True
            if not self._searched_again(inputs, targets):
                raise
        else:
            if not unreached or not self._searched_again(inputs, targets):
                return self.result(maps, chosen, inputs, size, normalize)
        maps, chosen = self._layer_maps(inputs, targets)
        return self.result(maps, chosen, inputs, size, normalize)

    def _layer_maps(self, inputs: Inputs, targets: Targets) -> tuple[Sequence[LayerMap], Chosen]:
        with self.tap() as tap:
            output = self.run(tap, inputs)
            scores = scores_of(output, inputs.batch)
            chosen = choose(targets, scores, self.class_names, output)
            return self.maps(tap, chosen, inputs), chosen

    def _unreached(self, maps: Sequence[LayerMap]) -> bool:
        """Whether no gradient at all reached a layer that was found, for other targets of the same kind."""
        if self._named or not self.uses_gradients or maps[0].weights.device.type != "cpu":
            return False  # elsewhere the question would wait for the device
        return not any(bool(layer.weights.any()) for layer in maps)

    def _searched_again(self, inputs: Inputs, targets: Targets) -> bool:
        """Looks for a layer once more, for these very targets; whether it is another one."""
        if self._named:
            return False
        before = self._names
        self._search(inputs, targets, again=True)
        return self._names != before

    def result(
        self, maps: Sequence[LayerMap], chosen: Chosen, inputs: Inputs, size: Size, normalize: bool
    ) -> Explanation:
        """The explanation of the layers' maps."""
        if self.eigen_smooth:
            maps = [layer.eigen_smoothed() for layer in maps]
        if size is None and chosen.per_image is not None and chosen.per_image > MANY:
            size = "map"
        heatmap = self.combine(maps, self.output_size(size, maps, inputs), normalize)
        self._look(heatmap, maps, chosen)
        return Explanation(
            heatmap=heatmap,
            scores=chosen.scores.detach(),
            targets=chosen.targets,
            layers=self.layers,
            method=self.name,
            images=inputs.image,
            class_names=self.class_names,
        )

    def _look(self, heatmap: Tensor, maps: Sequence[LayerMap], chosen: Chosen) -> None:
        """Says so where heatmaps are blank; on a device, where looking means waiting, at the first call alone."""
        if self._looked and heatmap.device.type != "cpu":
            return
        self._looked = True
        blank = blank_rows(heatmap, len(maps[0].size))
        if blank.any():
            raw = [layer(None, normalize=False) for layer in maps]
            warn_of_blank(self.layers, blank, raw, chosen.scores, type(self))

    def prepare(self, images: Images, targets: Targets = None) -> Inputs:
        """Checks the images and settles the layers: where none is named, the last one that ``targets`` depend on."""
        if self._closed:
            raise RuntimeError(f"this {type(self).__name__} is closed")
        inputs = Inputs.of(images, self.model)
        if not self._named:
            self._search(inputs, targets)
        return inputs

    def _search(self, inputs: Inputs, targets: Targets, again: bool = False) -> None:
        kind = kind_of(targets)
        if again or kind not in self._found:
            objective = objective_of(targets, inputs.batch, self.class_names)
            with input_errors(self.model, inputs):
                names = find_layers(self.model, inputs, self.uses_gradients, objective, kind, again)
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

    def run(self, tap: Tap, inputs: Inputs) -> Any:
        """The pass; what the model returns."""
        with input_errors(self.model, inputs):
            return tap.run(inputs)

    def maps(self, tap: Tap, chosen: Chosen, inputs: Inputs) -> list[LayerMap]:
        """The map of each layer. The tap is still open, so that a method may run further passes."""
        raise NotImplementedError

    def to_grid(self, activations: Tensor, inputs: Inputs, name: str) -> Callable[[Tensor], Tensor]:
        """A function that turns what has the layout of ``activations`` into ``[..., N, C, *map]``, mostly as a view."""
        if self.reshape is not None:
            return functools.partial(_reshaped, self.reshape, activations.shape)
        layout = self._layout(activations, inputs, name)
        if layout is None:
            raise ValueError(
                f"layer {name!r} must give [N, C, *map] or tokens [N, T, C] that fit the image's grid, got "
                f"{list(activations.shape)} for images {list(inputs.image.shape)}; pass reshape= to turn it into a map, or "
                "layout= to name its dimensions"
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
        if name not in self._names:  # no layer's output
            return layout_of(activations.shape, inputs.image.shape, self.model)
        reading = read_layer(
            self.model, self._modules[self._names.index(name)], name, activations, inputs, self.eval_mode
        )
        if reading.doubt is not None:
            warnings.warn(
                f"{reading.doubt}, so that they are taken from its shape {list(activations.shape)}; "
                "layout= names its dimensions, reshape= turns it into [N, C, *map]",
                DoubtWarning,
                stacklevel=2,
            )
        return reading.layout

    def output_size(self, size: Size, maps: Sequence[LayerMap], inputs: Inputs) -> tuple[int, ...]:
        """The heatmap's size in full."""
        rank = len(maps[0].size)
        if size == "map":
            return tuple(map(max, zip(*(layer.size for layer in maps), strict=True)))
        if size is None:
            if inputs.image.ndim <= rank:
                raise ValueError(
                    f"the layer's map has {rank} dimensions, more than images {list(inputs.image.shape)}; pass size="
                )
            along = image_axes(self.model, inputs.image.shape, rank) if self.reshape is None else None
            if along is not None:
                return tuple(inputs.image.shape[axis] for axis in along)
            whole = size_of(inputs.image.shape, self.model)
            if len(whole) >= rank:
                return whole[-rank:]
            whole = tuple(inputs.image.shape[-rank:])  # images without a channel dimension, [N, *size]
            if not all(same_proportions(layer.size, whole) for layer in maps):
                raise ValueError(
                    f"the layer's map {list(maps[0].size)} must have the proportions of images "
                    f"{list(inputs.image.shape)}; pass size="
                )
            return whole
        if isinstance(size, int):
            return (size,) * rank
        if not isinstance(size, (tuple, list)) or len(size) != rank:
            raise ValueError(f"size must be None, 'map', an int or {rank} ints, got {size!r}")
        return tuple(size)

    def combine(self, maps: Sequence[LayerMap], size: tuple[int, ...], normalize: bool) -> Tensor:
        """One heatmap of the layers' maps.

        Of one layer: the op does it all. Of several: each map is made non-negative, scaled to [0, 1] and resized; the
        mean (or maximum) is scaled to [0, 1] again. Raw maps are resized and averaged.
        """
        if len(maps) == 1:
            return maps[0](size, normalize)
        resized = []
        for layer in maps:
            own = layer(None, normalize=False)
            if normalize:
                own = reference.min_max(own.clamp(min=0), rank=len(size))
            resized.append(ops.resize_normalize(own, size, normalize=False))
        stacked = torch.stack(resized)
        fused = stacked.mean(0) if self.fuse == "mean" else stacked.amax(0)
        return ops.resize_normalize(fused, size) if normalize else fused

    def close(self) -> None:
        """Ends the use of this explainer and lets go of the model; nothing is registered on it between calls."""
        self._closed = True
        self.model = nn.Module()
        self._modules = []

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.model).__name__}, layers={self._names})"


def _reshaped(reshape: Callable[[Tensor], Tensor], shape: torch.Size, tensor: Tensor) -> Tensor:
    """``reshape`` applied to a tensor of ``shape``, or to K of them at once."""
    if tensor.ndim > len(shape):
        return _reshaped(reshape, shape, tensor.flatten(0, 1)).unflatten(0, tensor.shape[:2])
    result = reshape(tensor)
    if not isinstance(result, Tensor) or not 3 <= result.ndim <= 5 or result.shape[0] % tensor.shape[0]:
        got = list(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise ValueError(f"reshape must turn {list(tensor.shape)} into [N, C, *map], got {got}")
    return result
