"""What a call must leave as it was, on a model used under ``no_grad``: flags, hooks, values, and that it can be copied."""

from __future__ import annotations

import contextlib
import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn

import camfast

from .networks import Network
from .plain import run
from .questions import Question
from .verdicts import Verdict

__all__ = ["traces"]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def traces(network: Network, question: Question) -> Verdict | None:
    """What the call of ``question`` leaves on a copy of the model; None where it leaves nothing."""
    run(network)
    try:
        model = copy.deepcopy(network.model)
    except RuntimeError:  # recomputed tensors, kept in a graph
        return None
    before = _state(model)
    with torch.no_grad(), warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        camfast.grad_cam(model, question.inputs, targets=question.targets, class_names=question.class_names)
    after = _state(model)
    changed = [name for name in before if name not in after or not _same(before[name], after[name])]
    changed += [name for name in after if name not in before]
    try:
        copy.deepcopy(model)
    except RuntimeError as error:
        return Verdict("trace: can be copied no more", str(error)[:100])
    return Verdict("trace: something changed", ", ".join(changed)[:200]) if changed else None


def _state(model: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        found[f"{name} hooks"] = tuple(len(getattr(module, kind)) for kind in _HOOKS)
        found[f"{name} training"] = module.training
        own = {**vars(module), **module._parameters, **module._buffers}
        for key, value in own.items():
            if isinstance(value, Tensor):
                graph = value.grad_fn is not None
                found[f"{name}.{key}"] = (value.detach().clone(), value.requires_grad, graph, value.grad is not None)
    return found


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and a and isinstance(a[0], Tensor):
        return torch.equal(a[0], b[0]) and a[1:] == b[1:]
    return a == b
