"""Detectors by name or file: torchvision's, ultralytics' weights, a folder of Hugging Face, a whole pickled module."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..brief import Brief
from ..errors import closest, or_rather, reason, require
from ..model import checkpoints
from .classifiers import labels_from, published

__all__ = ["Detector", "is_detector", "load_detector"]

_FOUND = ("detect", "segment")  # what ultralytics calls the tasks whose networks find boxes of classes


@dataclass(repr=False)
class Detector(Brief):
    """A detector and what is needed to use it on pictures, which :class:`camfast.DetectionExplainer` takes."""

    name: str
    model: nn.Module  # in evaluation mode
    class_names: Sequence[str] | None = None  # in the order of its labels, where they are known
    prepare: Callable[..., Any] | None = None  # makes its input of pictures; None: that of its kind
    side: int | None = None  # the longer side of its input; None: as it was trained

    def class_name(self, number: int) -> str:
        """The name of a class, or "class 7" where names are not known."""
        known = self.class_names is not None and number < len(self.class_names)
        return self.class_names[number] if known and self.class_names is not None else f"class {number}"


def is_detector(name: str) -> bool:
    """Whether ``name`` is that of a detector, by what the name or the file says of itself; nothing is loaded.

    True for a detector of torchvision, weights of ultralytics, and a folder of Hugging Face whose network detects
    objects. Of a pickled module of another package nothing is known: False.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return "ObjectDetection" in " ".join(_config(path).get("architectures") or [])
    if path.is_file():
        return any(part.startswith("ultralytics.") for part in _pickled(path))
    return name in _torchvision_names()


def load_detector(
    name: str | PathLike[str],
    weights: str | PathLike[str] | None = None,
    labels: str | PathLike[str] | None = None,
    device: torch.device | str = "cpu",
    size: int | None = None,
    trust: bool = False,
) -> Detector:
    """The detector called ``name``, with trained weights, in evaluation mode on ``device``.

    Args:
        name: a detector of torchvision (``"fasterrcnn_resnet50_fpn"``), a file of weights of ultralytics, whose package
            must be installed, a folder of Hugging Face with a network that detects objects, or, with ``trust``, a file of
            ``torch.save(model)``.
        weights: a file for torchvision's networks that :func:`camfast.model.checkpoints.read` reads; the number of classes
            follows it. Without it the published ones are fetched, or taken from the cache.
        labels: a file of class names for :func:`labels_from`, in place of the detector's own.
        device: where it runs.
        size: the longer side of its input in pixels; None: as it was trained.
        trust: lets a pickled module run the code that is in its file.

    Raises:
        ValueError: an unknown name (it gives the closest ones), a file that holds no detector, weights that do not fit or
            cannot be fetched.
        ImportError: naming the package that is missing.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        detector = _hugging_face(path)
    elif path.is_file():
        detector = _file(path, trust)
    else:
        detector = _torchvision(str(name), weights)
    if weights is not None and path.exists():
        raise ValueError(f"expected weights for a network by name, got --weights beside {name}, which has its own")
    if labels is not None:
        detector.class_names = labels_from(labels)
    if size is not None:
        _resize(detector, size)
    detector.model.eval().to(device)
    return detector


def _torchvision(name: str, weights: str | PathLike[str] | None) -> Detector:
    known = _torchvision_names()
    if name not in known:
        if not known:
            require("torchvision", "vision")
        hint = or_rather(closest(name, known, cutoff=0.4), known)
        what = "a file that does not exist" if Path(name).suffix else repr(name)
        raise ValueError(f"expected a detector of torchvision, a file of weights or a folder, got {what}{hint}")
    models = require("torchvision.models", "vision")
    training = models.get_model_weights(name).DEFAULT
    names: list[str] | None = list(training.meta["categories"])
    if weights is None:
        model = published(partial(models.get_model, name, weights=training, weights_backbone=None), name)
    else:
        build = partial(models.get_model, name, weights=None, weights_backbone=None)
        state = checkpoints.read(weights)
        model = build()
        classes = _class_count(model, state, len(names or ()))
        if classes is not None:
            model, names = build(num_classes=classes), None
        checkpoints.load(model, state, str(weights))
    return Detector(name, model, names)


def _class_count(model: nn.Module, state: Mapping[str, Tensor], usual: int) -> int | None:
    """The number of classes of ``state``, where its classifier has other rows than ``model``'s of the ``usual`` number."""
    for name, own in model.state_dict().items():
        given = state.get(name)
        if not any(word in name for word in ("cls_score", "cls_logits", "classification_head")) or given is None:
            continue
        if given.shape != own.shape and given.shape[1:] == own.shape[1:]:
            return round(len(given) * usual / len(own))  # an anchor has a row per class
    return None


