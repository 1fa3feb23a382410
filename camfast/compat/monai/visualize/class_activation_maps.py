"""CAM, Grad-CAM and Grad-CAM++ by MONAI's conventions: names of layers, ``layer_idx``, maps whose heat is low."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from .... import ops
from ....methods.weights import own_gradient_plus_plus_weights
from ....model.inputs import Inputs
from ....model.outputs import scores_in
from ....model.tap import Tap, unwrapped
from ... import is_strict
from .visualizer import default_upsampler

__all__ = ["CAM", "GradCAM", "GradCAMpp", "ModelWithHooks", "default_normalizer"]

Array = TypeVar("Array", Tensor, np.ndarray)


def default_normalizer(x: Array) -> Array:
    """Each sample of ``x`` ``[N, ...]`` turned over and scaled: its largest value becomes 0, its smallest 1.

    float32; a sample of one value stays as it is.
    """
    values = torch.as_tensor(x).detach().as_subclass(Tensor).float()  # type: ignore[attr-defined]
    if values.numel():
        rows = values.reshape(len(values), -1)
        low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
        values = torch.where(high == low, rows, 1 - (rows - low) / (high - low)).reshape(values.shape)
    return values if isinstance(x, Tensor) else values.numpy()  # type: ignore[return-value]


class ModelWithHooks:
    """A model whose layers are looked at during a pass.

    Args:
        nn_module: the model. target_layer_names: dotted names of layers.
        register_forward: keep what the layers return. register_backward: keep the gradients of a class's score.

    The model runs in evaluation mode, in the graph after its first layer only, and is left as it was.
    """

    def __init__(
        self,
        nn_module: nn.Module,
        target_layer_names: str | Sequence[str],
        register_forward: bool = False,
        register_backward: bool = False,
    ) -> None:
        self.model = nn_module
        self.target_layers = (target_layer_names,) if isinstance(target_layer_names, str) else tuple(target_layer_names)
        known = dict(unwrapped(nn_module, data_parallel=False).named_modules())
        missing = [name for name in self.target_layers if name not in known]
        if missing:
            raise ValueError(f"target layers must be names of {type(nn_module).__name__}'s modules, got {missing}")
        self.register_forward = register_forward
        self.register_backward = register_backward
        self.activations: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        self.score: Tensor | None = None
        self.class_idx: Any = None

    def forward_hook(self, name: str) -> Callable[..., None]:
        """A forward hook that keeps what a module returns under ``name``."""

        def keep(_module: nn.Module, _input: Any, output: Tensor) -> None:
            self.activations[name] = output

        return keep

    def backward_hook(self, name: str) -> Callable[..., None]:
        """A full backward hook that keeps the gradient of what a module returns under ``name``."""

        def keep(_module: nn.Module, _grad_input: Any, grad_output: tuple[Tensor, ...]) -> None:
            self.gradients[name] = grad_output[0]

        return keep

    def get_layer(self, layer_id: str | Callable[[nn.Module], nn.Module]) -> nn.Module:
        """A module by its dotted name, or by a function of the model."""
        if callable(layer_id):
            return layer_id(unwrapped(self.model, data_parallel=False))
        if isinstance(layer_id, str):
            for name, module in unwrapped(self.model, data_parallel=False).named_modules():
                if name == layer_id:
                    return module
        raise NotImplementedError(f"Could not find {layer_id!r} in {type(self.model).__name__}")

    def class_score(self, logits: Tensor, class_idx: Any) -> Tensor:
        """What is explained: each sample's own score, ``[N]``, of logits ``[N, classes]``.

        MONAI lets each sample's map explain the classes of the whole batch where several are given; ``strict`` does so.
        """
        classes = torch.as_tensor(class_idx, device=logits.device)
        if classes.numel() == 1 or is_strict("monai"):
            return logits[:, class_idx]
        if classes.shape != logits.shape[:1]:
            raise ValueError(f"class_idx must be one class, or one a sample, {len(logits)}, got {list(classes.shape)}")
        return logits.gather(1, classes.unsqueeze(1)).squeeze(1)

    def __call__(
        self, x: Tensor, class_idx: Any = None, retain_graph: bool = False, **kwargs: Any
    ) -> tuple[Tensor, tuple[Tensor, ...] | None, tuple[Tensor, ...] | None]:
        """Logits, and of each layer activations and gradients ``[N, C, *map]``, or None for what is not kept.

        ``class_idx`` is a class, or one a sample; None takes each sample's top class. ``kwargs`` go to the model.
        """
        layers = [self.get_layer(name) for name in self.target_layers]
        wanted = layers if self.register_forward or self.register_backward else []
        with Tap(self.model, wanted, names=self.target_layers[: len(wanted)], graph=self.register_backward) as tap:
            logits = scores_in(tap.run(Inputs((x,), kwargs, x)))
            if logits is None:
                raise TypeError(f"the model must return logits, got none from {type(self.model).__name__}")
            self.class_idx = logits.detach().max(1)[-1] if class_idx is None else class_idx
            activations = gradients = None
            if self.register_forward:
                activations = tuple(tap.activations)
                self.activations = dict(zip(self.target_layers, activations, strict=True))
            if self.register_backward:
                score = self.class_score(logits, self.class_idx)
                gradients = tuple(tap.gradients(score.sum(), keep=retain_graph))
                self.gradients = dict(zip(self.target_layers, gradients, strict=True))
                self.score = score.detach().squeeze()
        return logits.detach(), activations, gradients

    def get_wrapped_net(self) -> nn.Module:
        """The model."""
        return self.model


class CAMBase:
    """A map of one layer, resized to the image and post-processed.

    Args:
        nn_module: the model. target_layers: a layer's dotted name, or several, among which ``layer_idx`` chooses.
        upsampler: makes of the image's size a function that resizes maps ``[N, 1, *map]``.
        postprocessing: what is done to resized maps at last.
    """

    def __init__(
        self,
        nn_module: nn.Module,
        target_layers: str,
        upsampler: Callable = default_upsampler,
        postprocessing: Callable = default_normalizer,
        register_backward: bool = True,
    ) -> None:
        wrapped: Any = nn_module  # a model, or one that is wrapped already
        if not isinstance(wrapped, ModelWithHooks):
            if hasattr(wrapped, "get_wrapped_net"):  # by MONAI itself, whose name stays its own after install("monai")
                wrapped = wrapped.get_wrapped_net()
            wrapped = ModelWithHooks(wrapped, target_layers, register_forward=True, register_backward=register_backward)
        self.nn_module: ModelWithHooks = wrapped
        self.upsampler = upsampler
        self.postprocessing = postprocessing

    def feature_map_size(
        self, input_size: Sequence[int], device: Any = "cpu", layer_idx: int = -1, **kwargs: Any
    ) -> torch.Size:
        """Shape ``[N, 1, *map]`` of the map of images of ``input_size``, found by a pass over zeros."""
        return self.compute_map(torch.zeros(*input_size, device=device), layer_idx=layer_idx, **kwargs).shape

    def compute_map(self, x: Tensor, class_idx: Any = None, layer_idx: int = -1) -> Tensor:
        """The map ``[N, 1, *map]`` at the layer's own resolution."""
        raise NotImplementedError

    def _upsample_and_post_process(self, acti_map: Tensor, x: Tensor) -> Any:
        return self.postprocessing(self.upsampler(x.shape[2:])(acti_map))

    def __call__(self) -> Any:
        """Map, resize, post-process."""
        raise NotImplementedError


