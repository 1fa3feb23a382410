"""``BaseCAM``: pytorch-grad-cam's protocol of overridable steps, and the way round it through camfast's engine."""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ...methods import Explainer, LayerExplainer, LayerMaps
from ...methods.weights import MapOp, weights_of
from ...model.restored import thread_kept
from ...model.untouched import quiet
from .activations_and_gradients import ActivationsAndGradients
from .strictness import is_strict
from .utils.image import scale_cam_image
from .utils.model_targets import ClassifierOutputTarget
from .utils.svd_on_activations import get_2d_projection

__all__ = ["BaseCAM", "as_it_is", "in_order", "weights_by"]

_STEPS = (
    "get_cam_weights",
    "get_cam_image",
    "get_target_width_height",
    "compute_cam_per_layer",
    "aggregate_multi_layers",
)


class _RanAgain(Exception):
    """A layer runs several times in a pass: the original takes its first run, the engine the last."""


class _Augmentation:
    """The image, perhaps mirrored, times a factor; and the map of it put right again."""

    def __init__(self, flip: bool, factor: float) -> None:
        self.flip, self.factor = flip, factor

    def augment_image(self, image: Tensor) -> Tensor:
        return (image.flip(3) if self.flip else image) * self.factor

    def deaugment_mask(self, mask: Tensor) -> Tensor:
        return mask.flip(3) if self.flip else mask


