"""Methods that look at layers: a tap on them, one pass, a map of each, one heatmap."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from .. import ops
from ..model.find_layer import find_layers
from ..model.inputs import Images, Inputs
from ..model.layers import resolve
from ..model.layouts import layout_of
from ..model.outputs import scores_of
from ..model.tap import Quirks, Tap
from ..ops import reference
from ..targets import Targets
from .chosen import Chosen, choose
from .explainer import Explainer, Layers, Options, Size
from .explanation import Explanation
from .layer_map import LayerMap, LayerMaps

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["LayerExplainer", "LayerOptions"]


class LayerOptions(Options, total=False):
    """Options of every method that looks at layers, as :class:`LayerExplainer` describes them."""

    reshape: Callable[[Tensor], Tensor] | None
    fuse: Literal["mean", "max"]


class LayerExplainer(Explainer):
    """Explains ``model`` by the activations of one of its layers, or of several.

    Args:
        layers: the layer whose activations are explained: a dotted name, a module, or a list of either; None takes the
            last layer with a spatial map, found by passes over one image at the first call (see :attr:`layers`).
        reshape: turns the layer's output into ``[N, C, *map]``, for token layouts that are not recognised. It is
            applied to the gradients too, so it may only slice, reshape and permute.
        fuse: how the maps of several layers become one: ``"mean"`` or ``"max"``.

    The other arguments are those of :class:`camfast.Explainer`.

    Raises:
        TypeError: for a ``reshape`` that cannot be called.
        ValueError: for layers that the model does not have.
    """

    overwritten: bool = False
    """Whether an operation in place after a layer changes what is explained of it, as it does for plain hooks."""

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = None,
        *,
        reshape: Callable[[Tensor], Tensor] | None = None,
        fuse: Literal["mean", "max"] = "mean",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(model, **options)
        if reshape is not None and not callable(reshape):
            raise TypeError(f"reshape must be a callable, got {type(reshape).__name__}")
        if fuse not in ("mean", "max"):
            raise ValueError(f"fuse must be 'mean' or 'max', got {fuse!r}")
        self.reshape = reshape
        self.fuse = fuse
        self._quirks = Quirks()
        self._modules: list[nn.Module] = []
        if layers is not None:
            self._names, self._modules = resolve(self.model, layers)

    def layer_maps(self, images: Images, targets: Targets = None) -> LayerMaps:
        """What is there before the heatmap: the model's output, what is explained of it, and the map of each layer.

        Arguments are those of a call. :meth:`result` makes the explanation of it.
        """
        inputs = self.prepare(images)
        with self.tap() as tap:
            output = self.run(tap, inputs)
            chosen = choose(targets, scores_of(output, inputs.batch), self.class_names, output)
            return LayerMaps(inputs, chosen, self.maps(tap, chosen, inputs))

    # The steps of a call, in order.

    def explain(self, images: Images, targets: Targets, size: Size, normalize: bool) -> Explanation:
        """The call itself, without ``aug_smooth``."""
        return self.result(self.layer_maps(images, targets), size, normalize)

    def prepare(self, images: Images) -> Inputs:
        """Checks the images and settles the layers."""
        inputs = super().prepare(images)
        if not self._names:
            with _batch_hint(self.model, inputs):
                self._names, self._modules = resolve(self.model, find_layers(self.model, inputs, self.uses_gradients))
        return inputs

    def tap(self) -> Tap:
        """A tap on the layers, for one call."""
        tap = Tap(
            self.model,
            self._modules,
            names=self._names,
            graph=self.uses_gradients,
            eval_mode=self.eval_mode,
            quirks=self._quirks,
        )
        tap.overwritten = self.overwritten
        return tap

    def run(self, tap: Tap, inputs: Inputs) -> Any:
        """The pass; what the model returns."""
        with _batch_hint(self.model, inputs):
            return tap.run(inputs)

    def maps(self, tap: Tap, chosen: Chosen, inputs: Inputs) -> list[LayerMap]:
        """The map of each layer. The tap is still open, so that a method may run further passes."""
        raise NotImplementedError

    def result(self, found: LayerMaps, size: Size = None, normalize: bool = True) -> Explanation:
        """The explanation of what a call found, with ``size`` and ``normalize`` of the call."""
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
                own = reference.min_max(own.clamp(min=0), rank=len(size))
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
        layout = layout_of(activations.shape, inputs.image.shape, self.model)
        if layout is None:
            raise ValueError(
                f"layer {name!r} must give [N, C, *map] or tokens [N, T, C] that fit the image's grid, got "
                f"{list(activations.shape)} for images {list(inputs.image.shape)}; pass reshape= to turn it into a map"
            )
        if math.prod(layout.map) == 1:
            raise ValueError(
                f"layer {name!r} must give a map of several positions, got {list(activations.shape)}, which has one; name "
                "a layer before the pooling"
            )
        return layout.view

    def grids(self, tap: Tap, inputs: Inputs) -> list[Tensor]:
        """The activations of each layer as ``[N, C, *map]``."""
        return [self.to_grid(A, inputs, name)(A) for name, A in zip(self.layers, tap.activations, strict=True)]

    def use_layers_of(self, other: LayerExplainer) -> None:
        """Takes the layers of ``other``, an explainer of the same model, in place of its own."""
        self._names, self._modules = other._names, other._modules

    def close(self) -> None:
        """Ends the use of this explainer and lets go of the model; nothing is registered on it between calls."""
        super().close()
        self._modules = []


@contextlib.contextmanager
def _batch_hint(model: nn.Module, inputs: Inputs) -> Iterator[None]:
    """Errors of a single image without its batch dimension say so."""
    try:
        yield
    except Exception as error:
        convolution = next((m for m in model.modules() if isinstance(m, nn.modules.conv._ConvNd)), None)
        if convolution is None or inputs.image.ndim != convolution.weight.ndim - 1:
            raise
        dims = ", ".join(["N", "C", "D", "H", "W"] if inputs.image.ndim == 4 else ["N", "C", "H", "W"])
        raise ValueError(
            f"expected a batch [{dims}], got {list(inputs.image.shape)}; add a dimension: images[None]"
        ) from error


def _reshaped(reshape: Callable[[Tensor], Tensor], shape: torch.Size, tensor: Tensor) -> Tensor:
    """``reshape`` applied to a tensor of ``shape``, or to K of them at once."""
    if tensor.ndim > len(shape):
        return _reshaped(reshape, shape, tensor.flatten(0, 1)).unflatten(0, tensor.shape[:2])
    result = reshape(tensor)
    if not isinstance(result, Tensor) or not 3 <= result.ndim <= 5 or result.shape[0] % tensor.shape[0]:
        got = list(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise ValueError(f"reshape must turn {list(tensor.shape)} into [N, C, *map], got {got}")
    return result