def _file(path: Path, trust: bool) -> Detector:
    """A whole network, with the code that its file asks for."""
    code = _pickled(path)
    if any(part.startswith("ultralytics.") for part in code):
        return _ultralytics(path)
    if not code:
        raise ValueError(
            f"expected a whole network in {path}, got weights alone or no file of torch.save; name the network and give "
            "them as --weights FILE"
        )
    if not trust:
        raise ValueError(
            f"{path} is a pickled network, and loading it runs the code of {', '.join(sorted(code)[:3])}: add --trust where "
            "you know where it is from"
        )
    try:
        model = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # whatever the code in it raises
        raise ValueError(f"cannot load the network in {path}: {reason(error)}") from error
    model = model.get("model", model) if isinstance(model, dict) else model
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected a network in {path}, got {type(model).__name__}")
    return Detector(path.stem, model.float(), _names_of(model))


def _ultralytics(path: Path) -> Detector:
    """Weights of ultralytics, by its package, which is the user's to install: its licence is the AGPL."""
    try:
        ultralytics = importlib.import_module("ultralytics")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ultralytics":
            raise
        raise ImportError(f"{path.name} needs the package ultralytics (AGPL-3.0): pip install ultralytics") from error
    yolo = ultralytics.YOLO(path)
    if yolo.task not in _FOUND:
        raise ValueError(f"expected a detector in {path}, got a network of ultralytics for the task {yolo.task!r}")
    model, names = yolo.model.float().eval(), _names_of(yolo.model)
    fuse = getattr(model, "fuse", None)  # batch norms into convolutions: the same boxes, a fifth faster
    return Detector(path.stem, model if fuse is None else fuse(verbose=False), names)


def _hugging_face(path: Path) -> Detector:
    """A folder that ``save_pretrained`` wrote, or that was downloaded."""
    config = _config(path)
    transformers = require("transformers", "huggingface")
    try:
        model = transformers.AutoModelForObjectDetection.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        kind = " ".join(config.get("architectures") or ["no network"])
        raise ValueError(f"expected a network that detects objects in {path}, got {kind}: {reason(error)}") from error
    try:
        prepare = transformers.AutoImageProcessor.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"expected the network's preparation of pictures in {path}: {reason(error)}") from error
    return Detector(path.name, model.float(), _names_of(model.config, "id2label"), prepare)


def _resize(detector: Detector, size: int) -> None:
    """Brings the longer side of the input to ``size``."""
    inner: Any = getattr(detector.model, "transform", None)
    prepare: Any = detector.prepare
    if hasattr(inner, "min_size") and hasattr(inner, "max_size"):  # torchvision's detectors resize by themselves
        inner.min_size, inner.max_size = (size,), size
    elif prepare is None:
        detector.side = size
    elif {"height", "width"} <= set(prepare.size):
        prepare.size = {"height": size, "width": size}
    else:
        prepare.size = {"shortest_edge": size, "longest_edge": size}


def _names_of(holder: Any, field: str = "names") -> list[str] | None:
    """Class names that a model or its configuration holds, by number or as a list."""
    names = getattr(holder, field, None)
    if isinstance(names, Mapping):
        numbers = [int(number) for number in names]
        by_number = {int(number): str(name) for number, name in names.items()}
        return [by_number.get(number, f"class {number}") for number in range(max(numbers) + 1)] if numbers else None
    if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names):
        return list(names)
    return None


def _pickled(path: Path) -> list[str]:
    """The code that the file of ``torch.save`` at ``path`` asks for; nothing of it is run. Empty for any other file."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # no file of torch.save, or one that was cut short
        return []


def _config(path: Path) -> dict[str, Any]:
    try:
        found = json.loads((path / "config.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _torchvision_names() -> list[str]:
    try:
        models: Any = require("torchvision.models", "vision")
    except ImportError:
        return []
    return models.list_models(module=models.detection)
