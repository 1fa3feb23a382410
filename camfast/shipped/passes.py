"""What follows a layer, written out as a graph: with its backward pass, or once for every position kept.

PyTorch's autograd runs once, on tensors that hold no numbers, and every operation that it calls is noted. What comes out is
a graph of forward operations: it needs no autograd when it runs, and takes any number of images.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from ..errors import reason
from ..model.class_axis import ClassAxis
from ..model.marked import MARK
from .capture import Halves, Unshippable, module_of
from .choice import Choice, columns_of
from .decompositions import table

__all__ = ["with_gradients", "with_positions"]

_ONE_BY_ONE = 16  # so many classes an image at most, where they cannot share a backward pass

View = Callable[[Tensor], Tensor]


def with_gradients(cut: Halves, layers: int, choice: Choice, axis: ClassAxis) -> fx.GraphModule:
    """Images to ``(scores, activations of each layer, gradients of each layer)``.

    Gradients have the shape of the activations, ``[K, ...]`` before it for K classes an image.

    Raises:
        ValueError: with the operation, where the pass behind the layer has a derivative that is no plain operations.
    """

    def run(head: _Head, values: Sequence[Tensor]) -> list[Tensor]:
        head.grad = True
        starts = [value.detach().requires_grad_() for value in values[: len(cut.first)]]
        with torch.enable_grad():
            scores = head.run(*starts, *values[len(cut.first) :])
            columns = columns_of(axis, scores)
        for place, start in zip(cut.first, starts, strict=True):
            head.marked[place] = start
        wanted = [head.marked[place] for place in range(layers)]
        outputs, seeds = head.start(scores, columns, choice)
        found = _gradients(outputs, wanted, seeds)
        return [scores.detach(), *(x.detach() for x in wanted), *found]

    return _joined(cut, _traced(cut, run), "the pass behind the layer")


def with_positions(cut: Halves, view: View, masks: Tensor, choice: Choice, axis: ClassAxis) -> fx.GraphModule:
    """Images to ``(scores, map)``, of the chosen classes' probabilities where one position is kept, ``[N, (K,) *map]``.

    Args:
        cut: the network, cut at one layer.
        view: of the layer's output as ``[N, C, *map]``, for one of its shape.
        masks: ``[S, *map]``.
        choice: the classes.
        axis: of the classes in the scores.
    """
    count, size = masks.shape[0], masks.shape[1:]

    def run(head: _Head, values: Sequence[Tensor]) -> list[Tensor]:
        scores = head.run(*values)
        batch = scores.shape[0]
        A = values[0]
        dim = 0 if A.shape[0] is batch or A.shape[0] == batch else 1
        grid = view(A)
        spread = grid.unsqueeze(1) * masks.to(grid)[None, :, None]  # [N, S, C, *map]
        copies = _repeated(A, dim, count, batch)
        view(copies).copy_(spread.flatten(0, 1))
        rest = [
            _repeated(v, next((i for i, n in enumerate(v.shape) if n == batch), None), count, batch) for v in values[1:]
        ]
        columns = columns_of(axis, axis.softmax(head.run(copies, *rest).to(torch.float32)))
        if choice.kind == "all":
            found = columns
        else:
            ids = choice.ids(columns_of(axis, scores))
            ids = (ids if choice.several else ids.unsqueeze(1)).repeat_interleave(count, 0)
            found = columns.gather(1, ids)
        found = found.reshape(batch, count, -1).mT  # [N, K, S]
        maps = found.unflatten(2, size)
        return [scores, maps if choice.several else maps.squeeze(1)]

    return _joined(cut, _traced(cut, run), "the pass behind the layer")


def _repeated(value: Tensor, dim: int | None, count: int, batch: Any) -> Tensor:
    return value if dim is None else value.repeat_interleave(count, dim)


class _Head(fx.Interpreter):
    """Runs the head, keeps what is marked, and where the last linear layer began."""

    def __init__(self, module: fx.GraphModule, parameters: dict[str, Tensor]) -> None:
        super().__init__(module)
        self.parameters = parameters
        self.marked: dict[int, Tensor] = {}
        self.grad = False
        self.last: tuple[Tensor, Tensor] | None = None  # what the linear layer of the scores read, and its weight
        (output,) = (node for node in module.graph.nodes if node.op == "output")
        scores = output.all_input_nodes[0]
        self._linear = scores if scores.target is torch.ops.aten.linear.default else None

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n is self._linear and n.args[1].op == "get_attr":  # type: ignore[union-attr]
            self.last = self.env[n.args[0]], self.env[n.args[1]]  # type: ignore[index]
        return result

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self.parameters[target]

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is MARK:
            self.marked[args[1]] = args[0]
            return args[0]
        if target is torch.ops.aten.adaptive_avg_pool2d.default and list(args[1]) in ([1], [1, 1]):
            return args[0].mean((-2, -1), keepdim=True)  # the same, without a word on memory layouts
        return super().call_function(target, args, kwargs)

    def start(self, scores: Tensor, columns: Tensor, choice: Choice) -> tuple[Tensor, Tensor]:
        """What to differentiate, and along which vectors: ``[...]``, or ``[K, ...]`` of it.

        Behind the last linear layer the gradient of a class is its row of the weight: no product is needed.
        """
        ids = choice.ids(columns.detach())
        if self.last is not None and scores.ndim == 2 and self.last[0].ndim == 2:
            rows = self.last[1].detach()[ids]
            return self.last[0], rows.transpose(0, 1) if rows.ndim == 3 else rows
        classes = torch.arange(columns.shape[1], device=columns.device)
        seeds = (ids.unsqueeze(-1) == classes).to(columns.dtype)  # [N, (K,) classes]
        return columns, seeds.transpose(0, 1) if seeds.ndim == 3 else seeds


def _gradients(outputs: Tensor, wanted: list[Tensor], seeds: Tensor) -> list[Tensor]:
    found: list[Tensor | None]
    if seeds.ndim == outputs.ndim:
        found = list(torch.autograd.grad(outputs, wanted, seeds, allow_unused=True))
    else:
        if len(seeds) > _ONE_BY_ONE:
            raise Unshippable(
                f"a file holds a backward pass for each class behind such a head, of {_ONE_BY_ONE} at most, got {len(seeds)}; "
                "name fewer, or take recipro_cam"
            )
        rows = [
            torch.autograd.grad(outputs, wanted, seed, retain_graph=True, allow_unused=True) for seed in seeds.unbind(0)
        ]
        found = [None if column[0] is None else torch.stack(column) for column in zip(*rows, strict=True)]
    kept = [gradient for gradient in found if gradient is not None]
    if len(kept) < len(found):
        raise Unshippable(
            "the scores must depend on every layer through differentiable operations, got one without a gradient"
        )
    return kept


def _traced(cut: Halves, run: Callable[[_Head, Sequence[Tensor]], list[Tensor]]) -> tuple[fx.GraphModule, list[str]]:
    """The graph of ``run`` of parameters and the head's arguments; and the parameters' names."""
    fixed = {}
    for node in cut.head.graph.nodes:
        if node.op == "get_attr":
            fixed[node.target] = _attribute(cut.head, node.target)
    names = list(fixed)
    fake = next(value.fake_mode for value in cut.values if hasattr(value, "fake_mode"))
    parameters = [fake.from_tensor(fixed[name].detach(), static_shapes=True) for name in names]

    def function(parameters: list[Tensor], values: list[Tensor]) -> list[Tensor]:
        head = _Head(cut.head, dict(zip(names, parameters, strict=True)))
        return run(head, values)

    try:
        with _plain_attention(), torch.no_grad(), fake:
            graph = make_fx(function, decomposition_table=table())(parameters, list(cut.values))
    except Unshippable:
        raise
    except Exception as error:
        raise Unshippable(f"the pass behind the layer could not be written out: {reason(error)}") from error
    return graph, names


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        yield


def _attribute(module: Any, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part)
    return module


_NEVER = ("backward",)  # in the name of an operation: a derivative that no runtime has


def _joined(cut: Halves, traced: tuple[fx.GraphModule, list[str]], what: str) -> fx.GraphModule:
    """The trunk, and after it the traced graph, as one."""
    after, names = traced
    graph = fx.Graph()
    root = torch.nn.Module()
    copies: dict[fx.Node, fx.Node] = {}
    given: list[fx.Node] = []
    for node in cut.trunk.graph.nodes:
        if node.op == "output":
            given = [copies[value] for value in node.args[0]]
        else:
            copies[node] = graph.node_copy(node, lambda n: copies[n])
    own: dict[fx.Node, fx.Node] = {}
    places = [node for node in after.graph.nodes if node.op == "placeholder"]
    for node, name in zip(places, names, strict=False):
        own[node] = graph.get_attr(name)
    for node, value in zip(places[len(names) :], given, strict=True):
        own[node] = value
    for node in after.graph.nodes:
        if node.op == "placeholder":
            continue
        if node.op == "output":
            graph.output(tuple(own[value] for value in node.args[0]))
        elif node.target in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            own[node] = own[node.args[0]]
        else:
            own[node] = graph.node_copy(node, lambda n: own[n])
    graph.eliminate_dead_code()
    unknown = {str(node.target) for node in graph.nodes if any(word in str(node.target) for word in _NEVER)}
    if unknown:
        raise Unshippable(
            f"{what} must have a derivative of plain operations, got {', '.join(sorted(unknown))}; recipro_cam and eigen_cam "
            "need none"
        )
    for module in (cut.trunk, cut.head, after):
        _adopt(root, module, {node.target for node in graph.nodes if node.op == "get_attr"})
    return module_of(root, graph)


def _adopt(root: torch.nn.Module, module: torch.nn.Module, wanted: set[Any]) -> None:
    """Puts the tensors of ``module`` that are ``wanted`` under the same names into ``root``."""
    for path in wanted:
        try:
            value = _attribute(module, path)
        except AttributeError:
            continue
        *owners, name = path.split(".")
        owner = root
        for part in owners:
            if part not in owner._modules:
                owner.add_module(part, torch.nn.Module())
            owner = owner._modules[part]  # type: ignore[assignment]
        if isinstance(value, torch.nn.Parameter):
            owner.register_parameter(name, value)
        elif name not in owner._buffers:
            owner.register_buffer(name, value)
