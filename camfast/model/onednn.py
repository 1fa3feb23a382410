"""A network without a gradient, as fast as the CPU runs it: fused by oneDNN Graph.

oneDNN's convolutions are fastest in a blocked layout of the processor's own. Run one by one they convert each input and output
from and to the usual layout. oneDNN Graph runs whole chains of them, normalisation, activation and residual sum included, and
stays in the blocked layout between. Torch offers it through TorchScript alone.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .restored import Restored

__all__ = ["fused", "fused_if_faster"]

WARM_UP = 4  # passes: the first ones observe shapes, the next one compiles
TURNS = 5  # passes of each in the comparison


def fused_if_faster(network: nn.Module, images: Tensor) -> Callable[[Tensor], Tensor] | None:
    """:func:`fused`, or None where it cannot be had or is not faster than ``network`` itself, measured in turns."""
    if images.device.type != "cpu" or images.dtype != torch.float32 or not hasattr(torch, "jit"):
        return None
    try:
        script = fused(network, images)
    except Exception:  # TorchScript's own, of many kinds
        return None
    runs: tuple[Callable[[Tensor], Tensor], ...] = (network, script)
    best = [float("inf")] * 2
    with torch.no_grad():
        for _ in range(TURNS):
            for i, run in enumerate(runs):
                start = time.perf_counter()
                run(images)
                best[i] = min(best[i], time.perf_counter() - start)
    return script if best[1] < best[0] else None


def fused(network: nn.Module, images: Tensor) -> Callable[[Tensor], Tensor]:
    """``network`` with its weights of now, fused for inputs of the shape, dtype and layout of ``images`` (fp32, CPU).

    It runs without a graph. Raises what TorchScript raises for what it does not know, and ``ValueError`` where the result
    is another.
    """
    before = torch.jit.onednn_fusion_enabled()
    with warnings.catch_warnings(), torch.no_grad(), Restored() as restored:
        warnings.simplefilter("ignore")  # that TorchScript is old, and that Python values become constants
        expected = network(images)
        restored.back(lambda: torch.jit.enable_onednn_fusion(before))
        torch.jit.enable_onednn_fusion(True)
        traced: Any = torch.jit.trace(network, images, check_trace=False)
        script: Any = torch.jit.freeze(traced.eval())
        for _ in range(WARM_UP):
            found = script(images)
    scale = float(expected.abs().amax())
    if not torch.allclose(found, expected, rtol=0, atol=1e-3 * max(scale, 1e-6), equal_nan=True):
        raise ValueError("the fused network gave other activations")
    return script
