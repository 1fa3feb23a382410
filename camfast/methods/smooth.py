"""Methods of several gradients, over noisy inputs or of second order; and random weights to compare with."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import ops
from ..inputs import Inputs
from ..taps import Tap
from ..targets import Chosen
from .base import Explainer, LayerMap, Needs, joined
from .registry import register

__all__ = ["RandomCAM", "ShapleyCAM", "SmoothGradCAMPlusPlus", "random_cam", "shapley_cam", "smooth_grad_cam_plus_plus"]

_SMOOTH_EPS = 1e-8
_ELEMENTS = 2**25  # of gradients at once, 128 MB in fp32


class SmoothGradCAMPlusPlus(Explainer):
    """Smooth Grad-CAM++: Grad-CAM++ with powers of gradients averaged over noisy inputs (Omeiza 2019, https://arxiv.org/abs/1908.01224).

    Equal to torchcam's: ``a = m2 / (2 m2 + sum(A * m3) + 1e-8)`` with the mean squares m2 and cubes m3 of the gradients
    over ``samples`` inputs with Gaussian noise of standard deviation ``std``; a channel's weight is
    ``sum(a * relu(gradient))``. The gradient in it, and the activations that are weighed, are those of the last noisy
    input. Noise comes from PyTorch's global generator of the CPU, or from one of its own with ``seed``.
    """

    name: ClassVar[str] = "smooth_grad_cam_plus_plus"
    needs: ClassVar[Needs] = "images"

    def __init__(self, *args: Any, samples: int = 4, std: float = 0.3, seed: int | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        if not isinstance(samples, int) or samples < 1:
            raise ValueError(f"samples must be a positive int, got {samples!r}")
        if not std >= 0:
            raise ValueError(f"std must not be negative, got {std!r}")
        self.samples, self.std, self.seed = samples, float(std), seed

    def maps(self, tap: Tap, chosen: Chosen, inputs: Inputs) -> list[LayerMap]:
        views = [self.to_grid(A, inputs, name) for name, A in zip(self.layers, tap.activations, strict=True)]
        clean = [_wide(view(A)) for view, A in zip(views, tap.activations, strict=True)]
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
            gradients = [_targets_second(_wide(view(g)), chosen) for view, g in zip(views, found, strict=True)]
            squares = [total + g**2 for total, g in zip(squares, gradients, strict=True)]
            cubes = [total + g**3 for total, g in zip(cubes, gradients, strict=True)]
        maps = []
        for view, A, m2, m3, g, noisy in zip(views, clean, squares, cubes, gradients, tap.activations, strict=True):
            m2, m3 = m2 / self.samples, m3 / self.samples
            rank = A.ndim - 2
            per_target = A if chosen.per_image is None else A.unsqueeze(1)
            total = (m3 * per_target).flatten(-rank).sum(-1)[(...,) + (None,) * rank]
            alpha = m2 / (2 * m2 + total + _SMOOTH_EPS)
            maps.append(LayerMap(ops.cam, view(noisy), (alpha * g.clamp(min=0)).flatten(-rank).sum(-1)))
        return maps


smooth_grad_cam_plus_plus = register(SmoothGradCAMPlusPlus)


class RandomCAM(Explainer):
    """Random-CAM: weights drawn uniformly from -1 to 1, a baseline that a method should beat.

    Drawn anew at each call from PyTorch's global generator of the CPU; with ``seed`` they are the same each time.
    """

    name: ClassVar[str] = "random_cam"
    needs: ClassVar[Needs] = "activations"
    uses_gradients: ClassVar[bool] = False

    def __init__(self, *args: Any, seed: int | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.seed = seed

    def maps(self, tap: Tap, chosen: Chosen, inputs: Inputs) -> list[LayerMap]:
        generator = None if self.seed is None else torch.Generator().manual_seed(self.seed)
        maps = []
        for name, A in zip(self.layers, tap.activations, strict=True):
            grid = self.to_grid(A, inputs, name)(A)
            shape = (grid.shape[0], *([] if chosen.per_image is None else [chosen.per_image]), grid.shape[1])
            weights = torch.rand(shape, generator=generator) * 2 - 1
            maps.append(LayerMap(ops.cam, grid, weights.to(grid.device)))
        return maps


random_cam = register(RandomCAM)


class ShapleyCAM(Explainer):
    """Shapley-CAM: a channel's weight is the mean of gradient minus half the Hessian times the activations (Cai 2025, https://arxiv.org/abs/2501.06261).

    The second derivative goes through the layers after the first one explained, never through the trunk. For a head
    that is linear in the activations it is zero, and the map that of Grad-CAM.
    """

    name: ClassVar[str] = "shapley_cam"

    def tap(self) -> Tap:
        return _SecondOrderTap(
            self.model,
            self._modules,
            names=self._names,
            eval_mode=self.eval_mode,
            quirks=self._quirks,
        )

    def maps(self, tap: Tap, chosen: Chosen, inputs: Inputs) -> list[LayerMap]:
        assert isinstance(tap, _SecondOrderTap)
        views = [self.to_grid(A, inputs, name) for name, A in zip(self.layers, tap.activations, strict=True)]
        each = [chosen] if chosen.per_image is None else [chosen.column(k) for k in range(chosen.per_image)]
        rows = []
        for k, own in enumerate(each):
            found = tap.corrected_gradients(*own.objective(), keep=k < len(each) - 1)
            rows.append([_wide(view(g)).flatten(2).mean(2) for view, g in zip(views, found, strict=True)])
        columns = zip(*rows, strict=True)
        weights = [of_layer[0] if chosen.per_image is None else torch.stack(of_layer, 1) for of_layer in columns]
        return [LayerMap(ops.cam, view(A), w) for view, A, w in zip(views, tap.activations, weights, strict=True)]


shapley_cam = register(ShapleyCAM)


class _SecondOrderTap(Tap):
    """A tap that differentiates twice."""

    def corrected_gradients(self, outputs: Tensor, seed: Tensor | None, keep: bool = False) -> list[Tensor]:
        """For each layer ``gradient - 0.5 * Hessian @ activations``, in its own layout."""
        leaves = [self._kept(layer) for layer in self.layers]
        with torch.enable_grad():
            score = outputs if seed is None else (outputs * seed).sum()
            gradients = torch.autograd.grad(score, leaves, create_graph=True, allow_unused=True)
            corrected = []
            for name, leaf, gradient in zip(self.names, leaves, gradients, strict=True):
                if gradient is None:
                    raise ValueError(f"the scores must depend on every layer, got no gradient for {name!r}")
                product = None
                if gradient.requires_grad:
                    (product,) = torch.autograd.grad(
                        gradient, leaf, leaf.detach(), retain_graph=True, allow_unused=True
                    )
                corrected.append((gradient if product is None else gradient - 0.5 * product).detach())
        return corrected


def _wide(tensor: Tensor) -> Tensor:
    """In fp32, or fp64 as it is: powers of half-precision gradients would vanish."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _targets_second(gradients: Tensor, chosen: Chosen) -> Tensor:
    return gradients if chosen.per_image is None else gradients.transpose(0, 1)


def _noisy(inputs: Inputs, std: float, generator: torch.Generator | None) -> Inputs:
    """The same call with noise on the image; drawn on the CPU, so that every device explains the same."""
    image = inputs.image
    noise = torch.randn(image.shape, generator=generator, dtype=_noise_dtype(image)) * std
    return inputs.with_image(image.detach() + noise.to(image))


def _noise_dtype(image: Tensor) -> torch.dtype:
    return torch.float64 if image.dtype == torch.float64 else torch.float32
