"""torchcam's metrics beside torchcam: the same script on both."""

from __future__ import annotations

import importlib
from functools import partial

import pytest
import torch
from packages import Packages, each
from torch import nn

pytest.importorskip("torchcam")
OURS, PEER = "camfast.compat.torchcam", "torchcam"
softmax = partial(torch.softmax, dim=-1)


@pytest.fixture(autouse=True)
def as_the_peer(monkeypatch):
    monkeypatch.setattr(importlib.import_module(OURS), "strict", True)


def both(script):
    return each(script, PEER, OURS)


class Net(nn.Sequential):
    def __init__(self, classes=4):
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes),
        )  # fmt: skip


@pytest.fixture
def model():
    return Net().eval()


@pytest.fixture
def x():
    return torch.rand(3, 3, 9, 10)


@pytest.mark.parametrize("logits_fn", [None, softmax])
@pytest.mark.parametrize(
    "wanted", [{}, {"class_idx": 2}, {"class_idx": [3, 0, 1]}, {"targets": lambda scores: scores[1] ** 2}]
)
@pytest.mark.parametrize(
    "name, options", [("ClassificationMetric", {}), ("DeletionInsertionMetric", {"steps": 7, "batch_size": 5})]
)
def test_metrics(model, x, name, options, wanted, logits_fn):
    def script(torchcam):
        with torchcam.methods.LayerCAM(model, ["1", "4"]) as extractor:
            metric = getattr(torchcam.metrics, name)(extractor, logits_fn, **options)
            metric.update(x, **wanted)
            metric.update(x[:1] * 2)
            return metric.summary(), metric.total, metric.nan_count

    (theirs, *counts), (ours, *own_counts) = both(script)
    assert theirs.keys() == ours.keys() and counts == own_counts == [4, 0]
    for key, value in theirs.items():
        assert ours[key] == pytest.approx(value, rel=1e-4, abs=2e-6)


@pytest.mark.parametrize(
    "baseline",
    [torch.tensor(0.5), torch.rand(3, 1, 1), torch.rand(3, 3, 9, 10), lambda x: x.mean((2, 3), keepdim=True)],
)
@pytest.mark.parametrize("steps", [1, 6, 1000])
def test_baselines_and_steps(model, x, baseline, steps):
    def script(torchcam):
        with torchcam.methods.GradCAM(model, "1") as extractor:
            metric = torchcam.metrics.DeletionInsertionMetric(extractor, softmax, baseline=baseline, steps=steps)
            metric.update(x, [1, 2, 3])
            return metric.summary()

    theirs, ours = both(script)
    assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("name", ["ScoreCAM", "CAM", "SmoothGradCAMpp", "FinerCAM"])
def test_metrics_of_other_extractors(model, x, name):
    def script(torchcam):
        with getattr(torchcam.methods, name)(model, "4") as extractor:
            metric = torchcam.metrics.ClassificationMetric(extractor, softmax)
            metric.update(x, 2)
            return metric.summary()

    theirs, ours = both(script)
    assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def test_samples_without_a_map_are_counted_apart(model, x):
    class Broken:
        def __init__(self, extractor):
            self.extractor, self.model, self._hooks_off = extractor, extractor.model, extractor._hooks_off
            self.fuse_cams = extractor.fuse_cams

        def __call__(self, *args, **kwargs):
            cams = self.extractor(*args, **kwargs)
            cams[0][1] = torch.nan
            return cams

    def script(torchcam):
        results = []
        for name in ("ClassificationMetric", "DeletionInsertionMetric"):
            with torchcam.methods.GradCAM(model, "1") as extractor:
                metric = getattr(torchcam.metrics, name)(Broken(extractor), softmax)
                metric.update(x, [1, 2, 3])
                results += [metric.total, metric.nan_count, *metric.summary().values()]
        return results

    theirs, ours = both(script)
    assert ours[:2] == [2, 1] and ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def test_a_metric_leaves_the_mode_and_is_reset(model, x):
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ours = Packages(OURS)
    with ours.methods.GradCAM(model, "1") as extractor:
        for name in ("ClassificationMetric", "DeletionInsertionMetric"):
            metric = getattr(ours.metrics, name)(extractor)
            metric.update(x)
            metric.reset()
            assert metric.total == 0
            with pytest.raises(AssertionError, match="update"):
                metric.summary()
        assert extractor._hooks_enabled
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "call",
    [
        lambda m, e, x: m.ClassificationMetric(e).update(x, [1, 2]),
        lambda m, e, x: m.ClassificationMetric(e).update(x, 99),
        lambda m, e, x: m.ClassificationMetric(e).update(x, 1, targets=lambda scores: scores[1]),
        lambda m, e, x: m.ClassificationMetric(e).update(x, targets=[lambda scores: scores[1]]),
        lambda m, e, x: m.ClassificationMetric(e).summary(),
        lambda m, e, x: m.DeletionInsertionMetric(e, steps=0),
        lambda m, e, x: m.DeletionInsertionMetric(e, steps=True),
        lambda m, e, x: m.DeletionInsertionMetric(e, batch_size=2.5),
        lambda m, e, x: m.DeletionInsertionMetric(e, baseline="blur"),
        lambda m, e, x: m.DeletionInsertionMetric(e, baseline=torch.zeros(7)).update(x),
        lambda m, e, x: m.DeletionInsertionMetric(e, baseline=lambda x: 0).update(x),
    ],
)
def test_errors_of_metrics_are_of_the_peers_types(model, x, call):
    kinds = []
    for package in (Packages(PEER), Packages(OURS)):
        with package.methods.GradCAM(model, "1") as extractor, pytest.raises(Exception) as caught:
            call(package.metrics, extractor, x)
        kinds.append(caught.type)
    assert kinds[0] is kinds[1]
