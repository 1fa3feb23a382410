"""All tensors that one layer takes in or gives out during a pass, as starting points of the graph.

A :class:`camfast.model.tap.Tap` looks at the map of each of several layers; this looks at everything of one, of any shape:
layers that return tuples, and linear ones.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...model.outputs import replace_all, tensors_in
from ...model.restored import Restored
from ...model.untouched import quiet

__all__ = ["LayerPass", "layer_pass"]


class LayerPass(NamedTuple):
    """What ``run`` returned, and the layer's tensors in its graph."""

    output: Any
    tensors: list[Tensor]  # of the layer's last call; empty where it did not run


@contextlib.contextmanager
def layer_pass(
    run: Callable[[], Any],
    layer: nn.Module,
    *,
    model: nn.Module | None = None,
    inputs: bool = False,
    whole: bool = False,
) -> Iterator[LayerPass]:
    """Calls ``run``, which runs ``layer`` somewhere; gradients of its output are taken inside the context.

    The graph begins at the layer, and modules stay in the mode they are in; buffers and hooks are as before afterwards.

    Args:
        model: whose compiled parts and buffers are looked after; None: the layer's alone.
        inputs: look at the layer's positional arguments in place of what it returns. Others may use the same tensors, and
            before the layer does (skip connections): the graph then begins with what requires a gradient, and ``run``
            should call the model with such tensors.
        whole: let the graph begin there in any case, so that results can be differentiated once more.
    """
    whole = whole or inputs
    with quiet(layer if model is None else model, eval_mode=False), _watched(layer, inputs, whole) as kept:
        with torch.set_grad_enabled(whole):
            output = run()
        if not whole and kept and not any(tensor.requires_grad for tensor in tensors_in(output)):
            with torch.enable_grad():  # the model returned to no_grad after the layer
                output = run()
        with torch.enable_grad():
            yield LayerPass(output, kept)


@contextlib.contextmanager
def _watched(layer: nn.Module, inputs: bool, whole: bool) -> Iterator[list[Tensor]]:
    """The list that fills with the layer's tensors at each of its calls in this thread."""
    kept: list[Tensor] = []
    thread = threading.get_ident()

    def keep(tensor: Tensor) -> Tensor:
        if not (whole and tensor.requires_grad):
            tensor = tensor.detach().requires_grad_()
        kept.append(tensor)
        torch.set_grad_enabled(True)
        return tensor.clone()  # an operation in place must not overwrite what was kept

    def replaced(value: Any) -> Any:
        if threading.get_ident() != thread:
            return None
        kept.clear()
        return replace_all(value, Tensor.is_floating_point, keep)

    with Restored() as restored:
        if inputs:
            restored.hook(layer, lambda module, args: replaced(args), before=True)
        else:
            restored.hook(layer, lambda module, args, output: replaced(output))
        yield kept
