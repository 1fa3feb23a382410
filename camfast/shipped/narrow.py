"""Weights of fewer bits in a file: kept in half precision or as int8, and widened again where they are read."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from .capture import is_guard

__all__ = ["Weights", "narrowed"]

Weights = Literal["float16", "bfloat16", "int8"]
"""What weights are kept as."""

_FEWEST = 1024  # numbers; of smaller weights nothing is gained


def narrowed(program: Any, weights: Weights, images: Tensor, shapes: Any) -> tuple[fx.GraphModule, Any]:
    """``program`` with the weights of its layers kept as ``weights``; what it computes, it computes as before.

    Only parameters in fp32 with two or more dimensions change: biases and norms stay. int8 is symmetric, with one scale for
    each output channel, so that a weight is off by 1/254 of its channel's largest one at most.

    Args:
        program: an exported program from images to ``(scores, heatmap, ...)``.
        weights: the type.
        images: an example.
        shapes: of ``torch.export``: which dimensions are dynamic.

    Returns:
        The same as a module, and as an exported program.
    """
    module = program.module()
    graph = module.graph
    wide: dict[tuple[int, torch.Size], fx.Node] = {}  # tied weights are kept once
    for node in list(graph.nodes):
        if is_guard(node):
            graph.erase_node(node)
        elif node.op == "get_attr":
            weight = _attribute(module, node.target)
            if isinstance(weight, nn.Parameter) and _is_large(weight):
                memory = weight.data_ptr(), weight.shape
                if memory not in wide:
                    with graph.inserting_before(node):
                        wide[memory] = _int8(module, weight) if weights == "int8" else _half(module, weight, weights)
                node.replace_all_uses_with(wide[memory])
                graph.erase_node(node)
    narrow = fx.GraphModule(module, graph)  # holds what the graph reads, and nothing else
    return narrow, torch.export.export(narrow, (images,), dynamic_shapes=shapes, strict=False)


def _attribute(module: nn.Module, target: str) -> Any:
    owner, _, name = target.rpartition(".")
    return getattr(module.get_submodule(owner), name)


def _is_large(weight: Tensor) -> bool:
    return weight.dtype == torch.float32 and weight.ndim >= 2 and weight.numel() >= _FEWEST


def _half(module: fx.GraphModule, weight: Tensor, dtype: str) -> fx.Node:
    return _widened(module, _kept(module, weight.detach().to(getattr(torch, dtype))))


def _int8(module: fx.GraphModule, weight: Tensor) -> fx.Node:
    scale = weight.detach().abs().flatten(1).amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    scale = scale.view(-1, *[1] * (weight.ndim - 1))
    steps = (weight.detach() / scale).round().clamp(-127, 127).to(torch.int8)
    return module.graph.call_function(
        torch.ops.aten.mul.Tensor, (_widened(module, _kept(module, steps)), _kept(module, scale))
    )


def _kept(module: fx.GraphModule, tensor: Tensor) -> fx.Node:
    """A node that reads ``tensor``, a buffer from now on."""
    name = f"narrow_{len(module._buffers)}"
    module.register_buffer(name, tensor)
    return module.graph.get_attr(name)


def _widened(module: fx.GraphModule, node: fx.Node) -> fx.Node:
    return module.graph.call_function(torch.ops.aten._to_copy.default, (node,), {"dtype": torch.float32})
