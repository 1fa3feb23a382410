"""Heat with a graph by hand: the layer's output kept, a gradient with create_graph through the whole network, the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from camfast.ops import reference

__all__ = ["RULES", "assert_same_gradients", "gradients_of", "plain_heat"]

RULES = ("grad_cam", "grad_cam_plus_plus", "xgrad_cam", "hires_cam", "layer_cam", "grad_cam_elementwise")


def plain_heat(
    model: nn.Module,
    layer: str,
    images: Any,
    targets: Tensor,
    rule: str = "grad_cam",
    size: Any = None,
    normalize: bool = True,
    grid: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    autocast: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """``(scores, heatmap)`` of classes ``[N]`` or ``[N, K]``; the heatmap has the images' size where ``size`` is None."""
    kept: list[Tensor] = []
    images = images if images.requires_grad else images.clone().requires_grad_()  # a frozen trunk has a graph by this

    def keep(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()

    handle = model.get_submodule(layer).register_forward_hook(keep)
    try:
        with torch.autocast("cpu", autocast, enabled=autocast is not None):
            scores = model(images)
    finally:
        handle.remove()
    columns = targets if targets.ndim == 2 else targets[:, None]
    gradients = []
    for column in columns.T:
        score = scores.gather(1, column[:, None]).sum()
        gradients.append(torch.autograd.grad(score, kept[-1], create_graph=True)[0])
    A = grid(kept[-1])
    G = torch.stack([grid(gradient) for gradient in gradients], 1) if targets.ndim == 2 else grid(gradients[0])
    size = tuple(images.shape[2:]) if size is None else size
    return scores, getattr(reference, rule)(A, G, size, normalize)


def gradients_of(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Of every parameter that takes one, zeros where none came; ``.grad`` is left empty."""
    model.zero_grad()
    loss.backward()
    found = {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    model.zero_grad()
    return found


def assert_same_gradients(found: dict[str, Tensor], wanted: dict[str, Tensor], relative: float = 1e-5) -> None:
    """Each gradient equals the wanted one up to ``relative`` of its own norm; some part must be there to be compared.

    A norm may be rounding alone, as of a bias before a batch norm: such are measured by the largest of all gradients.
    """
    assert found.keys() == wanted.keys()
    largest = max(float(gradient.norm()) for gradient in wanted.values())
    assert largest > 0
    for name, gradient in wanted.items():
        noise = largest * torch.finfo(gradient.dtype).eps * 10
        error = float((found[name] - gradient).norm())
        assert error <= relative * float(gradient.norm()) + noise, f"{name}: {error} of {float(gradient.norm())}"
