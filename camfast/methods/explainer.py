"""What all methods share: images and targets in, a heatmap of a size out, and the model as it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypedDict, TypeVar

import torch
from torch import Tensor, nn

from .. import ops
from ..model.bounded import Bounded
from ..model.class_axis import Classes
from ..model.inputs import Images, Inputs, input_errors
from ..model.layers import Layer
from ..model.layouts import same_proportions, size_of
from ..model.probe import image_axes
from ..model.restored import thread_kept
from ..model.side_inputs import shared_places
from ..model.tap import unwrapped
from ..ops import reference
from ..targets import ClassNames, Targets
from . import augmentation
from .differentiable import check_differentiable
from .doubts import blank_rows, warn_of_blank, warn_of_rounding, warn_of_unknown
from .explanation import Explanation
from .layer_map import LayerMap, LayerMaps
from .ranges import Normalize, Scale, check_normalize, in_range
from .repeated import Repeated, check_repeats
from .signatures import NamesItsArguments

__all__ = ["MANY", "Explainer", "Layers", "Needs", "Options", "Size", "largest"]

MANY = 100
"""More targets an image than this get heatmaps at the layer's resolution, unless a size is asked for."""

Layers = Layer | Sequence[Layer] | None
Size = int | Sequence[int] | Literal["map"] | None
Needs = Literal["activations", "gradients", "head", "images", "image gradients", "methods"]
Self = TypeVar("Self", bound="Explainer")


class Options(TypedDict, total=False):
    """Options of every method, as :class:`Explainer` describes them."""

    eval_mode: bool
    class_names: ClassNames | None
    aug_smooth: bool
    eigen_smooth: bool
    graph: bool | Literal["reuse"]
    compile: bool | Literal["auto"]


