"""What outlives a call: what is remembered, explanations that are saved and copied, threads, and weights that are NaN."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import threading
import warnings

import pytest
import torch
from torch import nn

import camfast
from camfast.errors import DoubtWarning
from camfast.model import probe
from camfast.model.bounded import Bounded


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


def test_one_image_is_saved_alone_and_loads_as_weights_only():
    found = camfast.grad_cam(network(), torch.rand(64, 3, 16, 16), layers="1")
    file = io.BytesIO()
    torch.save(found[3], file)
    assert len(file.getvalue()) < 20_000  # the batch's heatmaps and images are 260 kB
    file.seek(0)
    again = torch.load(file, weights_only=True)
    assert isinstance(again, camfast.Explanation) and again.layers == ["1"] and again.label(0) == found.label(3)
    assert torch.equal(again.heatmap, found[3].heatmap) and torch.equal(again.images, found.images[3:4])
    assert torch.equal(copy.deepcopy(found).heatmap, found.heatmap)
    assert len(pickle.dumps(found[0])) < 20_000


def test_a_realtime_says_that_it_cannot_be_copied():
    engine = camfast.Realtime(network(), layers="1", input_size=16)
    for make in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied or pickled; make one"):
            make(engine)


def test_a_seed_gives_the_same_in_every_thread():
    explain = camfast.SSCAM(network(), layers="1", samples=3, seed=7)
    images = torch.rand(1, 3, 16, 16)
    expected, found = explain(images, 1).heatmap, []
    threads = [threading.Thread(target=lambda: found.append(explain(images, 1).heatmap)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.append(copy.deepcopy(explain)(images, 1).heatmap)
    assert len(found) == 7 and all(torch.equal(one, expected) for one in found)
    assert (camfast.SSCAM(network(), layers="1", samples=3, seed=8)(images, 1).heatmap - expected).abs().max() > 1e-4


def test_nan_weights_and_images_are_said():
    model, images = network(), torch.rand(3, 3, 16, 16)
    images[1, 0, 0, 0] = torch.nan
    with pytest.warns(DoubtWarning, match=r"scores of image 1 are NaN \(GradCAM\): look for NaN in what"):
        found = camfast.grad_cam(model, images, layers="1")
    assert found.heatmap.isnan().flatten(1).any(1).tolist() == [False, True, False]
    with torch.no_grad():
        model[0].weight[0] = torch.nan
    with pytest.warns(DoubtWarning, match=r"every image of 3 are NaN.*'0.weight' holds NaN"):
        camfast.grad_cam(model, images, layers="1")


def test_what_is_remembered_by_shape_has_a_bound():
    model = network()
    explain = camfast.GradCAM(model, layers="1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for side in range(8, 108):
            explain(torch.rand(1, 3, side, side + 3), [[0, 1]])
    kept = [len(shapes) for layers in [probe._readings[model]] for shapes in layers.values()]
    assert max(kept) <= 64 and len(explain._quirks.batched_backward) <= 256
    few: Bounded[int, int] = Bounded(3)
    for number in range(9):
        few[number] = few.setdefault(number + 100, number)
    assert len(few) == 3 and 8 in few


def test_explanations_leave_nothing_behind():
    model, images = network(), torch.rand(1, 3, 16, 16)
    explain = camfast.GradCAM(model, layers="1")

    def count() -> int:
        for _ in range(50):
            explain(images, 1)
        gc.collect()
        return len(gc.get_objects())

    count()  # what the first calls find out
    before = count()
    assert abs(count() - before) < 20
