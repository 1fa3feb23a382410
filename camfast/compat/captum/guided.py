"""Guided backpropagation as captum does it: behind ``nn.ReLU`` modules alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ...model.restored import Restored

__all__ = ["guided_modules"]


@contextlib.contextmanager
def guided_modules(model: nn.Module) -> Iterator[None]:
    """Gradients of passes of ``model`` inside lose their negative part behind every ``nn.ReLU``, and nowhere else."""

    def note(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(_positive)

    with Restored() as restored:
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                restored.hook(module, note)
        yield


def _positive(gradient: Tensor) -> Tensor:
    return gradient.clamp(min=0)