class CAM(CAMBase):
    """CAM (Zhou 2016): what the fully connected layer gives at each position of the last map.

    Args:
        fc_layers: that layer's name, or a function that finds it in the model.
    """

    def __init__(
        self,
        nn_module: nn.Module,
        target_layers: str,
        fc_layers: str | Callable = "fc",
        upsampler: Callable = default_upsampler,
        postprocessing: Callable = default_normalizer,
    ) -> None:
        super().__init__(nn_module, target_layers, upsampler, postprocessing, register_backward=False)
        self.fc_layers = fc_layers

    @torch.no_grad()
    def compute_map(  # type: ignore[override]
        self, x: Tensor, class_idx: Any = None, layer_idx: int = -1, **kwargs: Any
    ) -> Tensor:
        """The raw map ``[N, 1, *map]``, the layer's bias in it."""
        _, activations, _ = self.nn_module(x, class_idx=class_idx, **kwargs)
        assert activations is not None
        A = _plain(activations[layer_idx])
        classes = torch.as_tensor(self.nn_module.class_idx, device=A.device).reshape(-1).expand(len(A))
        layer = self.nn_module.get_layer(self.fc_layers)
        if isinstance(layer, nn.Linear):
            maps = ops.cam(A, layer.weight.detach()[classes], None, normalize=False).to(A.dtype)
            if layer.bias is not None:
                maps = maps + layer.bias[classes].reshape(-1, *(1,) * (A.ndim - 2))
            return maps.unsqueeze(1)
        planes = layer(A.flatten(2).mT).mT  # [N, classes, positions]
        return planes[torch.arange(len(A), device=A.device), classes].unflatten(-1, A.shape[2:]).unsqueeze(1)

    def __call__(self, x: Tensor, class_idx: Any = None, layer_idx: int = -1, **kwargs: Any) -> Any:  # type: ignore[override]
        """The map ``[N, 1, *size]`` of images ``x`` ``[N, C, *size]``, low where the class is.

        ``class_idx`` is a class, or one a sample; None takes each sample's top class. ``kwargs`` go to the model.
        """
        return self._upsample_and_post_process(self.compute_map(x, class_idx, layer_idx, **kwargs), x)


