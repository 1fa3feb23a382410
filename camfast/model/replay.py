"""Runs a model from one of its layers on, for batches of changed activations, without running what comes before.

    recording:  image -> stem -> layer1 -> layer2 -> LAYER -> pool -> fc -> scores      (once an image)
    replay:       .      out      out       out     changed   pool    fc -> scores      (once a batch)

The first pass notes the output of every module that finished before the layer. In a replay those modules return what
they returned then, the layer returns the changed activations, and the rest runs. Code between the modules runs as
well: on the recorded outputs of the one image, or, where the model's code needs equal batches, on these repeated.
Models need no preparation; whether a way works is found out by replaying unchanged activations and comparing scores.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import warn
from .inputs import Inputs
from .outputs import replace_first, rows_in
from .restored import Restored
from .tap import hookable, is_map

__all__ = ["HeadReplay", "Mode"]

Mode = Literal["single", "repeated", "whole"]
"""Replay on the one image's recorded outputs; on these repeated to the batch; or pass the whole model."""

_MODES: tuple[Mode, ...] = ("single", "repeated", "whole")
_lock = threading.Lock()  # one replay at a time changes how modules run


class HeadReplay:
    """The head of ``model`` after ``layer``, for one image; in the mode ``"single"`` also for a batch, unchanged in size.

    Make it inside an open :class:`camfast.model.tap.Tap`, which keeps the model in evaluation mode. ``mode`` is what an
    earlier replay of the same model and layer found to work; None tries each and keeps the cheapest whose scores are
    those of the model. Of a layer that runs several times ``call`` is the number, from 1; None: the last one. With
    ``graph`` its scores can be differentiated. The model is as it was before and after every method.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: nn.Module,
        inputs: Inputs,
        mode: Mode | None = None,
        graph: bool = False,
        call: int | None = None,
    ) -> None:
        self.model, self.layer = model, layer
        self.inputs = inputs
        self.graph = graph
        recording = _Recording(model, layer, call)
        with torch.no_grad():
            output = recording.run(inputs.cut())
        self.recorded = output
        self.scores = rows_in(output, inputs.batch)
        self._results = recording.results
        self._structure = recording.structure
        self._earlier = (call or recording.calls) - 1
        self.activations = recording.activations
        self.batch_dim = 0 if self.activations.shape[0] == inputs.batch else 1
        self.mode: Mode = mode if mode is not None else self._works()

    def repeated(self, count: int) -> Tensor:
        """``count`` copies of the image's activations along the batch, to be changed in place."""
        return self.activations.repeat_interleave(count, self.batch_dim)

    def __call__(self, activations: Tensor) -> Tensor:
        """Scores ``[B, ...]`` for activations in the layer's own layout, with a batch of B."""
        return rows_in(self.output(activations), activations.shape[self.batch_dim])

    def output(self, activations: Tensor) -> Any:
        """All that the model returns for them."""
        return self._replay(activations, self.mode)

    def _works(self) -> Mode:
        tolerance = 1e-3 if self.scores.dtype in (torch.float32, torch.float64) else 5e-2
        scale = float(self.scores.abs().nan_to_num(0, 0, 0).amax())
        expected = torch.cat([self.scores, self.scores])
        for mode in _MODES:
            if mode == "whole":
                break
            versions = [tensor._version for tensor in self._tensors()]
            try:
                found = rows_in(self._replay(self.repeated(2), mode), 2)
            except Exception:
                continue
            untouched = versions == [tensor._version for tensor in self._tensors()]
            if (
                untouched
                and found.shape == expected.shape
                and torch.allclose(found, expected, rtol=0, atol=tolerance * max(scale, 1e-6), equal_nan=True)
            ):
                return mode
        warn(
            f"{type(self.model).__name__} could not be run from the layer on alone; whole passes are made instead, "
            "which take longer"
        )
        return "whole"

    def _tensors(self) -> list[Tensor]:
        kept = pytree.tree_leaves([outputs for outputs in self._results.values()])
        return [leaf for leaf in kept if isinstance(leaf, Tensor)]

    def _replay(self, activations: Tensor, mode: Mode) -> Any:
        count = activations.shape[self.batch_dim]
        inputs = self.inputs
        if mode != "single" and count > 1:
            inputs = inputs.with_image(inputs.image.expand(count, *inputs.image.shape[1:]))
        inputs = inputs.cut()
        replaced, _ = replace_first(self._structure, is_map, lambda _: activations)
        with torch.set_grad_enabled(self.graph and torch.is_grad_enabled()), _lock, Restored() as restored:
            for module, outputs in self._results.items():
                if mode != "whole" or module is self.layer:
                    given = [_repeat(output, count) if mode == "repeated" else output for output in outputs]
                    if module is self.layer:
                        given = [*([_RUN] * self._earlier if mode == "whole" else given), replaced]
                    restored.set(module, "forward", _answering(module, given))
            return self.model(*inputs.args, **inputs.kwargs)


