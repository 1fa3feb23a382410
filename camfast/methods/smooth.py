"""Gradients averaged over noisy inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from .. import ops
from ..model.inputs import Inputs
from ..model.precision import wide, wide_dtype
from ..model.tap import Tap
from ..ops import reference
from .chosen import Chosen
from .explainer import Layers, Needs
from .layer_explainer import LayerExplainer, LayerOptions
from .layer_map import LayerMap, joined
from .registry import register

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["SmoothGradCAMPlusPlus", "smooth_grad_cam_plus_plus"]

_SMOOTH_EPS = 1e-8
_ELEMENTS = 2**25  # of gradients at once, 128 MB in fp32


class SmoothGradCAMPlusPlus(LayerExplainer):
    """Smooth Grad-CAM++: Grad-CAM++ with powers of gradients averaged over noisy inputs (Omeiza 2019, https://arxiv.org/abs/1908.01224).

    Equal to torchcam's: ``a = m2 / (2 m2 + sum(A * m3) + 1e-8)`` with the mean squares m2 and cubes m3 of the gradients
    over ``samples`` inputs with Gaussian noise of standard deviation ``std``; a channel's weight is
    ``sum(a * relu(gradient))``. The gradient in it, and the activations that are weighed, are those of the last noisy
    input. Noise comes from PyTorch's global generator of the CPU, or from one of its own with ``seed``.
    """

    name: ClassVar[str] = "smooth_grad_cam_plus_plus"
    needs: ClassVar[Needs] = "images"

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = None,
        *,
        samples: int = 4,
        std: float = 0.3,
        seed: int | None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(model, layers, **options)
        if not isinstance(samples, int) or samples < 1:
            raise ValueError(f"samples must be a positive int, got {samples!r}")
        if not std >= 0:
            raise ValueError(f"std must not be negative, got {std!r}")
        self.samples, self.std, self.seed = samples, float(std), seed

    def maps(self, tap: Tap, chosen: Chosen, inputs: Inputs) -> list[LayerMap]:
        views = [self.to_grid(A, inputs, name) for name, A in zip(self.layers, tap.activations, strict=True)]
        clean = [wide(view(A)) for view, A in zip(views, tap.activations, strict=True)]
        seed = self.seed
        at_once = max(1, _ELEMENTS // max(sum(A.numel() for A in clean), chosen.scores.numel()))
        if chosen.per_image is None or chosen.per_image <= at_once:
            return self._part(tap, chosen, inputs, views, clean, seed)
        # Gradients of so many targets do not fit at once: the same noise again for each part of them.
        seed = int(torch.randint(2**62, ())) if seed is None else seed
        parts = []
        for start in range(0, chosen.per_image, at_once):
            own = self._part(tap, chosen.part(start, start + at_once), inputs, views, clean, seed)
            parts.append([layer.summed(self.eigen_smooth) for layer in own])
        return [joined(of_layer) for of_layer in zip(*parts, strict=True)]

    def _part(
        self, tap: Tap, chosen: Chosen, inputs: Inputs, views: list[Any], clean: list[Tensor], seed: int | None
    ) -> list[LayerMap]:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        squares: list[Any] = [0] * len(views)
        cubes: list[Any] = [0] * len(views)
        for _ in range(self.samples):
            noisy = chosen.after(tap.run(_noisy(inputs, self.std, generator)))
            found = tap.gradients(*noisy.objective())
            gradients = [_targets_second(wide(view(g)), chosen) for view, g in zip(views, found, strict=True)]
            squares = [total + g**2 for total, g in zip(squares, gradients, strict=True)]
            cubes = [total + g**3 for total, g in zip(cubes, gradients, strict=True)]
        maps = []
        for view, A, m2, m3, g, noisy in zip(views, clean, squares, cubes, gradients, tap.activations, strict=True):
            m2, m3 = m2 / self.samples, m3 / self.samples
            rank = A.ndim - 2
            per_target = A if chosen.per_image is None else A.unsqueeze(1)
            total = (m3 * per_target).flatten(-rank).sum(-1)[(...,) + (None,) * rank]
            alpha = m2 / (2 * m2 + total + _SMOOTH_EPS)
            maps.append(LayerMap(ops.cam, view(noisy), (alpha * reference.positive(g)).flatten(-rank).sum(-1)))
        return maps


smooth_grad_cam_plus_plus = register(SmoothGradCAMPlusPlus)


def _targets_second(gradients: Tensor, chosen: Chosen) -> Tensor:
    return gradients if chosen.per_image is None else gradients.transpose(0, 1)


def _noisy(inputs: Inputs, std: float, generator: torch.Generator | None) -> Inputs:
    """The same call with noise on the image; drawn on the CPU, so that every device explains the same."""
    image = inputs.image
    noise = torch.randn(image.shape, generator=generator, dtype=wide_dtype(image)) * std
    return inputs.with_image(image.detach() + noise.to(image))
