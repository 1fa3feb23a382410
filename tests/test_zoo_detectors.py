"""Detectors by name or file: what a name says of itself, the preparation that goes with it, and one sentence where it cannot be."""

from __future__ import annotations

import json
import sys
from typing import ClassVar

import numpy as np
import pytest
import real_networks
import torch
from torch import nn

from camfast import zoo

detection = pytest.importorskip("torchvision.models.detection")
NAME = "ssdlite320_mobilenet_v3_large"


class Own(nn.Module):
    """A network of a user's, whose file holds its code's name."""

    names: ClassVar[dict[int, str]] = {0: "cat", 2: "dog"}

    def forward(self, x):
        return x


def saved(tmp_path, **options):
    model = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, **options)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    return model


def test_torchvision_by_name_with_weights(tmp_path):
    model = saved(tmp_path)
    found = zoo.load_detector(NAME, tmp_path / "weights.pth")
    assert zoo.is_detector(NAME) and not zoo.is_detector("resnet18")
    assert (found.prepare, found.side) == (None, None) and not found.model.training
    assert found.class_name(6) == "bus" and found.class_name(1) == "person" and found.class_name(500) == "class 500"
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, found.model.state_dict()[name])


def test_weights_of_other_classes(tmp_path):
    saved(tmp_path, num_classes=4)
    (tmp_path / "names.txt").write_text("ground\ncat\ndog\nboat\n")
    found = zoo.load_detector(NAME, tmp_path / "weights.pth")
    assert found.class_names is None and found.class_name(2) == "class 2"
    named = zoo.load_detector(NAME, tmp_path / "weights.pth", tmp_path / "names.txt")
    assert named.class_name(2) == "dog"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("fasterrcnn_mobilenet_v3_large_320_fpn", "roi_heads.box_predictor.cls_score.weight"),
        ("retinanet_resnet50_fpn", "head.classification_head.cls_logits.weight"),
        ("fcos_resnet50_fpn", "head.classification_head.cls_logits.weight"),
    ],
)
def test_the_number_of_classes_is_read_off_the_weights(name, key):
    from camfast.zoo.detectors import _class_count

    with torch.device("meta"):
        usual = getattr(detection, name)(weights=None, weights_backbone=None)
        other = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=7)
    assert key in other.state_dict()
    assert _class_count(usual, other.state_dict(), 91) == 7 and _class_count(usual, usual.state_dict(), 91) is None


def test_a_size_of_ones_own(tmp_path):
    saved(tmp_path)
    model = detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)
    torch.save(model.state_dict(), tmp_path / "faster.pth")
    found = zoo.load_detector("fasterrcnn_mobilenet_v3_large_320_fpn", tmp_path / "faster.pth", size=160)
    images, _ = found.model.transform([torch.zeros(3, 90, 120)])
    assert images.image_sizes == [(120, 160)]


def test_a_pickled_network_is_trusted_or_not(tmp_path):
    file = tmp_path / "own.pt"
    torch.save(Own(), file)
    assert not zoo.is_detector(str(file))
    with pytest.raises(ValueError, match=r"pickled network.*test_zoo_detectors.Own.*--trust"):
        zoo.load_detector(file)
    found = zoo.load_detector(file, trust=True)
    assert type(found.model) is Own and found.prepare is None
    assert [found.class_name(n) for n in range(3)] == ["cat", "class 1", "dog"]


def test_what_is_wrong_is_said(tmp_path):
    torch.save({"a": torch.zeros(2)}, tmp_path / "weights.pth")
    torch.save(["no network", Own], tmp_path / "list.pt")
    (tmp_path / "empty").mkdir()
    cases = [
        ("fasterrcnn_resnet50", {}, r"detector of torchvision.*close to it: 'fasterrcnn_resnet50_fpn"),
        ("yolo26n.pt", {}, "a file that does not exist"),
        (tmp_path / "weights.pth", {}, "weights alone.*--weights FILE"),
        (tmp_path / "list.pt", {"trust": True}, "expected a network in .*list"),
        (tmp_path / "empty", {}, "expected a network that detects objects in .*empty, got no network"),
    ]
    for name, options, message in cases:
        with pytest.raises(ValueError, match=message):
            zoo.load_detector(name, **options)
    torch.save(Own(), tmp_path / "own.pt")
    with pytest.raises(ValueError, match="weights for a network by name"):
        zoo.load_detector(tmp_path / "own.pt", tmp_path / "weights.pth", trust=True)


def test_ultralytics_is_named_where_it_is_missing(tmp_path, monkeypatch):
    """Of its files alone: nothing of it is imported to find out."""
    monkeypatch.setattr("camfast.zoo.detectors._pickled", lambda path: ["ultralytics.nn.tasks.DetectionModel"])
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    (tmp_path / "best.pt").write_bytes(b"")
    assert zoo.is_detector(str(tmp_path / "best.pt"))
    with pytest.raises(
        ImportError, match=r"best.pt needs the package ultralytics \(AGPL-3.0\): pip install ultralytics"
    ):
        zoo.load_detector(tmp_path / "best.pt")


@pytest.mark.real
def test_weights_of_ultralytics(tmp_path, monkeypatch):
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))  # its library writes settings where it is imported
    real_networks.yolo26()  # brings the library in
    file = real_networks.asset("yolo26-1/yolo26n.pt")
    assert zoo.is_detector(str(file))
    found = zoo.load_detector(file)
    assert (
        found.class_name(5) == "bus"
        and not found.model.training
        and next(found.model.parameters()).dtype == torch.float32
    )
    assert zoo.load_detector(file, size=320).side == 320


# Hugging Face


def test_a_folder_says_what_it_is(tmp_path):
    for name, detects in [("DetrForObjectDetection", True), ("ViTForImageClassification", False)]:
        (tmp_path / "config.json").write_text(json.dumps({"architectures": [name]}))
        assert zoo.is_detector(str(tmp_path)) is detects


def test_a_network_of_hugging_face(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.YolosConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=[64, 64],
        patch_size=16, num_detection_tokens=5, num_labels=3, id2label={0: "cat", 1: "dog", 2: "boat"},
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.YolosForObjectDetection(config).save_pretrained(tmp_path)
    steps = {"size": {"height": 64, "width": 64}, "image_processor_type": "YolosImageProcessor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(steps))
    assert zoo.is_detector(str(tmp_path))
    found = zoo.load_detector(tmp_path)
    assert found.prepare(images=[np.zeros((30, 40, 3), np.uint8)], return_tensors="pt")["pixel_values"].shape[2:] == (
        64,
        64,
    )
    assert list(found.class_names) == ["cat", "dog", "boat"]
    assert found.model(torch.zeros(1, 3, 64, 64)).logits.shape == (1, 5, 4)