class Explainer(NamesItsArguments):
    """Explains ``model``: heatmaps of what in each image raised a score.

    The base of all methods. Those that look at layers are a :class:`~camfast.methods.LayerExplainer`.

    The model is left as it was after each call: no hooks, no graph, no changed flags or buffers. Between calls nothing
    is registered on it, so several explainers, in several threads, may share one model. A training step may ask for a
    graph (``differentiable=True``): its call is then the step's own pass.

    Args:
        model: any module that returns scores. Models from ``torch.compile`` are explained eagerly, data-parallel ones
            by the module they wrap; in training they are called as they are.
        layers: for methods that explain by layers of one's choice; None where the others are called.
        eval_mode: run in evaluation mode. False explains the model in the mode it is in.
        class_names: names of the classes, in the order of the scores; targets may then be names.
        aug_smooth: mean heatmap of six calls: the images and their mirror images, times 0.9, 1 and 1.1 (as in
            pytorch-grad-cam; not scaled to [0, 1] again). Scores and targets are those of the images themselves.
        eigen_smooth: the first principal component of the weighted channels in place of their sum, which takes out
            noise. Its sign is arbitrary: the entry of largest magnitude is made positive.
        graph: on CUDA, replay a call from a CUDA graph, from the second one on with inputs of a shape and targets of a
            kind. Results lie in memory of their own; with ``"reuse"`` in the graph's, which the next such call overwrites.
        compile: run the network compiled, from the second call on with images of a shape: on the CPU by oneDNN Graph, in
            some seconds, elsewhere and where that is not faster by ``torch.compile``, in a minute; ``"auto"``: by oneDNN
            Graph or not at all. Weights that have changed are noticed, and compiled at the second call that finds them
            unchanged. Where either is not possible the call runs as ever; a warning, :attr:`graph_problem` and
            :attr:`compile_problem` say why. Both are for methods of one pass, and leave differentiable calls as they are.

    Raises:
        TypeError: for something that is no module.
        ValueError: for layers or an option that the method does not have.
    """

    name: ClassVar[str]  # in METHODS, and of the functional form
    needs: ClassVar[Needs] = "gradients"  # what a call costs beside the pass: its row in the README's table
    uses_gradients: ClassVar[bool] = True
    derivative: bool = False  # whether heat can be differentiated: differentiable=True
    smoothing: ClassVar[tuple[str, ...]] = ("aug_smooth", "eigen_smooth")  # the options that make sense
    repeats: ClassVar[tuple[str, ...]] = ()  # the same of graph and compile

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = None,
        *,
        eval_mode: bool = True,
        class_names: ClassNames | None = None,
        aug_smooth: bool = False,
        eigen_smooth: bool = False,
        graph: bool | Literal["reuse"] = False,
        compile: bool | Literal["auto"] = False,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        if isinstance(model, torch.jit.ScriptModule):
            raise TypeError("model must run in Python, got a ScriptModule, whose layers cannot be tapped")
        if layers is not None:
            raise ValueError(f"{type(self).__name__} takes no layers, got layers={layers!r}; leave it out")
        for option, wanted in (("aug_smooth", aug_smooth), ("eigen_smooth", eigen_smooth)):
            if wanted and option not in self.smoothing:
                raise ValueError(f"{type(self).__name__} has no {option}, got {option}={wanted!r}; leave it out")
        check_repeats(type(self), graph, compile)
        self.model = unwrapped(model)
        # What a training step calls; DataParallel's copies of a module have no hooks.
        self._wrapper = self.model if isinstance(model, nn.DataParallel) else model
        self.eval_mode = eval_mode
        self.class_names = class_names
        self.aug_smooth = aug_smooth
        self.eigen_smooth = eigen_smooth
        self.graph = graph
        self.compile = compile
        self._repeated: Repeated | None = None  # what was captured and compiled
        self._asked: nn.Module | None = None  # the model that tells of its classes, where another one runs
        self._closed = False
        self._shared: dict[Any, tuple[int, ...]] = Bounded()  # by shapes: which tensors are the same for every image
        self._looked = False  # whether a heatmap was looked at, to be sure that it is not blank
        self._names: list[str] = []

    @property
    def layers(self) -> list[str]:
        """Names of the layers in use; empty until the first call has found one."""
        return list(self._names)

    @property
    def graph_problem(self) -> str | None:
        """Why the last call ran without a CUDA graph, where one was asked for; None where nothing is against it."""
        return None if self._repeated is None else self._repeated.graph_problem

    @property
    def compile_problem(self) -> str | None:
        """Why the last call ran uncompiled, where it was to be compiled; None where nothing is against it."""
        return None if self._repeated is None else self._repeated.compile_problem

    @thread_kept
    def __call__(
        self,
        images: Images,
        targets: Targets = None,
        size: Size = None,
        normalize: Normalize = True,
        *,
        differentiable: bool = False,
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
            normalize: True gives values in [0, 1], each map by ReLU and its own min-max; False the raw map, signed where
                the method is. For heat that can be compared, ``"shared"`` gives all maps of the call one range, from
                their least to their greatest value (not below 0), and ``(low, high)`` this one, in raw values;
                :attr:`Explanation.scale` tells the range, and may be given to the next call.
            differentiable: scores and heatmap come with a graph to the model's parameters, for losses over heat. The
                call is then the training step's own pass: the model runs as it is called (compiled, data-parallel,
                under autocast), in the mode it is in whatever ``eval_mode`` says; in training mode batch norms count
                the batch and dropout draws as in any step. A second derivative runs through what follows the layer
                alone, and through nothing at all where that is pooling and a linear layer. A map that is blank or
                constant has a derivative of 0; a shared range counts as constant. The first call for images of a shape
                takes passes before its own, in evaluation mode and without a graph, unless they were taken before.
                ``GradCAM``, its kin and ``CAM`` have derivatives.

        Returns:
            An :class:`~camfast.Explanation`. Its heatmap is float32 (float64 for a model in float64) ``[N, H, W]``, or
            ``[N, K, H, W]`` for K targets an image, on the images' device. Where an image's activations or gradients
            are not finite its heatmap is NaN, and no other image's is touched.

        Raises:
            TypeError: for images or targets of a wrong type.
            ValueError: for images, targets, sizes and ranges that do not fit; with ``differentiable`` for methods without a
                derivative, under ``no_grad()``, and for scores that are NaN. What the model raises passes through; the
                model is left as it was in either case.
        """
        check_normalize(normalize)
        if differentiable:
            return self.explain_with_graph(images, targets, size, normalize)
        explain = self._again if self.graph or self.compile else self.explain
        if self.aug_smooth:
            return augmentation.mean_explanation(explain, Inputs.of(images, self.model), targets, size, normalize)
        return explain(images, targets, size, normalize)

    def _again(self, images: Images, targets: Targets, size: Size, normalize: Normalize) -> Explanation:
        """The call itself, replayed or compiled where it can be."""
        if self._closed:
            return self.explain(images, targets, size, normalize)  # says so
        if self._repeated is None:
            self._repeated = Repeated()
        return self._repeated(self, images, targets, size, normalize)  # type: ignore[arg-type]

    # The steps of a call; a method overrides those in which it differs.

    def explain(self, images: Images, targets: Targets, size: Size, normalize: Normalize) -> Explanation:
        """The call itself, without ``aug_smooth``."""
        raise NotImplementedError

    def explain_with_graph(self, images: Images, targets: Targets, size: Size, normalize: Normalize) -> Explanation:
        """The call itself, with ``differentiable``."""
        check_differentiable(self)
        raise NotImplementedError

    def prepare(self, images: Images, targets: Targets = None) -> Inputs:
        """Checks the images, and that the explainer is not closed."""
        if self._closed:
            raise RuntimeError(f"this {type(self).__name__} is closed")
        inputs = Inputs.of(images, self.model)
        beside = inputs.beside() if inputs.batch > 1 and not inputs.shared else []
        if not beside:
            return inputs
        key = tuple(tuple(tensor.shape) for tensor in (inputs.image, *beside))
        if key not in self._shared:
            with input_errors(self.model, inputs):
                self._shared[key] = shared_places(self.model, inputs, self.eval_mode)
        return inputs.sharing([beside[place] for place in self._shared[key]])

    def classes(self, inputs: Inputs) -> Classes:
        """What is known of the classes of scores with further axes than images and classes."""
        return Classes(None, self.model if self._asked is None else self._asked, inputs)

    def result(self, found: LayerMaps, size: Size = None, normalize: Normalize = True) -> Explanation:
        """The explanation of what a call found, with ``size`` and ``normalize`` of the call."""
        chosen = found.chosen
        if size is None and chosen.per_image is not None and chosen.per_image > MANY:
            size = "map"
        full = self.output_size(size, found.maps, found.inputs)
        shared, instances = found.shared, found.instances
        scale: Scale = "each" if normalize is True else "raw"
        if normalize is True and shared > 1:
            heatmap = self.combine_together(found.maps, full, shared)
        else:
            heatmap = self.combine(found.maps, full, normalize is True)
        self.look(heatmap.clamp(min=0) if normalize == "shared" else heatmap, found)
        if not isinstance(normalize, bool):
            heatmap, scale = in_range(heatmap, len(full), normalize)
        if instances is not None:
            heatmap = heatmap.unflatten(0, (found.inputs.batch, instances))
        return Explanation(
            heatmap=heatmap,
            scores=chosen.scores.detach() if found.scores is None else found.scores,
            targets=chosen.targets,
            layers=self.layers,
            method=self.name,
            images=found.inputs.image,
            class_names=chosen.class_names,
            images_per_row=shared // (instances or 1),
            maps_per_image=instances,
            scale=scale,
        )

    def look(self, heatmap: Tensor, found: LayerMaps) -> None:
        """Says so where heatmaps are blank or scores NaN; at the first call alone in training, and where looking means waiting.

        At the first call also where they are of nothing but rounding.
        """
        if self._looked and (found.scores is not None or heatmap.device.type != "cpu"):
            return
        if not self._looked and self.uses_gradients:
            with torch.no_grad():
                warn_of_rounding(found.maps, found.chosen.scores, type(self), self.layers)
        self._looked = True
        with torch.no_grad():
            warn_of_unknown(found.chosen.scores, self.model, type(self))
        blank = blank_rows(heatmap.detach(), len(found.maps[0].size))
        if blank.any():
            with torch.no_grad():
                raw = [layer(None, normalize=False) for layer in found.maps]
            warn_of_blank(self.layers, blank, raw, found.chosen.scores, type(self))

    def combine(self, maps: Sequence[LayerMap], size: tuple[int, ...], normalize: bool) -> Tensor:
        """The heatmap of the one map there is: its op does it all."""
        (layer,) = maps
        return layer(size, normalize)

    def combine_together(self, maps: Sequence[LayerMap], size: tuple[int, ...], shared: int) -> Tensor:
        """The heatmap of maps of which ``shared`` at a time belong to one row of scores, and have one range in common."""
        resized = []
        for layer in maps:
            own = _in_one_range(reference.positive(layer(None, normalize=False)), len(layer.size), shared)
            resized.append(ops.resize_normalize(own, size, normalize=False))
        return _in_one_range(torch.stack(resized).mean(0), len(size), shared)

    def output_size(self, size: Size, maps: Sequence[LayerMap], inputs: Inputs) -> tuple[int, ...]:
        """The heatmap's size in full."""
        rank = len(maps[0].size)
        if size == "map":
            return largest(maps)
        if size is None:
            if inputs.image.ndim <= rank:
                raise ValueError(
                    f"the layer's map has {rank} dimensions, more than images {list(inputs.image.shape)}; pass size="
                )
            along = self.image_axes(inputs, rank)
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

    def image_axes(self, inputs: Inputs, rank: int) -> tuple[int, ...] | None:
        """The dimensions of the image along which a map of ``rank`` dimensions lies, where evidence told; else None."""
        return image_axes(self.model, inputs.image.shape, rank)

    def close(self) -> None:
        """Ends the use of this explainer and lets go of the model; nothing is registered on it between calls."""
        self._closed = True
        self.model = self._wrapper = nn.Module()
        self._repeated = self._asked = None

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Copies capture and compile for themselves."""
        return {**vars(self), "_repeated": None}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.model).__name__}, layers={self._names})"


def largest(maps: Sequence[LayerMap]) -> tuple[int, ...]:
    """The largest extent of ``maps`` along each dimension."""
    return tuple(map(max, zip(*(layer.size for layer in maps), strict=True)))


def _in_one_range(heat: Tensor, rank: int, shared: int) -> Tensor:
    """``heat`` ``[M, ..., *size]``, not negative, ``shared`` maps at a time scaled to [0, 1] by their common range."""
    groups = heat.unflatten(0, (-1, shared))
    dims = (1, *range(groups.ndim - rank, groups.ndim))
    low = groups.amin(dims, keepdim=True)
    span = groups.amax(dims, keepdim=True) - low
    scaled = (groups - low) / (span + reference.RANGE_EPS)
    return torch.where(span == 0, 0, scaled).flatten(0, 1)  # a constant group has a derivative of 0
