"""A detector with trained weights on photographs: the heat of a box falls on its object.

YOLO26 n, its own photographs, those of scikit-image and foolbox. Measures as in test_real_weights: the peak, and the energy
in the box over the box's share of the area.
"""

from __future__ import annotations

import detectors
import numpy as np
import pytest
import real_networks
import torch
from torch import Tensor

import camfast
from camfast.pictures import photos

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def yolo(tmp_path_factory):
    with detectors.ultralytics(tmp_path_factory.mktemp("settings")):
        yield real_networks.yolo26()[0]


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    data = pytest.importorskip("skimage.data")
    assets = real_networks._asset("python/ultralytics/assets")
    found = [photos.read(assets / name) for name in ("bus.jpg", "zidane.jpg")]
    found += [data.coffee(), data.chelsea(), data.astronaut()]
    return found + [real_networks.scene(name).photo for name in sorted(real_networks.FOOLBOX)]


@pytest.fixture(scope="module")
def results(yolo, pictures) -> list[camfast.Detections]:
    explainer = camfast.DetectionExplainer(yolo)
    return [explainer(photo) for photo in pictures]


def inside(box: Tensor, size: tuple[int, int]) -> Tensor:
    """Bool ``size``: the pixels whose centres lie in the box."""
    y, x = torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5
    x0, y0, x1, y1 = box.tolist()
    return ((y >= y0) & (y <= y1))[:, None] & ((x >= x0) & (x <= x1))


def test_it_finds_what_is_there(results):
    names = results[0].names[0]
    assert names.count("bus") == 1 and names.count("person") >= 3
    assert "cat" in results[3].names[0] and "person" in results[4].names[0]


def test_the_heat_of_a_box_falls_on_its_object(results):
    peaks, lifts = [], []
    for result in results:
        for box, heat in zip(result.boxes[0], result.heatmaps[0], strict=True):
            mask = inside(box, tuple(heat.shape))
            peaks.append(bool(mask.flatten()[heat.argmax()]))
            lifts.append(((heat[mask].sum() / heat.sum()) / mask.float().mean()).item())
    assert len(peaks) >= 15 and sum(peaks) >= 0.95 * len(peaks)
    small = [lift for lift in lifts if lift]
    assert np.median(small) >= 3


def test_each_box_has_its_own_heat(results):
    """Where boxes do not overlap, a box holds more of its own heat than of any other's."""
    seen = 0
    for result in results:
        boxes, heat = result.boxes[0], result.heatmaps[0]
        shares = (
            torch.stack([(heat * inside(box, tuple(heat.shape[1:]))).sum((1, 2)) for box in boxes])
            if len(boxes)
            else None
        )
        for i in range(len(boxes)):
            for k in range(len(boxes)):
                if i != k and camfast.detection.keep.overlaps(boxes[i : i + 1], boxes[k : k + 1]) < 0.05:
                    seen += 1
                    assert shares[i, i] / heat[i].sum() > shares[i, k] / heat[k].sum()
    assert seen > 10
