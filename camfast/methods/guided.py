"""Guided backpropagation, alone and times Grad-CAM: gradients of the image that only positive paths carry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .. import ops
from ..model.inputs import Images, Inputs
from ..ops import reference
from ..targets import Targets
from .explainer import Explainer, LayerMap, Needs, Size
from .explanation import Explanation
from .gradient import GradCAM
from .image_pass import image_pass
from .registry import register

__all__ = ["GuidedBackprop", "GuidedExplanation", "GuidedGradCAM", "guided_backprop", "guided_grad_cam"]

_RELUS: set[Callable[..., Any]] = {torch.relu, torch.relu_, F.relu, F.relu_, F.relu6, Tensor.relu, Tensor.relu_}
_CLAMPS: set[Callable[..., Any]] = {F.hardtanh, F.hardtanh_}  # ReLU6 is one that starts at 0


@dataclass(repr=False, eq=False)
class GuidedExplanation(Explanation):
    """An explanation in the image's own channels.

    ``attributions`` are signed, ``[N, C, *size]`` or ``[N, K, C, *size]`` for K targets an image; ``heatmap`` is the
    sum of their absolute values over the channels, scaled to [0, 1] (with ``normalize=False`` their plain sum).
    """

    attributions: Tensor | None = None


class GuidedBackprop(Explainer):
    """Guided backpropagation: gradients of the image, cut off at 0 behind every ReLU (Springenberg 2015, https://arxiv.org/abs/1412.6806).

    Every ``nn.ReLU`` and ``nn.ReLU6`` takes part and every such call in the model's code, without replacing modules. The
    model must have one. Layers cannot be chosen. Returns a :class:`GuidedExplanation`.
    """

    name: ClassVar[str] = "guided_backprop"
    needs: ClassVar[Needs] = "image gradients"
    smoothing: ClassVar[tuple[str, ...]] = ()

    def __init__(self, model: nn.Module, layers: None = None, **options: Any) -> None:
        if layers is not None:
            raise ValueError(f"GuidedBackprop explains the image itself, got layers={layers!r}; leave it out")
        super().__init__(model, None, **options)

    def prepare(self, images: Images, targets: Targets = None) -> Inputs:
        """Checks the images; no layer is needed."""
        if self._closed:
            raise RuntimeError(f"this {type(self).__name__} is closed")
        return Inputs.of(images, self.model)

    def __call__(
        self, images: Images, targets: Targets = None, size: Size = None, normalize: bool = True
    ) -> GuidedExplanation:
        """Scores, attributions and heatmaps of ``images``; arguments as in :meth:`camfast.Explainer.__call__`.

        ``size`` is that of the heatmap; attributions have the size of the images.
        """
        inputs = self.prepare(images)
        guide = _Guide()
        with image_pass(self.model, inputs, targets, self.class_names, self.eval_mode, around=guide) as run:
            found = list(run.gradients())
        if not guide.used:
            raise ValueError(f"guided backpropagation needs a ReLU, got none in {type(self.model).__name__}")
        attributions = found[0] if run.chosen.per_image is None else torch.stack(found, 1)
        return self._result(inputs, run.scores.detach(), run.chosen.targets, attributions, size, normalize)

    def _result(
        self, inputs: Inputs, scores: Tensor, targets: Any, attributions: Tensor, size: Size, normalize: bool
    ) -> GuidedExplanation:
        wide = attributions if attributions.dtype == torch.float64 else attributions.float()
        channel = -(inputs.image.ndim - 1)
        maps = (wide.abs() if normalize else wide).sum(channel)
        layer = LayerMap(_resized, inputs.image, maps)
        full = self.output_size(None if size == "map" else size, [layer], inputs)
        return GuidedExplanation(
            heatmap=layer(full, normalize),
            scores=scores,
            targets=targets,
            layers=self.layers,
            method=self.name,
            images=inputs.image,
            class_names=self.class_names,
            attributions=wide,
        )


guided_backprop = register(GuidedBackprop)


class GuidedGradCAM(GuidedBackprop):
    """Guided Grad-CAM: guided backpropagation times Grad-CAM (Selvaraju 2017, https://arxiv.org/abs/1610.02391).

    The Grad-CAM map is cut off at 0 and resized to the image (section 3.2). ``layers`` and the other arguments are
    those of :class:`camfast.GradCAM`. Returns a :class:`GuidedExplanation`, with attributions as captum gives them
    with ``interpolate_mode="bilinear"``.
    """

    name: ClassVar[str] = "guided_grad_cam"

    def __init__(self, model: nn.Module, layers: Any = None, **options: Any) -> None:
        super().__init__(model, None, **options)
        self._cam = GradCAM(model, layers, **options)

    @property
    def layers(self) -> list[str]:
        """Names of the layers in use; empty until the first call has found one."""
        return self._cam.layers

    def __call__(
        self, images: Images, targets: Targets = None, size: Size = None, normalize: bool = True
    ) -> GuidedExplanation:
        """As :meth:`GuidedBackprop.__call__`."""
        inputs = self.prepare(images)
        # The raw map is cut off at 0 before it is resized; the resolution is the layer's.
        coarse = self._cam(inputs, targets, size="map", normalize=False)  # type: ignore[arg-type]
        guided = super().__call__(inputs, coarse.targets, normalize=False)  # type: ignore[arg-type]
        assert guided.attributions is not None
        heat = reference.resize(coarse.heatmap.clamp(min=0), inputs.image.shape[2:])
        product = guided.attributions * heat.unsqueeze(-(inputs.image.ndim - 1))
        return self._result(inputs, guided.scores, guided.targets, product, size, normalize)

    def close(self) -> None:
        super().close()
        self._cam.close()


guided_grad_cam = register(GuidedGradCAM)


class _Guide(TorchFunctionMode):
    """While it is active in a thread, gradients that arrive at the output of a ReLU lose their negative part."""

    def __init__(self) -> None:
        super().__init__()
        self.used = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        rectified = func in _RELUS or (func in _CLAMPS and _least(*args, **(kwargs or {})) == 0)
        if rectified and isinstance(output, Tensor) and output.requires_grad:
            self.used = True
            output.register_hook(_positive)
        return output


def _least(input: Tensor, min_val: float = -1.0, *rest: Any, **options: Any) -> float:
    return min_val


def _positive(gradient: Tensor) -> Tensor:
    return gradient.clamp(min=0)


def _resized(image: Tensor, maps: Tensor, size: Any, normalize: bool) -> Tensor:
    return ops.resize_normalize(maps, tuple(maps.shape[-(image.ndim - 2) :]) if size is None else size, normalize)