class BaseCAM:
    """A method of pytorch-grad-cam. Subclasses override steps; methods whose steps are untouched run in the engine.

    Unlike the original it leaves the model as it was after each call: mode, buffers and ``.grad``.
    """

    engine: ClassVar[type[Explainer] | None] = None  # the method in camfast
    op: ClassVar[MapOp | None] = None  # the op whose weights get_cam_weights gives

    def __init_subclass__(cls, **options: Any) -> None:
        """Gives each method of this package a constructor of its name: an unexpected argument names the class in use."""
        super().__init_subclass__(**options)
        if "__init__" not in vars(cls) and cls.__module__.startswith(__package__):
            cls.__init__ = _named(cls.__init__, f"{cls.__qualname__}.__init__")  # type: ignore[method-assign]

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
        compute_input_gradient: bool = False,
        uses_gradients: bool = True,
        tta_transforms: Iterable[Any] | None = None,
        detach: bool = True,
    ) -> None:
        self.model = model
        self.target_layers = target_layers
        self.device = next(model.parameters()).device
        on_gaudi = "hpu" in str(self.device)
        self._htcore: Any = importlib.import_module("habana_frameworks.torch.core") if on_gaudi else None
        self.reshape_transform = reshape_transform
        self.compute_input_gradient = compute_input_gradient
        self.uses_gradients = uses_gradients
        self.tta_transforms = (
            [_Augmentation(flip, factor) for flip in (False, True) for factor in (0.9, 1, 1.1)]
            if tta_transforms is None
            else tta_transforms
        )
        self.detach = detach
        self.outputs: Any = None
        self._layers_run_again = False
        self.activations_and_grads = ActivationsAndGradients(model, target_layers, reshape_transform, detach)

    @thread_kept
    def __call__(
        self, input_tensor: Tensor, targets: Any, aug_smooth: bool = False, eigen_smooth: bool = False
    ) -> np.ndarray:
        if aug_smooth is True:
            return self.forward_augmentation_smoothing(input_tensor, targets, eigen_smooth)
        return self.forward(input_tensor, targets, eigen_smooth)

    def forward(self, input_tensor: Tensor, targets: Any, eigen_smooth: bool = False) -> np.ndarray:
        """Maps ``[N, H, W]``, float32; one target an image, None for each image's top class."""
        input_tensor = input_tensor.to(self.device)
        if self.runs_in_engine(input_tensor, eigen_smooth):
            try:
                return self._by_engine(input_tensor, targets, eigen_smooth)
            except _RanAgain:
                self._layers_run_again = True
        try:
            with quiet(self.model), torch.set_grad_enabled(self.uses_gradients):
                return self._by_steps(input_tensor, targets, eigen_smooth)
        finally:
            self.activations_and_grads.taps = []  # they hold the graph
            if isinstance(self.outputs, Tensor):
                self.outputs = self.outputs.detach()

    def _by_steps(self, input_tensor: Tensor, targets: Any, eigen_smooth: bool) -> np.ndarray:
        if self.uses_gradients:  # also of a frozen model
            input_tensor = input_tensor.detach().clone().requires_grad_(input_tensor.is_floating_point())
        self.outputs = outputs = self.activations_and_grads(input_tensor)
        if targets is None:
            top = np.argmax(_array(outputs), axis=-1)
            targets = [ClassifierOutputTarget(category) for category in top]
        targets = _one_an_image(targets, len(outputs))
        if self.uses_gradients:
            self._backward(sum(t(o) for t, o in zip(targets, outputs, strict=False)), input_tensor)
        return self.aggregate_multi_layers(self.compute_cam_per_layer(input_tensor, targets, eigen_smooth))

    def forward_augmentation_smoothing(
        self, input_tensor: Tensor, targets: Any, eigen_smooth: bool = False
    ) -> np.ndarray:
        """The mean map over ``tta_transforms``."""
        maps = []
        for transform in self.tta_transforms:
            cam = torch.from_numpy(self.forward(transform.augment_image(input_tensor), targets, eigen_smooth))
            maps.append(transform.deaugment_mask(cam[:, None])[:, 0].numpy())
        return np.mean(np.asarray(maps, np.float32), axis=0)

    def get_cam_weights(
        self, input_tensor: Tensor, target_layers: Any, targets: Any, activations: Any, grads: Any
    ) -> np.ndarray:
        """Weights ``[N, C]``, or ``[N, C, *map]`` where each position has its own."""
        if self.op is None:
            raise NotImplementedError(f"{type(self).__name__} must implement get_cam_weights or get_cam_image")
        return weights_by(self.op, activations, grads)

    def get_cam_image(
        self,
        input_tensor: Tensor,
        target_layer: Any,
        targets: Any,
        activations: Any,
        grads: Any,
        eigen_smooth: bool = False,
    ) -> np.ndarray:
        """The raw map ``[N, *map]`` of one layer."""
        weights = self.get_cam_weights(input_tensor, target_layer, targets, activations, grads)
        if isinstance(activations, Tensor):
            activations = activations.detach().cpu().numpy()
        activations = as_it_is(activations)
        weighted = weights.reshape(*weights.shape, *(1,) * (activations.ndim - weights.ndim)) * activations
        return get_2d_projection(weighted) if eigen_smooth else weighted.sum(axis=1)

    def get_target_width_height(self, input_tensor: Tensor) -> tuple[int, ...]:
        """The size of the heatmap, the last dimension first."""
        if input_tensor.ndim not in (4, 5):
            raise ValueError(f"input_tensor must have 4 or 5 dimensions, got {input_tensor.ndim}")
        return tuple(input_tensor.shape[:1:-1])

    def compute_cam_per_layer(self, input_tensor: Tensor, targets: Any, eigen_smooth: bool) -> Any:
        """Each layer's map from 0 to 1 at the full size, ``[N, 1, *size]``."""
        record, size = self.activations_and_grads, self.get_target_width_height(input_tensor)
        activations, grads = in_order(record, self.target_layers)
        if self.detach:
            activations, grads = [_array(a) for a in activations], [_array(g) for g in grads]
        maps = []
        for i, layer in enumerate(self.target_layers):
            own = activations[i] if i < len(activations) else None
            gradient = grads[i] if i < len(grads) else None
            cam = self.get_cam_image(input_tensor, layer, targets, own, gradient, eigen_smooth)
            maps.append(scale_cam_image(np.maximum(cam, 0), size)[:, None])
        return maps

    def aggregate_multi_layers(self, cam_per_target_layer: Any) -> np.ndarray:
        """The mean over layers, from 0 to 1."""
        return scale_cam_image(np.maximum(np.concatenate(cam_per_target_layer, axis=1), 0).mean(axis=1))

    def engine_options(self) -> dict[str, Any]:
        """What the engine's class takes besides the model, layers and reshape."""
        return {}

    def __enter__(self) -> BaseCAM:
        return self

    def __exit__(self, exc_type: Any, exc_value: Any, exc_tb: Any) -> bool | None:
        self.activations_and_grads.release()
        if isinstance(exc_value, IndexError):
            print(f"An exception occurred in CAM with block: {exc_type}. Message: {exc_value}")
            return True
        return None

    def __del__(self) -> None:
        if "activations_and_grads" in self.__dict__:
            self.activations_and_grads.release()

    def engine_explainer(self, layers: Sequence[nn.Module], eigen_smooth: bool = False) -> Explainer:
        """The engine's explainer of this method."""
        assert self.engine is not None and issubclass(self.engine, LayerExplainer)
        options: dict[str, Any] = (
            {"eigen_smooth": True} if eigen_smooth and "eigen_smooth" in self.engine.smoothing else {}
        )
        # Without a transform activations are taken as they are, also where the engine would see tokens or a single place.
        reshape = as_it_is if self.reshape_transform is None else self.reshape_transform
        return self.engine(self.model, list(layers), reshape=reshape, **self.engine_options(), **options)

    def engine_weights(self, input_tensor: Tensor, target_layer: nn.Module, targets: Any) -> np.ndarray:
        """The engine's weights ``[N, C]`` for one layer, by a pass of its own."""
        explainer = self.engine_explainer([target_layer])
        assert isinstance(explainer, LayerExplainer)
        (layer,) = self._layer_maps(explainer, input_tensor, targets).maps
        return layer.weights.detach().float().cpu().numpy()

    def engine_fits(self, eigen_smooth: bool) -> bool:
        """Whether the engine does what this object was made for; layers of other methods may return structures."""
        return self.uses_gradients or self.reshape_transform is None

    def runs_in_engine(self, input_tensor: Tensor, eigen_smooth: bool) -> bool:
        """Whether the engine gives what the steps would: none of them is overridden below the method's own class."""
        if self.engine is None or is_strict() or type(self.activations_and_grads) is not ActivationsAndGradients:
            return False
        own = next(kind for kind in type(self).__mro__ if "engine" in vars(kind))
        untouched = all(getattr(type(self), s) is getattr(own, s) and s not in vars(self) for s in _STEPS)
        fits = input_tensor.ndim == 4 and not self._layers_run_again
        return untouched and fits and self.engine_fits(eigen_smooth)

    def _by_engine(self, input_tensor: Tensor, targets: Any, eigen_smooth: bool) -> np.ndarray:
        explainer = self.engine_explainer(self.target_layers, eigen_smooth)
        if isinstance(explainer, LayerExplainer):
            found = self._layer_maps(explainer, input_tensor, targets)
            result = explainer.result(found)
            self.activations_and_grads.keep(found.maps, self.uses_gradients)
        else:
            result = explainer(input_tensor, _one_an_image(targets, len(input_tensor)))
            self.activations_and_grads.clear()
            self.outputs = result.scores
        return result.heatmap.float().cpu().numpy()

    def _layer_maps(self, explainer: LayerExplainer, input_tensor: Tensor, targets: Any) -> LayerMaps:
        """The layers' maps before they are one; notes the model's output."""
        targets = None if targets is None else list(targets)
        if targets is not None and len(targets) < len(input_tensor):
            raise _RanAgain  # one per row of scores, perhaps: the steps know how many there are
        with self.activations_and_grads.counting(explainer.model) as calls:
            found = explainer.layer_maps(input_tensor, _one_an_image(targets, len(input_tensor)))
        if found.shared > 1 or any(count > 1 for count in calls.values()):
            raise _RanAgain
        self.outputs = found.output.detach() if isinstance(found.output, Tensor) else found.output
        return found

    def _backward(self, loss: Any, input_tensor: Tensor) -> None:
        """Gradients of the layers through the hooks there; of the image, too, where it was asked for. No parameter's."""
        taps = self.activations_and_grads.taps
        # Where an operation in place has changed a tap, its hook lies on the way to the image.
        to_image = self.compute_input_gradient or is_strict()
        wanted = [*taps, input_tensor] if to_image else taps
        if not wanted:
            return
        found = torch.autograd.grad(loss, wanted, retain_graph=True, create_graph=not self.detach, allow_unused=True)
        if self.compute_input_gradient:
            input_tensor.grad = found[-1]
        if self._htcore is not None:  # a Gaudi runs what was noted when it is told to
            self._htcore.mark_step()


