"""The layer that is explained where none is named."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ....model.restored import Restored
from ....model.tap import hookable
from ....model.untouched import quiet

__all__ = ["locate_candidate_layer"]


@contextlib.contextmanager
def _model_eval(model: nn.Module) -> Iterator[None]:
    """``model`` in evaluation mode inside; each module's own mode afterwards."""
    with Restored() as restored:
        for module in model.modules():
            restored.set(module, "training", module.training)
        model.eval()
        yield


def locate_candidate_layer(mod: nn.Module, input_shape: tuple[int, ...] = (3, 224, 224)) -> str | None:
    """Name of the last module that returns a map with more than one position, or None.

    Found by a pass over zeros of ``input_shape`` (without the batch dimension); the model is left as it was. As in torchcam
    a model without parameters raises ``StopIteration``: nothing says on which device it computes.
    """
    found: list[str] = []
    rank = len(input_shape) + 1

    def note(name: str, _module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == rank and any(side != 1 for side in output.shape[2:]):
            found.append(name)

    device = next(mod.parameters()).device
    with _model_eval(mod), quiet(mod), torch.no_grad(), Restored() as restored:
        for name, module in hookable(mod):
            restored.hook(module, functools.partial(note, name))
        mod(torch.zeros(1, *input_shape, device=device))
    return found[-1] if found else None
