"""A network as one graph of plain operations, with a mark at each layer that is explained, and its two halves.

    images -> trunk -> activations [N, C, *map] -> head -> scores

Both halves hold the network's own parameters, so that nothing is there twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from ..errors import reason
from ..model.inputs import Inputs
from ..model.layers import call_of
from ..model.marked import MARK, exported, keep_marks, marks_of

__all__ = ["Halves", "Unshippable", "captured", "halves", "is_guard", "module_of", "plain", "whole"]


class Unshippable(ValueError):
    """Why a network, or what follows its layer, is no graph of plain operations."""


def captured(
    model: nn.Module, names: Sequence[str], modules: Sequence[nn.Module], images: Tensor, dynamic: bool = True
) -> fx.GraphModule:
    """``model`` in evaluation mode as one graph from images to scores; the output of each layer goes through a mark.

    Args:
        model: the network; it is left as it was.
        names: of the layers; ``"net#2"`` means the second call of one.
        modules: the layers.
        images: ``[N, C, *size]``, with two images at least where the batch shall be dynamic.
        dynamic: whether the graph takes any number of images, or only as many.

    Raises:
        ValueError: with the reason, where the network is no such graph, or takes a fixed number of images alone.
    """
    shapes: Any = ({0: torch.export.Dim("batch", min=1)},) if dynamic else None
    try:
        found = exported(model, modules, Inputs.of(images).cut().image, shapes)
        with torch.inference_mode(False), torch.no_grad():
            graph = found.run_decompositions({}).module()
    except Exception as error:  # whatever a model does that export does not know
        what = f"{type(model).__name__} as one graph"
        if dynamic and ("batch" in str(error) or "Constraint" in type(error).__name__):
            raise Unshippable(
                f"expected {what} of any number of images, got one of {len(images)} alone ({reason(error)}); "
                "dynamic=False ships that"
            ) from error
        raise Unshippable(f"expected {what} of operations, which torch.export makes, got: {reason(error)}") from error
    calls = [call_of(name)[1] for name in names]
    try:
        keep_marks(graph.graph, [call if isinstance(call, int) else None for call in calls])
    except ValueError as error:
        raise Unshippable(str(error)) from error
    return graph


class Halves(NamedTuple):
    """The graph cut at its first marks.

    ``trunk`` gives what ``head`` takes: the marked activations that depend on no other marked ones, in the order of
    ``first``, then whatever else goes around the layers. ``head`` gives the scores, and keeps the other marks.
    """

    trunk: fx.GraphModule
    head: fx.GraphModule
    first: list[int]  # the layers whose activations come first among the head's arguments
    values: list[Any]  # the fake tensors that stand for the head's arguments


def whole(graph: fx.GraphModule, layers: int) -> fx.GraphModule:
    """The graph from images to ``(scores, activations of each layer)``, without marks."""
    part = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    kept: dict[int, fx.Node] = {}
    for node in graph.graph.nodes:
        if node.op == "output":
            (scores,) = node.all_input_nodes
            part.output((copies[scores], *(kept[place] for place in range(layers))))
        elif node.target is MARK:
            copies[node] = kept[node.args[1]] = copies[node.all_input_nodes[0]]
        elif not is_guard(node):
            copies[node] = part.node_copy(node, lambda n: copies[n])
    return module_of(graph, part)


def halves(graph: fx.GraphModule) -> Halves:
    """``graph`` cut at its first marks.

    Raises ``ValueError`` where the scores do not depend on a layer.
    """
    marks = marks_of(graph.graph)
    after: set[fx.Node] = set()
    for node in graph.graph.nodes:
        if node.target is MARK or any(source in after for source in node.all_input_nodes):
            after.add(node)
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    if output not in after:
        raise Unshippable("the scores must depend on the layer, got a layer that they do not depend on")
    first = [node for node in marks if not any(source in after for source in node.all_input_nodes)]
    inside = after - set(first)
    free = _numbers(graph.graph) | {node for node in graph.graph.nodes if node.op == "get_attr"}
    around = dict.fromkeys(
        source
        for node in graph.graph.nodes
        if node in inside or (node in free and node.op != "get_attr")
        for source in node.all_input_nodes
        if source not in after and source not in free
    )
    given = [*(node.all_input_nodes[0] for node in first), *around]
    head = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in [*first, *around]:
        copies[node] = head.placeholder(node.name)
    for node in graph.graph.nodes:
        if node is output:
            head.output(copies[output.all_input_nodes[0]])
        elif node in inside or node in free:
            copies[node] = head.node_copy(node, lambda n: copies[n])
    trunk = fx.Graph()
    own: dict[fx.Node, fx.Node] = {}
    for node in graph.graph.nodes:
        if node is not output and node not in after and not is_guard(node):
            own[node] = trunk.node_copy(node, lambda n: own[n])
    trunk.output(tuple(own[node] for node in given))
    module = module_of(graph, head)
    used = [node for node in module.graph.nodes if node.op == "placeholder"]
    return Halves(
        module_of(graph, trunk),
        module,
        [node.args[1] for node in first],  # type: ignore[misc]
        [node.meta["val"] for node in given][: len(used)],
    )


def _numbers(graph: fx.Graph) -> set[fx.Node]:
    """Nodes that are numbers: sizes, and what is computed of them."""
    kinds = (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool)
    return {node for node in graph.nodes if isinstance(node.meta.get("val"), kinds)}


def is_guard(node: fx.Node) -> bool:
    return node.op == "call_module" and str(node.target).startswith("_guards")


def module_of(root: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """A module of ``graph``, with the parameters of ``root`` that it reads: the same memory, without gradients."""
    graph.eliminate_dead_code()
    module = fx.GraphModule(root, graph)
    shared: dict[nn.Parameter, nn.Parameter] = {}
    for owner in module.modules():
        for name, parameter in owner._parameters.items():
            if parameter is not None:
                own = shared.setdefault(parameter, nn.Parameter(parameter.detach(), requires_grad=False))
                owner._parameters[name] = own
    return plain(module)


def plain(module: fx.GraphModule) -> fx.GraphModule:
    """``module`` with sizes read and given in a way that ``torch.jit.trace`` follows, so that they stay dynamic there.

    And with reshapes in place of views, which would need the very memory layout that the exported pass had.
    """
    graph = module.graph
    for node in graph.nodes:
        if node.target in _RESHAPES:
            source, sizes = node.args
            unknown = [place for place, length in enumerate(sizes) if isinstance(length, fx.Node)]
            if len(unknown) == 1 and -1 not in sizes:
                sizes = [-1 if isinstance(length, fx.Node) else length for length in sizes]
            _as_method(node, "reshape", (source, sizes))
        elif node.target is torch.ops.aten.expand.default:
            _as_method(node, "expand", node.args)
        elif node.target is torch.ops.aten.full.default:
            node.target = torch.full
        elif node.target is torch.ops.aten.sym_size.int:
            _as_method(node, "size", node.args)
    graph.eliminate_dead_code()
    module.recompile()
    return module


_RESHAPES = (torch.ops.aten.view.default, torch.ops.aten.reshape.default, torch.ops.aten._unsafe_view.default)


def _as_method(node: fx.Node, name: str, args: tuple[Any, ...]) -> None:
    node.op, node.target, node.args = "call_method", name, args