_RUN = object()  # in place of an output: this call runs


def _answering(module: nn.Module, outputs: list[Any]) -> Callable[..., Any]:
    """A ``forward`` of ``module`` that returns ``outputs`` in turn in this thread, and then runs as usual."""
    thread, original = threading.get_ident(), module.forward
    turn = 0

    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal turn
        if threading.get_ident() != thread:
            return original(*args, **kwargs)
        turn += 1
        if turn > len(outputs) or outputs[turn - 1] is _RUN:
            return original(*args, **kwargs)
        return outputs[turn - 1]

    return forward


def _repeat(output: Any, count: int) -> Any:
    def change(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == 1:
            return leaf.expand(count, *leaf.shape[1:])
        return leaf

    return pytree.tree_map(change, output)


class _Call:
    """One call of a module in the recorded pass."""

    def __init__(self, module: nn.Module, parent: _Call | None) -> None:
        self.module, self.parent = module, parent
        self.children: list[_Call] = []
        self.output: Any = _RUN


class _Recording:
    """One pass that keeps, up to a call of ``layer`` (None: the last one), what the outermost finished modules returned.

    ``results`` lists for each module what its calls return in a replay, in order: an output, or ``_RUN`` for modules
    that contain the layer. Calls inside a finished module are left out: they do not happen in a replay.
    """

    def __init__(self, model: nn.Module, layer: nn.Module, call: int | None) -> None:
        self.model, self.layer, self.call = model, layer, call
        self.results: dict[nn.Module, list[Any]] = {}
        self.structure: Any = None
        self.calls = 0  # of the layer
        self._open: list[_Call] = []
        self._thread = threading.get_ident()

    def run(self, inputs: Inputs) -> Any:
        with Restored() as restored:
            for _, module in hookable(self.model):
                restored.hook(module, self._enter, before=True)
                restored.hook(module, self._leave)
            output = self.model(*inputs.args, **inputs.kwargs)
        self._open.clear()
        found: list[Tensor] = []
        replace_first(self.structure, is_map, lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
        if not found:
            raise ValueError("a layer must give a float tensor of 3 or more dimensions, got none")
        self.activations = found[0]
        return output

    def _enter(self, module: nn.Module, args: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        call = _Call(module, self._open[-1] if self._open else None)
        if call.parent is not None:
            call.parent.children.append(call)
        self._open.append(call)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        if threading.get_ident() != self._thread:
            return None
        call = self._open.pop()
        call.children.clear()
        call.output = output
        if module is not self.layer:
            return None
        self.calls += 1
        if self.call not in (None, self.calls):
            return None
        self.structure = _cloned_map(output)
        self._keep()
        return None

    def _keep(self) -> None:
        """Notes the state at a call of the layer; a later call takes its place."""
        self.results = {}
        for ancestor in self._open:
            self.results.setdefault(ancestor.module, []).append(_RUN)
            for call in ancestor.children:
                if call not in self._open:
                    self.results.setdefault(call.module, []).append(call.output)
        # The layer's own last call is not among these answers: it gets the changed activations.
        self.results.setdefault(self.layer, [_RUN]).pop()


def _cloned_map(output: Any) -> Any:
    """``output`` with its map copied, since an operation in place may follow."""
    return replace_first(output, is_map, Tensor.clone)[0]
