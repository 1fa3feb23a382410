"""What is put on or around models later: none of it changes what they compute, or where."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from .blocks import Lora, calls_of, mark
from .choices import Choices

__all__ = ["ADAPTERS", "adapted"]


class Wrapped(nn.Module):
    """A model inside a model, as training frameworks keep it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args, **kwargs):
        return self.model(*args, **kwargs)


def _layers(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))]


def _lora(model: nn.Module) -> nn.Module:
    for module in list(model.modules()):
        for name, part in list(module.named_children()):
            plain = type(part) is nn.Linear and not isinstance(module, (nn.MultiheadAttention, Lora))
            if plain and not isinstance(module, nn.TransformerEncoderLayer):
                wrapped = Lora(part).eval()
                if calls_of(part):
                    wrapped._calls_known = list(calls_of(part))
                setattr(module, name, wrapped)
    return model


def _pruned(model: nn.Module) -> nn.Module:
    for layer in _layers(model):
        prune.l1_unstructured(layer, "weight", 0.2)
    return model


def _frozen(model: nn.Module) -> nn.Module:
    return model.requires_grad_(False)


def _each(change) -> object:
    def all_layers(model: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for layer in _layers(model):
                change(layer)
        return model.eval()

    return all_layers


def _old_spectral_norm(layer: nn.Module) -> None:
    torch.nn.utils.spectral_norm(layer)
    (hook,) = (h for h in layer._forward_pre_hooks.values() if hasattr(h, "compute_weight"))
    for _ in range(15):  # as after some training: before it the norm is a guess, and weights explode
        layer.weight = hook.compute_weight(layer, do_power_iteration=True).detach()


def _averaged(model: nn.Module) -> nn.Module:
    return torch.optim.swa_utils.AveragedModel(model).eval()


ADAPTERS = {
    "none": lambda model: model,
    "wrapped": lambda model: mark(Wrapped(model).eval(), None),
    "frozen": _frozen,
    "lora": _lora,
    "pruned": _pruned,
    "weight norm": _each(parametrizations.weight_norm),
    "old weight norm": _each(torch.nn.utils.weight_norm),
    "spectral norm": _each(parametrizations.spectral_norm),
    "old spectral norm": _each(_old_spectral_norm),
    "average": _averaged,
    "data parallel": lambda model: nn.DataParallel(model).eval(),
    "copy": copy.deepcopy,
}


def adapted(choose: Choices, model: nn.Module) -> nn.Module:
    """``model`` with one of the adapters on it, or none."""
    return ADAPTERS[choose("adapter", ["none"] * len(ADAPTERS) + list(ADAPTERS)[1:])](model)
