"""The detectors of the benchmark, and each library's way to say why the best sixteen boxes are there.

YOLO26 comes with its trained weights, from the folder CAMFAST_ASSETS (``tests/fetch_assets.sh``); the others have random
ones, and thresholds of 0, so that there are sixteen boxes: time and memory do not depend on the values.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import camfast
from camfast.pictures import photos

__all__ = ["BOXES", "CASES", "LEAST", "DetectCase", "Missing", "by_their_rule", "candidates", "load", "their_map"]

BOXES = 16
LEAST = 1e-4  # a score that sixteen boxes have


class Missing(Exception):
    """What a case needs is not here."""


@dataclass(frozen=True)
class DetectCase:
    """A detector, the side of its square input, and the most that explaining 16 boxes may cost over the plain forward."""

    network: str
    side: int
    budget: float | None = None
    quick: bool = False

    @property
    def label(self) -> str:
        return f"{self.network} {self.side}"


CASES = (
    DetectCase("yolo26n", 640, budget=1.35, quick=True),
    DetectCase("yolo26s", 640, budget=1.35),
    DetectCase("ssdlite320_mobilenet_v3_large", 320),
    DetectCase("fasterrcnn_mobilenet_v3_large_320_fpn", 320),
    DetectCase("retinanet_resnet50_fpn", 320),
    DetectCase("detr", 480),
)


def load(case: DetectCase) -> tuple[nn.Module, Tensor]:
    """The detector in evaluation mode, and its input ``[1, 3, side, side]``. Raises :class:`Missing`."""
    torch.manual_seed(0)
    if case.network.startswith("yolo"):
        model = _yolo(case.network)
        photo = photos.read(_assets() / "python" / "ultralytics" / "assets" / "bus.jpg")
        return model, _squared(torch.from_numpy(photo), case.side)
    build = _detr if case.network == "detr" else functools.partial(_torchvision, case.network, case.side)
    return build().eval(), torch.rand(1, 3, case.side, case.side)


def candidates(case: DetectCase, model: nn.Module, images: Tensor, boxes: int = BOXES) -> dict[str, Callable[[], Any]]:
    """Every library at hand: calls that explain the best ``boxes`` of the image, each from the picture on."""
    explainer = camfast.DetectionExplainer(model)
    first = explainer(images, min_score=LEAST, top=boxes)
    if len(first.boxes[0]) != boxes:
        raise ValueError(f"expected {boxes} boxes to explain, got {len(first.boxes[0])}")

    def forward() -> Any:
        with torch.inference_mode():
            return model(images)

    found: dict[str, Callable[[], Any]] = {
        "camfast": lambda: explainer(images, min_score=LEAST, top=boxes),
        "forward": forward,
    }
    if case.network.startswith("yolo"):
        theirs = by_their_rule(model)
        found["camfast, their rule"] = lambda: theirs(images, min_score=LEAST, top=boxes)
        found["ultralytics"] = lambda: _ultralytics(model, images, boxes)
    if importlib.util.find_spec("pytorch_grad_cam") is not None:
        found["pytorch-grad-cam"] = _pytorch_grad_cam(case, model, images, explainer.layers, first)
    return found


def by_their_rule(model: nn.Module) -> camfast.DetectionExplainer:
    """The explainer that draws what ultralytics draws: gradients through the neck, every level to its own maximum."""
    return camfast.DetectionExplainer(model, fuse="max", through="levels", overlap=1.0)


# The detectors


def _squared(photo: Tensor, side: int) -> Tensor:
    """``photo``, uint8 ``[H, W, 3]``, fitted into a grey square: ``[1, 3, side, side]``."""
    height, width = photo.shape[:2]
    scale = side / max(height, width)
    size = round(height * scale), round(width * scale)
    image = F.interpolate(photo.permute(2, 0, 1)[None].float() / 255, size, mode="bilinear")
    down, across = side - size[0], side - size[1]
    return F.pad(image, (across // 2, across - across // 2, down // 2, down - down // 2), value=114 / 255)


def _assets() -> Path:
    folder = os.environ.get("CAMFAST_ASSETS")
    if not folder or not Path(folder).is_dir():
        raise Missing("trained weights: run tests/fetch_assets.sh FOLDER, and set CAMFAST_ASSETS=FOLDER")
    return Path(folder)


def _yolo(name: str) -> nn.Module:
    """As ultralytics runs it: batch norms folded into the convolutions, the head of the other training removed."""
    folder = _assets()
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp())  # its library writes settings where it is imported
    sys.path.append(str(folder / "python"))
    file = folder / "yolo26-1" / f"{name}.pt"
    try:
        ultralytics = importlib.import_module("ultralytics")
    except ImportError as error:
        raise Missing(f"ultralytics ({error})") from error
    if not file.exists():
        raise Missing(str(file))
    return ultralytics.YOLO(file).model.float().eval().fuse(verbose=False)


def _torchvision(name: str, side: int) -> nn.Module:
    detection = importlib.import_module("torchvision.models.detection")
    model = getattr(detection, name)(weights=None, weights_backbone=None)
    if model.transform.fixed_size is None:  # else it would enlarge the picture to 800 pixels
        model.transform.min_size, model.transform.max_size = (side,), side
    for part in (model, getattr(model, "roi_heads", None)):
        for threshold in ("score_thresh", "box_score_thresh"):
            if hasattr(part, threshold):
                setattr(part, threshold, 0.0)
    return model


def _detr() -> nn.Module:
    transformers = importlib.import_module("transformers")
    backbone = transformers.ResNetConfig(out_features=["stage4"])
    config = transformers.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone
    )
    return transformers.DetrForObjectDetection(config)


# The others


class _Watched(TorchFunctionMode):
    """Keeps what ``torch.maximum`` returned last: the map that ultralytics has before it is made 8 bits."""

    last: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.maximum:
            self.last = result
        return result


@contextlib.contextmanager
def _no_files(plotting: Any) -> Iterator[None]:
    """Nothing is written: files are not what is compared."""
    write, plotting.cv2.imwrite = plotting.cv2.imwrite, lambda *_: True
    level = plotting.LOGGER.level
    plotting.LOGGER.setLevel("ERROR")
    try:
        yield
    finally:
        plotting.cv2.imwrite = write
        plotting.LOGGER.setLevel(level)


def _ultralytics(model: nn.Module, images: Tensor, boxes: int) -> Any:
    """What ``predict(visualize=True)`` calls, for an input that is prepared."""
    plotting = importlib.import_module("ultralytics.utils.plotting")
    if not hasattr(plotting, "class_activation_map"):
        raise Missing("an ultralytics with class_activation_map, of 2026")
    with _no_files(plotting), tempfile.TemporaryDirectory() as folder:
        return plotting.class_activation_map(_Backend(model), images, ["bus.jpg"], Path(folder), conf=LEAST, topk=boxes)


class _Backend:
    """As much of ultralytics' ``AutoBackend`` as its heatmap asks for."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, images: Tensor) -> Any:
        return self.model(images)


