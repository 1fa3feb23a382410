"""One pass through a model that keeps the activations of named layers and builds a graph from there on only.

    images -> trunk (no graph) -> TAP: activations [N, C, *map] -> head (graph) -> output

The first tapped layer cuts the graph: its output becomes a leaf, and gradients are recorded from there. The backward
pass therefore costs the head alone, and never reaches a parameter. Hooks exist only between ``with`` and its end.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from .bounded import Bounded
from .inputs import Images, Inputs
from .layers import call_of
from .outputs import replace_first, scores_in, tensors_in
from .restored import Restored
from .untouched import leave_no_trace

__all__ = ["NoGradient", "Quirks", "Tap", "hookable", "is_map", "unwrapped"]

_Key = tuple[nn.Module, int | None]


@dataclass
class Quirks:
    """What a model was found to need. An explainer keeps one of these, so that each is found out once."""

    whole_graph: bool = False  # the model returns to no_grad after the layer: record from the start
    inference_weights: bool = False  # parameters were made in inference mode: the head needs ordinary copies
    batched_backward: dict[Any, bool] = field(default_factory=Bounded)  # by shapes: is one batched backward right
    # By layers, of a training pass: the checkpointed region around the first one that must run plainly; -1: none must.
    regions: dict[tuple[str, ...], int] = field(default_factory=dict)
    runs: int | None = None  # how often a lone layer ran in the last pass: only its last run needs a graph
    calls: list[int] = field(default_factory=list)  # how often each layer ran in the last pass


class NoGradient(ValueError):
    """The target does not depend on a layer."""


_CUT_OFF = (
    "the scores must depend on every layer through differentiable operations, got no gradient for {}: "
    "it may feed another output, or be followed by detach() or no_grad()"
)


class Tap:
    """Captures the activations of ``layers`` during :meth:`run`, and gives gradients with respect to them.

    Of a layer that runs several times in a pass the last call counts, unless its name says which: ``"net#1"``.

    Use it as a context manager: hooks are registered on entry and removed on exit, whatever happens in between. They
    act only during :meth:`run`, and ignore calls of the model from other threads. ``graph=False`` captures without
    recording anything. With ``eval_mode`` the pass runs in evaluation mode, and each module's own ``training`` flag is
    restored on exit; without it, modules stay as they are and the buffers that training changes are put back.
    """

    keeps_graph: ClassVar[bool] = False
    """Whether activations and gradients come with a graph to the model's parameters."""

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[nn.Module],
        *,
        names: Sequence[str] | None = None,
        graph: bool = True,
        eval_mode: bool = True,
        quirks: Quirks | None = None,
    ) -> None:
        self.model = model
        self.layers = list(layers)
        self.names = list(names) if names is not None else [type(layer).__name__ for layer in layers]
        self.graph = graph
        self.eval_mode = eval_mode
        self.quirks = quirks if quirks is not None else Quirks()
        self.separate = False
        """Whether every layer begins a graph of its own, so that its gradient leaves out what it gave to the others."""
        # What is captured: a layer's call of that number, or its last one.
        self._keys: list[_Key] = [_key(name, layer) for name, layer in zip(self.names, self.layers, strict=True)]
        self._captured: dict[_Key, Tensor | None] = {}
        self._before: dict[_Key, Tensor] = {}  # of layers that begin a graph: what came in the graph of earlier ones
        self._runs: dict[nn.Module, int] = {}  # in this pass
        self._running_in: int | None = None  # the thread of the pass in progress
        self._restored = Restored()

    def __enter__(self) -> Tap:
        # The layers know the tap by a weak reference: one that is forgotten half-way is put back, and its hooks are gone.
        tap = weakref.ref(self)
        hook = lambda *args: None if (own := tap()) is None else own._hook(*args)  # noqa: E731
        try:
            self._surround(self._restored)
            for layer in dict.fromkeys(self.layers):
                self._restored.hook(layer, hook)
        except BaseException:
            self._restored.failed = True
            self._restored.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._restored.failed = exception[0] is not None
        self._restored.close()
        self._captured.clear()
        self._before.clear()

    def _surround(self, restored: Restored) -> None:
        """Begins what holds between entry and exit."""
        leave_no_trace(restored, self.model, self.eval_mode)

    def run(self, images: Images) -> Any:
        """One pass of ``images``; returns the model's output, with a graph that ends at the first tapped layer.

        Raises ``ValueError`` when a layer did not run, or when the output does not depend on the layers.
        """
        inputs = Inputs.of(images, self.model).cut()
        output = self._pass(inputs)
        if self.graph and not self._has_graph(output) and not self.quirks.whole_graph:
            self._check_captured()
            self.quirks.whole_graph = True
            output = self._pass(inputs)
        self._check_captured()
        if self.graph and not self._has_graph(output):
            self.quirks.whole_graph = False
            raise self._cut_off(self.names)
        return output

    @property
    def activations(self) -> list[Tensor]:
        """The captured outputs, in the order of ``layers``, without a graph."""
        return [self._kept(key).detach() for key in self._keys]

    @property
    def captured(self) -> list[Tensor]:
        """The captured outputs, in the order of ``layers``, as they stand in the graph."""
        return [self._kept(key) for key in self._keys]

    @property
    def leaf(self) -> Tensor | None:
        """What the graph of a lone layer starts from, with its graph; None for several layers."""
        return self._kept(self._keys[0]) if len(self._keys) == 1 else None

    def gradients(
        self,
        outputs: Tensor | GradientEdge,
        seeds: Tensor | None = None,
        missing_ok: bool = False,
        keep: bool = False,
        only: Sequence[int] | None = None,
    ) -> list[Any]:
        """Gradients of ``outputs`` with respect to the activations, in the order of ``layers``.

        Frees the graph, unless it shall be kept for a further call (``keep``). ``only`` some of the layers, by their
        places, when no others are asked for: the backward pass leaves out what leads to these alone.

        ``seeds`` has the shape of ``outputs``, or ``[K, *outputs.shape]``: K vectors go through one batched backward
        pass and the gradients come back as ``[K, *activations.shape]``. None means one, for scalar ``outputs``. An edge
        of the graph stands for the matrix ``[N, C]`` there.

        Raises ``ValueError`` when ``outputs`` do not depend on a layer; with ``missing_ok`` its gradient is None.
        """
        wanted = self.captured if only is None else [self.captured[place] for place in only]
        names = self.names if only is None else [self.names[place] for place in only]
        rank = outputs.ndim if isinstance(outputs, Tensor) else 2
        if isinstance(outputs, Tensor) and not outputs.requires_grad:
            found: tuple[Tensor | None, ...] = (None,) * len(wanted)
        elif seeds is None or seeds.ndim == rank:
            found = torch.autograd.grad(outputs, wanted, seeds, retain_graph=keep, allow_unused=True)
        elif seeds.shape[0] == 1:
            found = torch.autograd.grad(outputs, wanted, seeds[0], retain_graph=keep, allow_unused=True)
            found = tuple(g if g is None else g.unsqueeze(0) for g in found)
        else:
            found = self._batched(outputs, wanted, seeds, keep)
        missing = [name for name, gradient in zip(names, found, strict=True) if gradient is None]
        if missing and not missing_ok:
            raise self._cut_off(missing)
        return list(found)

    def _cut_off(self, names: Sequence[str]) -> NoGradient:
        return NoGradient(_CUT_OFF.format(_listed(names)))

    def passed_on(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Gradients as they are where no layer begins a graph of its own, of those where each does (``separate``).

        ``gradients`` are ``[K, *activations.shape]`` of each layer, or None; what a layer gave to later ones is added.
        """
        found = dict(zip(self._keys, gradients, strict=True))
        order = list(self._captured)
        for place in reversed(range(1, len(order))):
            source, seeds = self._before.get(order[place]), found[order[place]]
            if source is None or seeds is None:
                continue
            wanted = [self._kept(key) for key in order[:place]]
            if len(seeds) == 1:
                single = torch.autograd.grad(source, wanted, seeds[0], retain_graph=True, allow_unused=True)
                given: tuple[Tensor | None, ...] = tuple(g if g is None else g[None] for g in single)
            else:
                given = self._batched(source, wanted, seeds, keep=True)
            for key, gradient in zip(order, given, strict=False):
                own = found[key]
                found[key] = gradient if own is None else own if gradient is None else own + gradient
        return [found[key] for key in self._keys]

    def _batched(
        self, outputs: Tensor | GradientEdge, wanted: list[Tensor], seeds: Tensor, keep: bool
    ) -> tuple[Tensor | None, ...]:
        key = (tuple(seeds.shape[1:]), *(tuple(tensor.shape) for tensor in wanted))
        works = self.quirks.batched_backward.get(key)
        if works is not False:
            try:
                found = torch.autograd.grad(
                    outputs, wanted, seeds, retain_graph=works is None or keep, is_grads_batched=True, allow_unused=True
                )
            except RuntimeError:  # some operation has no batching rule
                if works:
                    raise
                self.quirks.batched_backward[key] = False
            else:
                if works or self._agrees(found, outputs, wanted, seeds, keep=True):
                    if works is None:
                        self.quirks.batched_backward[key] = True
                    return found
                self.quirks.batched_backward[key] = False
        last = len(seeds) - 1
        rows = [
            torch.autograd.grad(outputs, wanted, seed, retain_graph=keep or i < last, allow_unused=True)
            for i, seed in enumerate(seeds)
        ]
        return tuple(None if column[0] is None else torch.stack(column) for column in zip(*rows, strict=True))

    def _agrees(
        self,
        found: tuple[Tensor | None, ...],
        outputs: Tensor | GradientEdge,
        wanted: list[Tensor],
        seeds: Tensor,
        keep: bool,
    ) -> bool:
        """Whether one backward pass gives what the batched one ``found``: some of PyTorch's batching rules are wrong.

        A gradient is linear in its seed: one pass of a weighted sum of the seeds checks all of them.
        """
        shares = torch.linspace(1, 0.5, len(seeds), device=seeds.device)
        seed = _weighted(shares, seeds).to(seeds.dtype)
        single = torch.autograd.grad(outputs, wanted, seed, retain_graph=keep, allow_unused=True)
        for batched, alone in zip(found, single, strict=True):
            if batched is None or alone is None:
                if batched is not alone:
                    return False
                continue
            expected = _weighted(shares, batched).double()
            scale = batched.abs().amax().double() * len(seeds) ** 0.5
            tolerance = 1e-4 if batched.element_size() > 2 else 5e-2
            far = (expected - alone.double()).abs().nan_to_num(0, 0, 0).amax() > tolerance * scale.nan_to_num(0, 0, 0)
            if far:
                return False
        return True

    def _pass(self, inputs: Inputs) -> Any:
        output = self._one_pass(inputs)
        if self._last_alone:
            runs = self._runs.get(self.layers[0], 0)
            expected, self.quirks.runs = self.quirks.runs, runs
            if expected is not None and runs < expected:  # its last run was taken for an earlier one
                output = self._one_pass(inputs)
        self.quirks.calls = [self._runs.get(layer, 0) for layer in self.layers]
        return output

    @property
    def _last_alone(self) -> bool:
        """Whether one layer's last call is all that is wanted."""
        return len(self._keys) == 1 and self._keys[0][1] is None

    def _is_early(self, turn: int) -> bool:
        """Whether a call of the layer is known not to be the last one."""
        return self._last_alone and self.graph and turn < (self.quirks.runs or 0)

    def _one_pass(self, inputs: Inputs) -> Any:
        self._captured.clear()
        self._before.clear()
        self._runs.clear()
        self._running_in = threading.get_ident()
        try:
            return self._call(inputs)
        finally:
            self._running_in = None

    def _call(self, inputs: Inputs) -> Any:
        with torch.set_grad_enabled(self.graph and self.quirks.whole_graph):
            if not self.quirks.inference_weights:
                try:
                    return self.model(*inputs.args, **inputs.kwargs)
                except RuntimeError as error:
                    if "nference tensor" not in str(error) or not _inference_tensors(self.model):
                        raise
                self.quirks.inference_weights = True
                self._captured.clear()
                self._runs.clear()
                torch.set_grad_enabled(self.graph and self.quirks.whole_graph)
            copies = {name: tensor.clone() for name, tensor in _inference_tensors(self.model).items()}
            return torch.func.functional_call(self.model, copies, inputs.args, inputs.kwargs)

    def _hook(self, module: nn.Module, args: Any, output: Any) -> Any:
        if threading.get_ident() != self._running_in:
            return None
        turn = self._runs[module] = self._runs.get(module, 0) + 1
        if self._is_early(turn):
            return None
        keys = [key for key in dict.fromkeys(self._keys) if key[0] is module and key[1] in (None, turn)]
        if not keys:
            return None
        replaced, found = replace_first(output, is_map, lambda tensor: self._capture(keys, tensor))
        if not found:
            self._captured.update(dict.fromkeys(keys))
        return replaced

    def _capture(self, keys: list[_Key], tensor: Tensor) -> Tensor:
        if not self.graph:
            self._captured.update(dict.fromkeys(keys, tensor.detach()))
            return tensor.clone()
        if tensor.is_inference():
            raise ValueError("the model runs the layer in torch.inference_mode(), where no gradient can be recorded")
        # With several layers the later ones stay in the graph of the first, where they depend on it.
        started = len(self._captured) > 0 and len(set(self._keys)) > 1
        if self.separate and tensor.requires_grad:
            self._before.update(dict.fromkeys(keys, tensor))
        if self.separate or not (started and tensor.requires_grad):
            tensor = tensor.detach().requires_grad_()
        torch.set_grad_enabled(True)
        self._captured.update(dict.fromkeys(keys, tensor))
        return tensor.clone()  # an operation in place must not overwrite what was captured

    def _kept(self, key: _Key) -> Tensor:
        tensor = self._captured[key]
        assert tensor is not None
        return tensor

    def _has_graph(self, output: Any) -> bool:
        scores = scores_in(output)
        if scores is not None and scores.requires_grad:
            return True
        # Targets may be of another part of the output, or of each image's own (detectors).
        return any(tensor.requires_grad for tensor in tensors_in(output))

    def _check_captured(self) -> None:
        for (layer, call), name in zip(self._keys, self.names, strict=True):
            if call is not None and call > (runs := self._runs.get(layer, 0)) > 0:
                raise ValueError(f"expected a call that the layer has, got {name!r}; it runs {runs} times in a pass")
        named = list(zip(self.names, self._keys, strict=True))
        idle = [name for name, key in named if key not in self._captured]
        if idle:
            raise ValueError(f"every layer must run in the model's forward pass, got no call of {_listed(idle)}")
        flat = [name for name, key in named if self._captured[key] is None]
        if flat:
            raise ValueError(f"a layer must give a float tensor of 3 or more dimensions, got none from {_listed(flat)}")


def _key(name: str, layer: nn.Module) -> _Key:
    number = call_of(name)[1]
    return layer, number if isinstance(number, int) else None


def _weighted(shares: Tensor, rows: Tensor) -> Tensor:
    """``sum_k shares[k] * rows[k]``, of rows ``[K, ...]``, in fp32 at least."""
    rows = rows.float() if rows.element_size() < 4 else rows
    return torch.tensordot(shares.to(rows), rows, 1)


def hookable(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Names and modules of ``model`` that take hooks: all but those compiled by TorchScript, and what is in them."""
    return ((name, module) for name, module in model.named_modules() if not isinstance(module, torch.jit.ScriptModule))


def unwrapped(model: nn.Module, data_parallel: bool = True) -> nn.Module:
    """The module inside ``torch.compile`` and, with ``data_parallel``, inside data-parallel wrappers."""
    while True:
        inner: Any = model._modules.get("_orig_mod")
        if (
            inner is None
            and data_parallel
            and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))
        ):
            inner = model.module
        if inner is None:
            return model
        model = inner


def is_map(tensor: Tensor) -> bool:
    """Whether ``tensor`` can be a layer's activations: floating, with positions besides batch and channels."""
    return tensor.is_floating_point() and tensor.ndim >= 3


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _inference_tensors(model: nn.Module) -> dict[str, Tensor]:
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor for name, tensor in named if tensor.is_inference()}
