"""Class-activation maps by plain autograd, of a layer whose axes the test knows: what camfast's must equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["assert_map", "calls", "grad_cam", "peak_in"]


def calls(model: nn.Module, layer: str, inputs: Sequence[Any], score: Callable[[Any], Tensor]) -> list[tuple]:
    """Activations and gradients of every call of ``layer`` in one pass, in order; ``score`` sums over the images."""
    kept: list[Tensor] = []
    module = model.get_submodule(layer)
    handle = module.register_forward_hook(lambda m, a, out: kept.append(out[0] if isinstance(out, tuple) else out))
    try:
        with torch.enable_grad():
            value = score(model(*inputs))
    finally:
        handle.remove()
    return [(A.detach(), G) for A, G in zip(kept, torch.autograd.grad(value, kept), strict=True)]


def grad_cam(
    model: nn.Module,
    layer: str,
    inputs: Sequence[Any],
    score: Callable[[Any], Tensor],
    channels: int = 1,
    call: int = -1,
) -> Tensor:
    """The raw map of one call: gradients averaged over positions weigh the channels, which are dimension ``channels``."""
    A, G = (t.movedim(channels, 1) for t in calls(model, layer, inputs, score)[call])
    return (G.mean(tuple(range(2, G.ndim)), keepdim=True) * A).sum(1)


def assert_map(found: Tensor, wanted: Tensor) -> None:
    """Equal up to rounding, whatever the values' range."""
    assert found.shape == wanted.shape, (tuple(found.shape), tuple(wanted.shape))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def peak_in(heat: Tensor, box: Sequence[float]) -> bool:
    """Whether the peak of ``[H, W]`` lies in the box ``(left, top, right, bottom)``."""
    row, column = divmod(int(heat.argmax()), heat.shape[1])
    return box[0] <= column <= box[2] and box[1] <= row <= box[3]
