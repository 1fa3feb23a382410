"""What makes one call of an explainer like another, so that what was made for the one serves the other."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from ..model.cuda_graphs import has_graphs, is_capturing
from ..model.inputs import Inputs
from ..targets import ALL, Policy, TopK
from .chosen import has_callables

if TYPE_CHECKING:
    from .layer_explainer import LayerExplainer

__all__ = ["Call"]

_NOT_OF_THE_KIND = {"model", "graph", "compile", "aug_smooth"}  # an explainer's attributes that its steps do not read


class Call:
    """One call: what is explained, and how.

    Args:
        explainer: the explainer that is called.
        inputs: the arguments of the model.
        targets, size, normalize: as given to the call.
    """

    def __init__(self, explainer: LayerExplainer, inputs: Inputs, targets: Any, size: Any, normalize: Any) -> None:
        self.explainer, self.inputs = explainer, inputs
        self.targets, self.size, self.normalize = targets, size, normalize
        if inputs.is_image:
            self._leaves, self._tree = [inputs.image], None
        else:
            self._leaves, self._tree = pytree.tree_flatten((inputs.args, inputs.kwargs))
        self.tensors = [leaf for leaf in self._leaves if isinstance(leaf, Tensor)]

    @property
    def is_traced(self) -> bool:
        """Whether someone else is compiling or capturing this very call."""
        if torch.compiler.is_compiling():
            return True
        return any(has_graphs(tensor.device) for tensor in self.tensors) and is_capturing()

    @property
    def of_classes(self) -> bool:
        """Whether the targets are classes by number or name, rather than chosen from the scores."""
        if self.targets is None or isinstance(self.targets, TopK):
            return False
        return not isinstance(self.targets, str) or self.targets != ALL

    @property
    def raw(self) -> bool:
        """What the pass itself is told of ``normalize``: whether maps stay raw, also to be scaled together later."""
        return self.normalize is not True

    @property
    def against_graph(self) -> str | None:
        """What in the call is against a CUDA graph; None where nothing is."""
        device = self.inputs.image.device
        if not has_graphs(device):
            return f"images must be on a CUDA device, got {device}"
        if self.inputs.sizes is not None:
            return "images must be one tensor, got a list of them"
        if any(tensor.device != device for tensor in self.tensors):
            return f"every input must be on {device}, got some on other devices"
        if isinstance(self.targets, Policy) or has_callables(self.targets):
            return "targets must be classes, TopK or 'all', got callables, which may read something else each time"
        return None

    @property
    def against_compiling(self) -> str | None:
        """What in the call is against a compiled network; None where nothing is."""
        if not self.inputs.is_image:
            return "the model must take one tensor of images, got other inputs"
        if any(getattr(target, "whole_output", False) for target in _flat(self.targets)):
            return "targets must be of the scores, got some of all that the model returns"
        return None

    @functools.cached_property
    def shape(self) -> Hashable:
        """Equal for calls that the same pass of the network serves."""
        tensors = tuple((t.shape, t.dtype, t.stride(), t.device) for t in self.tensors)
        others = tuple(_fixed(leaf) for leaf in self._leaves if not isinstance(leaf, Tensor))
        device = self.inputs.image.device.type
        precision = (
            torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None,
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.allow_tf32,
            torch.are_deterministic_algorithms_enabled(),
        )
        own = vars(self.explainer)
        options = tuple(_fixed(own[name]) for name in own if name[0] != "_" and name not in _NOT_OF_THE_KIND)
        return tensors, self._tree, others, precision, options, self.explainer.known_layers(self.targets)

    @functools.cached_property
    def kind(self) -> Hashable:
        """Equal for calls that are the same but for the values in their tensors and class numbers."""
        targets = ("classes", _shape(self.targets)) if self.of_classes else self.targets
        size = tuple(map(_fixed, self.size)) if isinstance(self.size, (list, tuple)) else _fixed(self.size)
        return self.shape, targets, size, self.raw

    def with_tensors(self, tensors: Sequence[Tensor]) -> Inputs:
        """The same arguments with other tensors."""
        image = tensors[next(place for place, tensor in enumerate(self.tensors) if tensor is self.inputs.image)]
        if self._tree is None:
            return Inputs((image,), {}, image)
        rest = iter(tensors)
        leaves = [next(rest) if isinstance(leaf, Tensor) else leaf for leaf in self._leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self._tree)
        return Inputs(args, kwargs, image)


class _Same:
    """Equal to itself alone, for options that are compared by what they are and not by what is in them."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _fixed(value: Any) -> Hashable:
    return value if value is None or isinstance(value, (bool, int, float, str, torch.dtype)) else _Same(value)


def _flat(targets: Any) -> list[Any]:
    if not isinstance(targets, (list, tuple)):
        return [targets]
    return [target for row in targets for target in _flat(row)]


def _shape(targets: Any) -> tuple[int, ...]:
    """The shape of classes: of a tensor, an array, nested sequences; empty for one class."""
    if hasattr(targets, "shape"):
        return tuple(targets.shape)
    if isinstance(targets, (list, tuple)):
        return (len(targets), *(_shape(targets[0]) if targets else ()))
    return ()
