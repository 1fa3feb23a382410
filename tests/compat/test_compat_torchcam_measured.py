"""What torchcam's metrics and overlays take and refuse: the same script on torchcam and on ours."""

from __future__ import annotations

import importlib
from functools import partial

import numpy as np
import pytest
import torch
from torchcam_beside import OURS, Net, X, check

pytest.importorskip("torchcam")


@pytest.fixture(autouse=True)
def as_the_peer(monkeypatch):
    monkeypatch.setattr(importlib.import_module(OURS), "strict", True)


@pytest.mark.parametrize("wanted", [-1, 3, [0], [0, 3], [0, True], (0, 1), 1.0, [0, "1"], "1", True, None])
@pytest.mark.parametrize("name", ["ClassificationMetric", "DeletionInsertionMetric"])
def test_classes_of_metrics(name, wanted):
    model = Net().eval()

    def script(torchcam):
        with torchcam.methods.GradCAM(model, "3") as extractor:
            metric = getattr(torchcam.metrics, name)(extractor, partial(torch.softmax, dim=-1))
            metric.update(X, wanted)
            return metric.summary()

    check(script)


@pytest.mark.parametrize("shape", [(4,), (4, 5), (3, 4, 5), (2, 3, 4, 5), ()])
def test_ranks_of_metrics(shape):
    cam = torch.rand(2, *(2 for _ in shape), generator=torch.Generator().manual_seed(0))
    check(lambda torchcam: torchcam.metrics._resize_cam(cam, shape))


@pytest.mark.parametrize("scale", [0.0, 1e-8, 1.0])
def test_small_scores_of_metrics(scale):
    model = Net().eval()

    def script(torchcam):
        with torchcam.methods.GradCAM(model, "3") as extractor:
            metric = torchcam.metrics.ClassificationMetric(extractor, lambda out: out.softmax(-1) * scale)
            metric.update(X, 0)
            return metric.summary()

    check(script)


@pytest.mark.parametrize("alpha", [0.4, -0.1, 1.0, float("nan"), 1, "0.5"])
@pytest.mark.parametrize("modes", ["RGB F", "L L", "RGB RGB", "RGBA F", "I F", "CMYK F"])
@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_overlays_take_and_refuse(alpha, modes):
    from PIL import Image  # which torchcam needs too

    below, above = modes.split()
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (6, 7, 3), dtype=np.uint8)).convert(below)
    mask = Image.fromarray(rng.random((3, 3), dtype=np.float32))
    mask = mask if above == "F" else Image.fromarray(rng.integers(0, 255, (3, 3), dtype=np.uint8)).convert(above)
    check(
        lambda torchcam: torch.tensor(np.asarray(torchcam.utils.overlay_mask(picture, mask, alpha=alpha)).astype(int))
    )
