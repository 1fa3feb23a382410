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
import torch.nn.functional as F
from torch import Tensor

import camfast
from camfast.detection.keep import overlaps
from camfast.pictures import photos

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def yolo(tmp_path_factory):
    with detectors.ultralytics(tmp_path_factory.mktemp("settings")):
        yield real_networks.yolo26()[0]


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    data = pytest.importorskip("skimage.data")
    assets = real_networks.asset("python/ultralytics/assets")
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
    """The peak is in the box, and there is three times as much heat as its share of the picture, where it is a small one."""
    peaks, lifts, small = [], [], []
    for result in results:
        for box, heat in zip(result.boxes[0], result.heatmaps[0], strict=True):
            mask = inside(box, tuple(heat.shape))
            share = mask.float().mean().item()
            peaks.append(bool(mask.flatten()[heat.argmax()]))
            lifts.append((heat[mask].sum() / heat.sum()).item() / share)
            small += [lifts[-1]] if share < 0.3 else []
    assert len(peaks) >= 15 and sum(peaks) >= 0.95 * len(peaks)
    assert np.mean(lifts) >= 3 and len(small) >= 10 and min(small) >= 3


@pytest.mark.parametrize("end2end", [False, True])
def test_the_same_map_as_its_own_library_draws(yolo, pictures, end2end, tmp_path, monkeypatch):
    """With the same rule, levels and fusion; it takes a backward pass of the whole neck for each box."""
    from ultralytics.utils import plotting

    head = yolo.model[-1]
    monkeypatch.setattr(head, "end2end", end2end)
    image = torch.from_numpy(pictures[0]).permute(2, 0, 1)[None].float() / 255
    image = F.interpolate(image, (640, 480), mode="bilinear", antialias=True)
    drawn = []
    maximum = torch.maximum

    def noted(a: Tensor, b: Tensor) -> Tensor:
        drawn.append(maximum(a, b))
        return drawn[-1]

    class Backend:
        model = yolo

        def __call__(self, image: Tensor) -> object:
            return yolo(image)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "maximum", noted)
        plotting.class_activation_map(Backend(), image, ["bus.jpg"], tmp_path, topk=16, conf=0.25)
    theirs = [cam for cam in drawn if cam.shape == (1, 1, 640, 480)][-1][0, 0].detach()
    # It explains every candidate above the threshold, suppressed or not.
    explainer = camfast.DetectionExplainer(yolo, through="levels", fuse="max", overlap=1.0)
    ours = explainer(image).heatmaps[0]
    assert len(ours) >= 4 and explainer.layers == ["model.16", "model.19", "model.22"]
    assert (ours.amax(0) - theirs).abs().max() < 1e-4


def test_each_box_has_its_own_heat(results):
    """A box holds more of its own heat than of that of any box beside it."""
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
                if i != k and overlaps(boxes[i : i + 1], boxes[k : k + 1]) == 0:
                    seen += 1
                    assert shares[i, i] / heat[i].sum() > shares[i, k] / heat[k].sum()
    assert seen > 10