class GradCAM(CAMBase):
    """Grad-CAM (Selvaraju 2017): channels weighted by their mean gradient, cut off at 0."""

    def compute_map(  # type: ignore[override]
        self, x: Tensor, class_idx: Any = None, retain_graph: bool = False, layer_idx: int = -1, **kwargs: Any
    ) -> Tensor:
        """The map ``[N, 1, *map]``."""
        A, G = self._recorded(x, class_idx, retain_graph, layer_idx, kwargs)
        return ops.grad_cam(A, G, None, normalize=False).clamp(min=0).unsqueeze(1).to(A.dtype)

    def _recorded(
        self, x: Tensor, class_idx: Any, retain_graph: bool, layer_idx: int, options: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        _, activations, gradients = self.nn_module(x, class_idx=class_idx, retain_graph=retain_graph, **options)
        assert activations is not None and gradients is not None
        return _plain(activations[layer_idx]), _plain(gradients[layer_idx])

    def __call__(  # type: ignore[override]
        self, x: Tensor, class_idx: Any = None, layer_idx: int = -1, retain_graph: bool = False, **kwargs: Any
    ) -> Any:
        """As :meth:`CAM.__call__`. ``retain_graph`` is taken as MONAI takes it; no graph outlives the call."""
        maps = self.compute_map(x, class_idx=class_idx, retain_graph=retain_graph, layer_idx=layer_idx, **kwargs)
        return self._upsample_and_post_process(maps, x)


class GradCAMpp(GradCAM):
    """Grad-CAM++ (Chattopadhay 2018) of the exponential of the score, as in MONAI."""

    def compute_map(  # type: ignore[override]
        self, x: Tensor, class_idx: Any = None, retain_graph: bool = False, layer_idx: int = -1, **kwargs: Any
    ) -> Tensor:
        """The map ``[N, 1, *map]``."""
        A, G = self._recorded(x, class_idx, retain_graph, layer_idx, kwargs)
        assert self.nn_module.score is not None
        W = own_gradient_plus_plus_weights(A.flatten(2), G.flatten(2), 1e-7)
        W = W * _plain(self.nn_module.score).exp().reshape(-1, 1)
        return ops.cam(A, W, None, normalize=False).clamp(min=0).unsqueeze(1).to(A.dtype)


def _plain(tensor: Tensor) -> Tensor:
    """Without the metadata that MONAI's tensors carry along."""
    return tensor.as_subclass(Tensor)  # type: ignore[attr-defined]
