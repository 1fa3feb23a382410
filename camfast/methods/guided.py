"""Guided backpropagation, alone and times Grad-CAM: gradients of the image that only positive paths carry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model.inputs import Images, Inputs
from ..model.precision import wide
from ..model.restored import LeftOnce, thread_kept
from ..ops import reference
from ..targets import Targets
from .chosen import Chosen
from .differentiable import check_differentiable
from .explainer import Explainer, Layers, Needs, Options, Size
from .explanation import Explanation
from .gradient import GradCAM
from .image_pass import image_pass
from .layer_explainer import LayerOptions
from .layer_map import LayerMaps, SummedMap
from .ranges import Normalize, check_normalize
from .registry import register

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["GuidedBackprop", "GuidedExplanation", "GuidedGradCAM", "guided_backprop", "guided_grad_cam"]

_RELUS: set[Callable[..., Any]] = {torch.relu, torch.relu_, F.relu, F.relu_, F.relu6, Tensor.relu, Tensor.relu_}
_CLAMPS: set[Callable[..., Any]] = {F.hardtanh, F.hardtanh_}  # ReLU6 is one that starts at 0


@dataclass(repr=False, eq=False)
class GuidedExplanation(Explanation):
    """An explanation in the image's own channels.

    ``attributions`` are signed, ``[N, C, *size]`` or ``[N, K, C, *size]`` for K targets an image; ``heatmap`` is the
    sum of their absolute values over the channels, in [0, 1] (with ``normalize=False`` their plain
    sum).
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

    def __init__(self, model: nn.Module, layers: None = None, **options: Unpack[Options]) -> None:
        super().__init__(model, layers, **options)

    @thread_kept
    def __call__(
        self,
        images: Images,
        targets: Targets = None,
        size: Size = None,
        normalize: Normalize = True,
        *,
        differentiable: bool = False,
    ) -> GuidedExplanation:
        """Scores, attributions and heatmaps of ``images``; arguments as in :meth:`camfast.Explainer.__call__`.

        ``size`` is that of the heatmap; attributions have the size of the images.
        """
        check_normalize(normalize)
        if differentiable:
            check_differentiable(self)
        return self.explain(images, targets, size, normalize)

    def explain(self, images: Images, targets: Targets, size: Size, normalize: Normalize) -> GuidedExplanation:
        """The call itself."""
        inputs = self.prepare(images)
        chosen, attributions = self._gradients(inputs, targets)
        return self._result(inputs, chosen, attributions, size, normalize)

    def _gradients(self, inputs: Inputs, targets: Targets) -> tuple[Chosen, Tensor]:
        """What is explained, and the guided gradients of the image, ``[N, (K,) C, *size]``."""
        guide = _Guide()
        with image_pass(self.model, inputs, targets, self.class_names, self.eval_mode, around=guide) as run:
            found = list(run.gradients())
        if not guide.used:
            raise ValueError(f"guided backpropagation needs a ReLU, got none in {type(self.model).__name__}")
        return run.chosen, wide(found[0] if run.chosen.per_image is None else torch.stack(found, 1))

    def _result(
        self, inputs: Inputs, chosen: Chosen, attributions: Tensor, size: Size, normalize: Normalize
    ) -> GuidedExplanation:
        channel = -(inputs.image.ndim - 1)
        maps = (attributions.abs() if normalize else attributions).sum(channel)
        found = LayerMaps(inputs, chosen, [SummedMap.of(inputs.image, maps)])
        plain = self.result(found, None if size == "map" else size, normalize)
        return GuidedExplanation(**vars(plain), attributions=attributions)


guided_backprop = register(GuidedBackprop)


class GuidedGradCAM(GuidedBackprop):
    """Guided Grad-CAM: guided backpropagation times Grad-CAM (Selvaraju 2017, https://arxiv.org/abs/1610.02391).

    The Grad-CAM map is cut off at 0 and resized to the image (section 3.2). ``layers`` and the other arguments are
    those of :class:`camfast.GradCAM`. Returns a :class:`GuidedExplanation`, with attributions as captum gives them
    with ``interpolate_mode="bilinear"``.
    """

    name: ClassVar[str] = "guided_grad_cam"
    options_of: ClassVar[type | None] = GradCAM

    def __init__(self, model: nn.Module, layers: Layers = None, **options: Unpack[LayerOptions]) -> None:
        own = {name: value for name, value in options.items() if name in Options.__annotations__}
        super().__init__(model, **own)  # type: ignore[arg-type]
        self._cam = GradCAM(model, layers, **options)

    @property
    def layers(self) -> list[str]:
        """Names of the layers in use; empty until the first call has found one."""
        return self._cam.layers

    def explain(self, images: Images, targets: Targets, size: Size, normalize: Normalize) -> GuidedExplanation:
        """The call itself."""
        inputs = self.prepare(images)
        # The raw map is cut off at 0 before it is resized; the resolution is the layer's.
        coarse = self._cam(inputs, targets, size="map", normalize=False)  # type: ignore[arg-type]
        chosen, gradients = self._gradients(inputs, coarse.targets)
        heat = reference.resize(coarse.heatmap.clamp(min=0), inputs.image.shape[2:])
        return self._result(inputs, chosen, gradients * heat.unsqueeze(-(inputs.image.ndim - 1)), size, normalize)

    def close(self) -> None:
        super().close()
        self._cam.close()


guided_grad_cam = register(GuidedGradCAM)


class _Guide(LeftOnce):
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
