"""Each form of output with the real package: the heat of a box is that of its score's gradient by plain autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import detectors
import pytest
import torch
from torch import Tensor, nn

import camfast

TORCHVISION = {  # and the number of maps that the head reads
    "faster_rcnn": 4,
    "mask_rcnn": 4,
    "retinanet": 4,  # and one of a single place, which is no map
    "fcos": 4,
    "ssdlite320_mobilenet_v3_large": 5,  # the same
    "ssd300_vgg16": 5,
}
TOLERANCE = 1e-6  # in fp64: random weights make heat of tiny numbers

YOLO = ["yolov8n", "yolo11n", "yolov10n", "yolo26n", "yolo26n-seg"]
HUGGINGFACE = ["Detr", "ConditionalDetr", "DeformableDetr", "RTDetr", "DFine", "Yolos", "OwlViT", "RfDetr"]


def nearest(scores: Tensor, score: float) -> Tensor:
    """The number among ``scores`` that is ``score``, with its graph."""
    flat = scores.flatten()
    distance = (flat.detach() - score).abs()
    assert (distance < 1e-12).sum() == 1
    return flat[distance.argmin()]


def check(
    model: nn.Module,
    images: Any,
    call: Callable[[], Any],
    scores: Callable[[Any, int, int], Tensor],
    canvas: tuple[int, int],
    tolerance: float = TOLERANCE,
    **options: Any,
) -> camfast.Detections:
    """Every box of every image, against plain autograd; returns the result.

    ``scores(output, image, label)`` are the probabilities of a class.
    """
    explainer = camfast.DetectionExplainer(model, **options)
    result = explainer(images, min_score=0.0, top=2)
    again = explainer(images, min_score=0.0, top=2)
    separate = explainer.through == "head"
    blank = 0
    for i in range(len(result)):
        assert len(result.boxes[i]) > 0 and result.boxes[i].shape == (len(result.labels[i]), 4)
        for k, (label, score) in enumerate(zip(result.labels[i].tolist(), result.scores[i].tolist(), strict=True)):
            value = lambda output, i=i, label=label, score=score: nearest(scores(output, i, label), score)  # noqa: E731
            maps, gradients = detectors.plain_gradients(model, call, explainer.layers, value, separate)
            grids = [_grid(explainer, m, name) for m, name in zip(maps, explainer.layers, strict=True)]
            slopes = [
                None if g is None else _grid(explainer, g, name)
                for g, name in zip(gradients, explainer.layers, strict=True)
            ]
            levels = detectors.layer_cam_of(grids, slopes, i)
            heat = result.heatmaps[i][k]
            assert (again.heatmaps[i][k] - heat).abs().max() < tolerance
            blank += not heat.any()
            if not any(level.any() for level in levels):
                assert not heat.any()
                continue
            expected = detectors.summed(levels, canvas)
            assert heat.shape == canvas and (heat - expected).abs().max() < tolerance, (i, k)
    assert blank < sum(map(len, result.labels))
    return result


def _grid(explainer: camfast.DetectionExplainer, tensor: Tensor, name: str) -> Tensor:
    """Tokens as a map, where they are some: those of YOLOS are 1 of the class, the patches, and 5 detections."""
    if tensor.ndim == 4:
        return tensor
    patches = tensor[:, 1:-5] if tensor.shape[1] == 54 else tensor
    height = {48: 6, 36: 6, 12: 3}[patches.shape[1]]
    return patches.transpose(1, 2).unflatten(2, (height, -1))


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name):
    large = name == "ssd300_vgg16"  # of 31 GFLOP
    dtype = torch.float32 if large else torch.float64
    model = detectors.torchvision_model(name).to(dtype)
    size = (300, 300) if large else (320, 320) if name.startswith("ssd") else (64, 96)
    images = torch.rand(1, 3, *size, dtype=dtype)
    scores = lambda output, i, label: output[i]["scores"]  # noqa: E731
    result = check(model, images, lambda: model(images), scores, size, 1e-4 if large else TOLERANCE)
    assert len(result.layers) == TORCHVISION[name], result.layers
    assert torch.equal(result.boxes[0], model(images)[0]["boxes"][: len(result.boxes[0])].detach())
    assert (result.masks is not None) == name.startswith("mask")


def test_images_of_different_sizes():
    """Each heat is on its own image, though the model scales and pads them into one batch."""
    model = detectors.torchvision_model("retinanet")
    images = [torch.rand(3, 64, 96), torch.rand(3, 90, 60)]
    explainer = camfast.DetectionExplainer(model)
    result = explainer(images, min_score=0.0, top=2)
    assert [tuple(heat.shape) for heat in result.heatmaps] == [(2, 64, 96), (2, 90, 60)]
    padded, sizes = model.transform(images)[0].tensors, model.transform(images)[0].image_sizes
    for i, image in enumerate(images):
        for k, score in enumerate(result.scores[i].tolist()):
            value = lambda output, i=i, score=score: nearest(output[i]["scores"], score)  # noqa: E731
            found = detectors.plain_gradients(model, lambda: model(images), explainer.layers, value, True)
            levels = detectors.layer_cam_of(*found, image=i)
            whole = detectors.summed(levels, tuple(padded.shape[2:]))
            part = whole[: sizes[i][0], : sizes[i][1]]
            expected = detectors._resized(part / part.amax(), tuple(image.shape[1:]))
            assert (result.heatmaps[i][k] - expected).abs().max() < 1e-4


@pytest.mark.parametrize(("name", "through"), [*((name, "head") for name in YOLO), ("yolo26n", "levels")])
def test_ultralytics(name, through, tmp_path):
    model = detectors.yolo(tmp_path, name).double()
    images = torch.rand(2, 3, 128, 160, dtype=torch.float64)

    def scores(output: Any, i: int, label: int) -> Tensor:
        table = output[0][0] if "-seg" in name else output[0]
        if table.shape[2] in (6, 38):  # chosen by the model
            rows = table[i]
            return rows[:, 4][rows[:, 5] == label]
        return table[i, 4 + label]

    result = check(model, images, lambda: model(images), scores, (128, 160), through=through)
    assert result.layers == [f"model.{k}" for k in model.model[-1].f]
    assert result.names[0] == [str(model.names[int(label)]) for label in result.labels[0]]
    assert (result.masks is not None) == ("-seg" in name)


def test_rt_detr_of_ultralytics(tmp_path):
    """Its rows are centre and size in shares of the image, score, class."""
    model = detectors.yolo(tmp_path, "rtdetr-l")
    images = torch.rand(1, 3, 160, 192)

    def scores(output: Any, i: int, label: int) -> Tensor:
        return output[0][i, :, 4][output[0][i, :, 5] == label]

    result = check(model, images, lambda: model(images), scores, (160, 192), 1e-4)
    assert len(result.layers) == 3
    rows = model(images)[0][0].detach()
    best = rows[rows[:, 4].argsort(descending=True)[:2]]
    centres, sizes = best[:, :2] * torch.tensor([192, 160]), best[:, 2:4] * torch.tensor([192, 160])
    expected = torch.cat([centres - sizes / 2, centres + sizes / 2], 1)
    assert (
        torch.allclose(result.boxes[0], expected, atol=1e-3)
        and (result.boxes[0][:, 2] - result.boxes[0][:, 0] > 1).all()
    )


@pytest.mark.parametrize("name", YOLO)
def test_ultralytics_by_windows(name, tmp_path):
    """Once boxes are known to depend on what is around them, a window for each is enough."""
    model = detectors.yolo(tmp_path, name).double()
    images = torch.rand(2, 3, 256, 320, dtype=torch.float64)
    explainer = camfast.DetectionExplainer(model)
    expected = explainer(images, min_score=0.0, top=6)
    with detectors.gradients_asked_for() as asked:
        result = explainer(images, min_score=0.0, top=6)
    assert not asked
    for heat, other in zip(result.heatmaps, expected.heatmaps, strict=True):
        assert heat.flatten(1).any(1).all() and (heat - other).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", HUGGINGFACE)
def test_huggingface(name):
    model = detectors.huggingface(name).double()
    size = {"OwlViT": (96, 96), "RfDetr": (112, 168)}.get(name, (96, 128))
    inputs = {"pixel_values": torch.randn(2, 3, *size, dtype=torch.float64)}
    if name == "OwlViT":
        inputs["input_ids"] = torch.randint(2, 48, (6, 8))  # three texts an image

    def scores(output: Any, i: int, label: int) -> Tensor:
        softmax = name in ("Detr", "Yolos")
        return (output.logits[i].softmax(-1) if softmax else output.logits[i].sigmoid())[:, label]

    result = check(model, inputs, lambda: model(**inputs), scores, size, through="levels")
    assert len(result.layers) == (3 if name in ("DeformableDetr", "RTDetr", "DFine") else 1), result.layers
    assert result.names[0][0].startswith("LABEL_" if name != "OwlViT" else ("0", "1", "2"))