def _named(function: Any, name: str) -> Any:
    """The same function under another name."""
    same = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    same.__kwdefaults__, same.__annotations__, same.__doc__ = (
        function.__kwdefaults__,
        function.__annotations__,
        function.__doc__,
    )
    same.__qualname__ = name
    return same


def weights_by(op: MapOp, activations: Any, grads: Any) -> np.ndarray:
    """The weights ``[N, C]``, or ``[N, C, *map]``, that ``op`` multiplies activations ``[N, C, *map]`` by."""
    return weights_of(op, torch.as_tensor(activations).detach(), torch.as_tensor(grads).detach()).numpy()


def as_it_is(activations: Any) -> Any:
    """``[N, C, *map]`` of a picture or a volume, checked to be that."""
    if activations.ndim not in (4, 5):
        raise ValueError(f"activations must have 4 or 5 dimensions, got {activations.ndim}; use reshape_transform")
    return activations


def _array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    return (tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()).numpy()


def _one_an_image(targets: Any, batch: int) -> Any:
    if targets is None:
        return None
    targets = list(targets)
    if len(targets) < batch and not is_strict():
        raise ValueError(f"targets must be one an image, {batch}, got {len(targets)}")
    return targets[:batch]


def in_order(record: ActivationsAndGradients, layers: Sequence[nn.Module]) -> tuple[list[Any], list[Any]]:
    """Activations and gradients in the order of ``layers``, where each of them ran once."""
    activations, grads, ran = record.activations, record.gradients, record.ran
    if len(ran) != len(layers) or len(set(ran)) != len(ran) or is_strict():
        return activations, grads
    order = [ran.index(layer) for layer in layers]
    return [activations[i] for i in order], [grads[i] for i in order] if len(grads) == len(order) else grads