def their_map(model: nn.Module, images: Tensor, boxes: int = BOXES) -> Tensor:
    """The map ``[H, W]`` of ultralytics for its best ``boxes`` predictions."""
    with _Watched() as watched:
        _ultralytics(model, images, boxes)
    assert watched.last is not None
    return watched.last[0, 0].detach()


class _Rows(nn.Module):
    """A detector's scores as one tensor or list, as pytorch-grad-cam wants them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        for module in self.model.modules():
            if hasattr(module, "anchors") and hasattr(module, "shape"):  # YOLO's head keeps tensors of inference mode
                module.shape = None
        output = self.model(images)
        return output.logits if hasattr(output, "logits") else output[0] if isinstance(output, tuple) else output


def _pytorch_grad_cam(
    case: DetectCase, model: nn.Module, images: Tensor, layers: list[str], first: Any
) -> Callable[[], Any]:
    """Its recipe for detectors: a target for each box, and so a call, with a pass of the whole network both ways."""
    from pytorch_grad_cam import LayerCAM
    from pytorch_grad_cam.utils.model_targets import FasterRCNNBoxScoreTarget

    boxes, labels = first.boxes[0], first.labels[0]
    wrapped = _Rows(model)
    if case.network.startswith("yolo"):
        rows = wrapped(images)[0].detach()
        anchors = rows[4 + labels].argsort(1, descending=True)[:, 0]
        targets = [lambda out, a=a, c=c: out[4 + c, a] for a, c in zip(anchors.tolist(), labels.tolist(), strict=True)]
    elif case.network == "detr":
        logits = wrapped(images)[0].detach()
        best = logits[:, labels].argmax(0)
        targets = [lambda out, q=q, c=c: out[q, c] for q, c in zip(best.tolist(), labels.tolist(), strict=True)]
    else:
        pairs = zip(labels[:, None], boxes[:, None], strict=True)
        targets = [FasterRCNNBoxScoreTarget(label, box) for label, box in pairs]
    modules = _with_maps(model, images, [model.get_submodule(name.partition("#")[0]) for name in layers])
    given = images.clone().requires_grad_(True)  # the parameters of a fused YOLO want no gradient

    def call() -> Any:
        with LayerCAM(wrapped, modules) as explain:  # its hooks would stay on the model
            return [explain(given, [target]) for target in targets]

    return call


def _with_maps(model: nn.Module, images: Tensor, modules: list[nn.Module]) -> list[nn.Module]:
    """Those of ``modules`` that return one tensor, which is what pytorch-grad-cam takes; else the backbone's last convolution."""
    fit: list[nn.Module] = []
    hooks = [
        m.register_forward_hook(lambda m, _, out: fit.append(m) if isinstance(out, Tensor) else None) for m in modules
    ]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    names = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    backbone = [name for name in names if "backbone" in name and "fpn" not in name]
    return [module for module in modules if module in fit] or [model.get_submodule(backbone[-1])]
