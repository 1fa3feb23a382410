"""A model's layers as a tree: types, output shapes, parameters, and which layer an explainer would choose."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..model.find_layer import find_layers, remembered_layers
from ..model.inputs import Images, Inputs
from ..model.outputs import tensors_in
from ..model.restored import Restored, thread_kept
from ..model.tap import hookable
from ..model.untouched import quiet

__all__ = ["Row", "layer_rows", "layer_tree"]


@dataclass(frozen=True)
class Row:
    """One module of a model."""

    name: str  # dotted; "" for the model itself
    depth: int
    type: str
    shapes: tuple[tuple[int, ...], ...]  # of the tensors it returned in its last call; () when it did not run
    calls: int
    parameters: int  # of its own and of all below
    chosen: bool  # by an explainer that is not told a layer


@thread_kept
def layer_rows(model: nn.Module, images: Images) -> list[Row]:
    """Every module of ``model``, parents before children, as it ran in one pass of the first of ``images``.

    The model is left as it was. No row is chosen where the model has no layer that can be explained.
    """
    inputs = Inputs.of(images, model).first().cut()
    shapes: dict[nn.Module, tuple[tuple[int, ...], ...]] = {}
    calls: Counter[nn.Module] = Counter()

    def note(module: nn.Module, args: Any, output: Any) -> None:
        shapes[module] = tuple(tuple(tensor.shape) for tensor in tensors_in(output))
        calls[module] += 1

    with quiet(model), torch.no_grad(), Restored() as restored:
        for _, module in hookable(model):
            restored.hook(module, note)
        model(*inputs.args, **inputs.kwargs)
    try:
        chosen = remembered_layers(model, inputs) or find_layers(model, inputs)
    except ValueError:
        chosen = []
    return [
        Row(
            name,
            name.count(".") + 1 if name else 0,
            type(module).__name__,
            shapes.get(module, ()),
            calls[module],
            sum(p.numel() for p in module.parameters()),
            name in chosen,
        )
        for name, module in model.named_modules()
    ]


def layer_tree(model: nn.Module, images: Images, depth: int | None = None) -> str:
    """The tree as text, a line a module, down to ``depth`` levels below the model (None: all).

    ``<- explained`` marks the layer that an explainer would choose; where it lies deeper, the line above it that is
    shown.
    """
    rows = layer_rows(model, images)
    hidden = next((row.name for row in rows if row.chosen and depth is not None and row.depth > depth), None)
    shown = [row for row in rows if depth is None or row.depth <= depth]
    branches = _branches([row.depth for row in shown])
    cells = []
    for row, branch in zip(shown, branches, strict=True):
        shape = " ".join(str(list(shape)) for shape in row.shapes) or ("-" if row.calls else "not run")
        if row.calls > 1:
            shape += f" x{row.calls}"
        mark = "<- explained" if row.chosen else ""
        if hidden and row.depth == depth and hidden.startswith(row.name + "."):
            mark = f"<- explained: {hidden}"
        label = branch + (row.name.rpartition(".")[2] if row.name else row.type)
        cells.append(
            (label, row.type if row.name else "", shape, f"{row.parameters:,}" if row.parameters else "", mark)
        )
    widths = [max(len(row[i]) for row in cells) for i in range(4)]
    lines = []
    for label, kind, shape, count, mark in cells:
        line = f"{label:{widths[0]}}  {kind:{widths[1]}}  {shape:{widths[2]}}  {count:>{widths[3]}}  {mark}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def _branches(depths: list[int]) -> list[str]:
    """The lines before each name: which of its ancestors, and itself, have siblings further down."""
    branches: list[str] = []
    more: dict[int, bool] = {}  # by depth: does a sibling follow
    for depth in reversed(depths):
        last = not more.get(depth, False)
        lines = "".join("│  " if more.get(above, False) else "   " for above in range(1, depth))
        branches.append(lines + ("└─ " if last else "├─ ") if depth else "")
        more[depth] = True
        for deeper in [d for d in more if d > depth]:
            del more[deeper]
    return branches[::-1]
