"""Guided backpropagation as captum does it: behind ``nn.ReLU`` modules alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

__all__ = ["guided_modules"]


@contextlib.contextmanager
def guided_modules(model: nn.Module) -> Iterator[None]:
    """Gradients of passes of ``model`` inside lose their negative part behind every ``nn.ReLU``, and nowhere else."""

    def note(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(_positive)

    with contextlib.ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                stack.callback(module.register_forward_hook(note).remove)
        yield


def _positive(gradient: Tensor) -> Tensor:
    return gradient.clamp(min=0)
