"""A model compiled in two halves, before and after the explained layer, so that a gradient can start between them.

    image -> trunk (compiled without a graph: frozen weights) -> map -> head (with one) -> scores

``torch.compile`` of the whole would hide the layer: compiled code runs no new hooks. Here the layer's output is marked, the
model exported as one graph, and the graph cut at the mark. The two halves are a module whose child ``layer`` every explainer
can tap as usual.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import reason
from .marked import exported, keep_marks
from .onednn import fused_if_faster

__all__ = ["Split", "split"]


class Split(nn.Module):
    """``head(layer(trunk(x)))``; the halves are no submodules, so that nothing looks into compiled code."""

    def __init__(self, trunk: Callable[[Tensor], Tensor], head: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._halves = (trunk, head)
        self.layer = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Scores of images."""
        trunk, head = self._halves
        with torch.no_grad():
            activations = trunk(x)
        return head(self.layer(activations))


def split(model: nn.Module, layer: nn.Module, images: Tensor, quick: bool = False, call: int | None = None) -> Split:
    """``model`` in evaluation mode as a :class:`Split` around ``layer``, compiled for ``images``' shape and layout.

    ``call`` is the number of the layer's call that is meant, from 1; None: its last.
    Weights are taken as they are now. On the CPU oneDNN Graph runs the trunk where it is faster than PyTorch, and the head
    is left as it is; else, and if not ``quick``, ``torch.compile`` compiles both. Raises ``ValueError`` with the reason for
    a model that is no single graph, or that reaches its scores by a way around the layer, and where nothing is faster.
    """
    with torch.inference_mode(False):  # what is made here must take part in a graph
        images = images.clone()
        try:
            graph = exported(model, [layer], images).module()
        except Exception as error:  # whatever a model does that export does not know
            raise ValueError(f"the model could not be exported as one graph: {reason(error)}") from error
        trunk, head = _halves(graph, call)
        fast = fused_if_faster(trunk, images)
        if fast is not None:
            return Split(fast, head)
        if quick:
            raise ValueError("oneDNN Graph makes it no faster")
        return Split(_compiled_trunk(trunk), _compiled_head(head))


def _halves(graph: fx.GraphModule, call: int | None = None) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The graph up to the mark, and from the mark on; of a layer that runs several times, the mark of that call."""
    (mark,) = keep_marks(graph.graph, [call])
    after = {mark}
    for node in graph.graph.nodes:
        if any(source in after for source in node.all_input_nodes):
            after.add(node)
    output = next(node for node in graph.graph.nodes if node.op == "output")
    if output not in after:
        raise ValueError("the scores do not depend on the layer")
    around = {
        source.name
        for node in after - {mark}
        for source in node.all_input_nodes
        if source not in after and source.op != "get_attr"
    }
    if around:
        raise ValueError(f"the scores must come through the layer alone, got {', '.join(sorted(around))} besides")
    return _trunk(graph, mark), _head(graph, mark, after, output)


def _trunk(graph: fx.GraphModule, mark: fx.Node) -> fx.GraphModule:
    part = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.graph.nodes:
        if node is mark:
            break
        if node.op != "call_module" or not str(node.target).startswith("_guards"):
            copies[node] = part.node_copy(node, lambda n: copies[n])
    part.output(copies[mark.all_input_nodes[0]])
    return _module(graph, part)


def _head(graph: fx.GraphModule, mark: fx.Node, after: set[fx.Node], output: fx.Node) -> fx.GraphModule:
    part = fx.Graph()
    copies = {mark: part.placeholder("activations")}
    for node in graph.graph.nodes:
        if node is not mark and node is not output and (node in after or node.op == "get_attr"):
            copies[node] = part.node_copy(node, lambda n: copies[n])
    (scores,) = output.all_input_nodes
    part.output(copies[scores])
    return _module(graph, part)


def _module(graph: fx.GraphModule, part: fx.Graph) -> fx.GraphModule:
    part.eliminate_dead_code()
    module = fx.GraphModule(graph, part)
    for owner in module.modules():  # of this graph's own, but their parameters are the model's
        for name, parameter in owner._parameters.items():
            if parameter is not None:
                owner._parameters[name] = nn.Parameter(parameter.detach().clone(), requires_grad=False)
    return module


def _compiled_trunk(trunk: fx.GraphModule) -> Callable[[Tensor], Tensor]:
    import torch._inductor.config as inductor

    options: Any = {"freezing": True} if hasattr(inductor, "freezing") else None
    return torch.compile(trunk.forward, dynamic=False, options=options)


def _compiled_head(head: fx.GraphModule) -> Callable[[Tensor], Tensor]:
    return torch.compile(head.forward, dynamic=False)
