"""A model as one exported graph, in which what some layers give goes through a mark: there the graph can be cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from .outputs import replace_first, scores_of
from .shadow import shadow
from .tap import is_map
from .untouched import quiet

__all__ = ["MARK", "exported", "keep_marks", "marks_of"]

_library = torch.library.Library("camfast", "FRAGMENT")
_library.define("mark(Tensor x, int layer, int call) -> Tensor")
_library.impl("mark", lambda x, layer, call: x.clone(), "CompositeExplicitAutograd")
torch.library.register_fake("camfast::mark", lambda x, layer, call: torch.empty_like(x), lib=_library)

MARK = torch.ops.camfast.mark.default  # type: ignore[attr-defined]


class _Scores(nn.Module):
    """The model, returning its scores alone: ``[N, ...]``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return scores_of(self.model(images), images.shape[0])


def exported(model: nn.Module, layers: Sequence[nn.Module], images: Tensor, shapes: Any = None) -> Any:
    """``model`` in evaluation mode as a ``torch.export.ExportedProgram`` from images to scores, with its marks.

    Export puts stand-ins in the place of the weights while it runs, which neither the model nor other threads must meet: it
    is shown a shadow of the model.

    Args:
        model: the network.
        layers: whose outputs go through marks, one for each call; one that stands here twice has two at each.
        images: an example.
        shapes: of ``torch.export``: which dimensions are dynamic.

    Raises whatever ``torch.export`` does.
    """
    root, twins = shadow(model)
    calls = {twins[layer]: 0 for layer in layers}

    def mark(module: nn.Module, args: Any, output: Any) -> Any:
        calls[module] += 1
        for place, layer in enumerate(layers):
            if twins[layer] is module:
                output = replace_first(output, is_map, lambda x: MARK(x, place, calls[module]))[0]  # noqa: B023
        return output

    for module in calls:
        module.register_forward_hook(mark)
    with torch.inference_mode(False), quiet(root), torch.no_grad():
        return torch.export.export(_Scores(root), (images,), dynamic_shapes=shapes, strict=False)


def marks_of(graph: fx.Graph) -> list[fx.Node]:
    """The marks in ``graph``, in the order in which they run."""
    return [node for node in graph.nodes if node.target is MARK]


def keep_marks(graph: fx.Graph, calls: Sequence[int | None]) -> list[fx.Node]:
    """Leaves one mark for each layer: of the call with the number in ``calls``, from 1, or of the last for None.

    Raises ``ValueError`` where a layer has no such call.
    """
    kept = []
    for place, call in enumerate(calls):
        marks = [node for node in marks_of(graph) if node.args[1] == place]
        wanted = [node for node in marks if call in (None, node.args[2])]
        if not wanted:
            raise ValueError(f"expected a layer that the forward pass calls {call or 1} times, got {len(marks)} calls")
        kept.append(wanted[-1])
        for node in marks:
            if node is not wanted[-1]:
                node.replace_all_uses_with(node.all_input_nodes[0])
                graph.erase_node(node)
    return kept
