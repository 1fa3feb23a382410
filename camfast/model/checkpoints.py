"""Trained weights from a file: found inside whatever wraps them, matched to a model, or refused in one sentence."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import reason, require, why_no_file

__all__ = ["class_count", "load", "read"]

# Where training scripts put the weights of a checkpoint, the averaged ones first.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "net", "network", "weights")
# What wrappers of modules put before every name: data parallelism, torch.compile, training frameworks.
_PREFIX = re.compile(r"^(?:(?:module|model|net|network|_orig_mod|_forward_module)\.)+")
_OPTIONAL = re.compile(r"(?:^|\.)num_batches_tracked$")


def read(path: str | PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name: safetensors, or a file of ``torch.save`` loaded with ``weights_only=True``.

    What training scripts wrap around the weights is taken off: an outer dict (``state_dict``, ``model``, ...), and
    before the names ``module.``, ``model.`` and the like where every name has one.

    Raises ``ValueError`` where the file is missing, damaged, holds more than tensors, or holds none.
    """
    path = Path(path).expanduser()
    if why := why_no_file(path):
        raise ValueError(f"cannot read {path} as weights: {why}")
    if path.stat().st_size == 0:
        raise ValueError(f"cannot read {path} as weights: the file is empty")
    state = _tensors(_contents(path))
    if not state:
        raise ValueError(f"expected the weights of a network by name in {path}, got a file without any")
    while all(_PREFIX.match(name) for name in state):
        state = {_PREFIX.sub("", name): tensor for name, tensor in state.items()}
    return state


def load(model: nn.Module, state: Mapping[str, Tensor], source: str | PathLike[str] = "the weights") -> nn.Module:
    """Copies ``state`` into ``model``, whose parameters and buffers it must name, all of them and no others.

    Counters of batches (``num_batches_tracked``) may be missing. Raises ``ValueError`` naming a few of the tensors that
    differ; the model is unchanged then.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in state and not _OPTIONAL.search(name)]
    unknown = [name for name in state if name not in own and not _OPTIONAL.search(name)]
    shapes = [
        f"{name} {list(state[name].shape)} where the model has {list(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    kinds = {"missing": missing, "unknown": unknown, "of another shape": shapes}
    problems = [f"{len(names)} {kind} ({_few(names)})" for kind, names in kinds.items() if names]
    if problems:
        what = f"the {len(own)} tensors of {type(model).__name__}"
        raise ValueError(f"expected {what} in {source}, got {', '.join(problems)}")
    model.load_state_dict({name: state[name] for name in own if name in state}, strict=False)
    return model


def class_count(model: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """The number of classes ``state`` was trained for, where its classifier alone differs in shape from ``model``'s.

    None where nothing differs, or where more differs than the first dimension of the classifier.
    """
    counts = set()
    for name, own in model.state_dict().items():
        tensor = state.get(name)
        if tensor is None or tensor.shape == own.shape:
            continue
        if tensor.ndim != own.ndim or tensor.ndim == 0 or tensor.shape[1:] != own.shape[1:]:
            return None
        counts.add((own.shape[0], tensor.shape[0]))
    return counts.pop()[1] if len(counts) == 1 else None


def _contents(path: Path) -> object:
    if path.suffix == ".safetensors":
        require("safetensors", "vision")
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except Exception as error:  # safetensors has its own exception class in compiled code
            raise ValueError(f"cannot read {path} as safetensors: {reason(error)}") from error
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # the options that training scripts save beside
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"cannot read {path} as weights: {error.strerror or reason(error)}") from error
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"cannot read {path} as weights: it is no checkpoint, or holds more than tensors, such as a whole pickled "
            "model; save model.state_dict() instead"
        ) from error
    except Exception as error:  # of a text "pop from empty list", of half a file "failed finding central directory"
        raise ValueError(
            f"cannot read {path} as weights: it is no file of torch.save, or a damaged one ({type(error).__name__}); "
            "save model.state_dict(), or safetensors under a name that ends so"
        ) from error


def _tensors(contents: object) -> dict[str, Tensor]:
    """The tensors of the innermost dict of weights in ``contents``."""
    if not isinstance(contents, Mapping):
        return {}
    for wrapper in _WRAPPERS:
        inner = contents.get(wrapper)
        if isinstance(inner, Mapping) and (tensors := _tensors(inner)):
            return tensors
    return {name: value for name, value in contents.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _few(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
