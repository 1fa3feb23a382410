"""Insertion, deletion, ROAD and confidence: equal to other libraries', and to plain loops."""

from __future__ import annotations

from functools import partial

import models
import pytest
import torch

import camfast
from camfast import metrics
from camfast.metrics.curves import curves, heat_ranks

softmax = partial(torch.softmax, dim=-1)


@pytest.fixture
def case():
    images = models.images(3, size=(24, 20))
    model = models.calibrated(models.SmallNet(), images)
    with torch.no_grad():
        model.fc.weight.mul_(8)  # probabilities that differ
    return model, images, camfast.grad_cam(model, images)


def test_curves_of_a_known_score():
    images = torch.tensor([[[[4.0, 1.0], [2.0, 3.0]]]])
    ranks = heat_ranks(images[:, 0])
    assert ranks.tolist() == [[0, 3, 2, 1]]

    def total(rows, changed):
        return torch.cat([changed(part).sum((1, 2, 3)) for part in torch.arange(len(rows)).split(3)])

    shares, found = curves(total, images, torch.zeros_like(images), ranks, steps=4, own=torch.tensor([10.0]))
    assert shares.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert found["deletion"].tolist() == [[10, 6, 3, 1, 0]] and found["insertion"].tolist() == [[0, 4, 7, 9, 10]]
    shares, found = curves(
        total, images, torch.zeros_like(images), ranks, steps=1, own=torch.tensor([10.0]), kinds=("deletion",)
    )
    assert shares.tolist() == [0, 1] and found["deletion"].tolist() == [[10, 0]]


@pytest.mark.parametrize("steps", [1, 7, 20, 10_000])
def test_insertion_and_deletion_are_torchcams(case, steps):
    model, images, result = case
    torchcam = pytest.importorskip("torchcam.metrics")
    extractors = pytest.importorskip("torchcam.methods")
    with extractors.GradCAM(model, "body") as extractor:
        peer = torchcam.DeletionInsertionMetric(extractor, softmax, steps=steps)
        peer.update(images, result.targets.tolist())
    expected = peer.summary()
    heat = theirs(model, images, result)
    options = {"targets": result.targets, "steps": steps, "cover": "zeros"}
    found = [call(model, images, heat, **options).area for call in (metrics.deletion, metrics.insertion)]
    assert [float(area.mean()) for area in found] == pytest.approx(
        [expected["deletion_auc"], expected["insertion_auc"]], abs=2e-4
    )


def theirs(model, images, result):
    """torchcam's own map, resized by it: the heat of both."""
    extractors = pytest.importorskip("torchcam.methods")
    with extractors.GradCAM(model, "body") as extractor:
        scores = softmax(model(images))  # torchcam's metric explains what it measures: the probability
        (cam,) = extractor(result.targets.tolist(), scores)
    return torch.nn.functional.interpolate(cam[:, None], images.shape[2:], mode="bilinear", align_corners=False)[:, 0]


def test_drop_and_increase_are_torchcams(case):
    model, images, result = case
    torchcam = pytest.importorskip("torchcam.metrics")
    extractors = pytest.importorskip("torchcam.methods")
    with extractors.GradCAM(model, "body") as extractor:
        peer = torchcam.ClassificationMetric(extractor, softmax)
        peer.update(images, result.targets.tolist())
    heat = theirs(model, images, result)
    found = metrics.confidence(model, images, heat, result.targets)
    assert float(found.drop.mean()) == pytest.approx(peer.summary()["avg_drop"], abs=1e-5)
    assert float(found.increase.mean()) == peer.summary()["conf_increase"]


def test_confidence_is_pytorch_grad_cams(case):
    model, images, result = case
    peers = pytest.importorskip("pytorch_grad_cam.metrics.cam_mult_image")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    wanted = [targets.ClassifierOutputSoftmaxTarget(category) for category in result.targets.tolist()]
    found = metrics.confidence(model, images, result)
    call = lambda peer: torch.from_numpy(peer(images, result.heatmap.numpy(), wanted, model))  # noqa: E731
    torch.testing.assert_close(found.change, call(peers.CamMultImageConfidenceChange()), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.increase, call(peers.IncreaseInConfidence()))
    dropped = call(peers.DropInConfidence())  # absolute, where the paper divides by the score
    torch.testing.assert_close(found.drop * found.before, dropped, rtol=0, atol=1e-6)


def test_gain_is_the_papers():
    found = metrics.Confidence(torch.tensor([0.2, 0.5, 1.0]), torch.tensor([0.6, 0.4, 1.0]))
    assert found.gain.tolist() == pytest.approx([0.5, 0.0, 0.0])
    assert found.drop.tolist() == pytest.approx([0.0, 0.2, 0.0]) and found.increase.tolist() == [1, 0, 0]


@pytest.mark.parametrize("raw", [False, True])
def test_road_is_pytorch_grad_cams(case, raw, monkeypatch):
    model, images, result = case
    peers = pytest.importorskip("pytorch_grad_cam.metrics.road")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    monkeypatch.setattr(peers.torch, "randn_like", torch.zeros_like)  # as both draw noise of their own
    kind = targets.ClassifierOutputTarget if raw else targets.ClassifierOutputSoftmaxTarget
    wanted = [kind(category) for category in result.targets.tolist()]
    heat = result.heatmap + 1e-3 * torch.rand(result.heatmap.shape)  # no two alike: a percentile is no tie
    options = {"noise": 0.0, "score": "output" if raw else "probability", "targets": result.targets}
    found = metrics.road(model, images, heat, percentiles=(20, 50, 80), **options)
    call = lambda peer: torch.from_numpy(peer(images, heat.numpy(), wanted, model))  # noqa: E731
    for column, percentile in enumerate(found.percentiles):
        most = call(peers.ROADMostRelevantFirst(percentile))
        least = call(peers.ROADLeastRelevantFirst(percentile))
        torch.testing.assert_close(found.most_relevant_first[:, column], most, rtol=0, atol=5e-3)
        torch.testing.assert_close(found.least_relevant_first[:, column], least, rtol=0, atol=5e-3)
    torch.testing.assert_close(found.combined, call(peers.ROADCombined([20, 50, 80])), rtol=0, atol=5e-3)


def test_road_noise_is_seeded_and_shared_between_maps(case):
    model, images, result = case
    one, again = (metrics.road(model, images, result, seed=3).combined for _ in range(2))
    assert torch.equal(one, again) and not torch.equal(one, metrics.road(model, images, result, seed=4).combined)
    both = metrics.road(
        model, images, torch.stack([result.heatmap, result.heatmap], 1), result.targets[:, None].expand(-1, 2)
    )
    alone = metrics.road(model, images, result)
    torch.testing.assert_close(both.combined, alone.combined[:, None].expand(-1, 2), rtol=0, atol=1e-5)


MEASURES = {
    "deletion": lambda *a, **k: metrics.deletion(*a, steps=5, **k).area,
    "insertion": lambda *a, **k: metrics.insertion(*a, steps=5, **k).area,
    "road": lambda *a, **k: metrics.road(*a, **k).combined,
    "drop": metrics.average_drop,
    "increase": metrics.average_increase,
    "infidelity": lambda *a, **k: metrics.infidelity(*a, samples=6, **k),
}


@pytest.mark.parametrize("name", MEASURES)
def test_images_steps_and_targets_do_not_mix(case, name):
    """One image, one target and one changed image at a time give what all of them together do."""
    model, images, _ = case
    result = camfast.grad_cam(model, images, camfast.TopK(2))
    whole = MEASURES[name](model, images, result)
    assert whole.shape == (3, 2)
    torch.testing.assert_close(MEASURES[name](model, images, result, batch_size=1), whole, rtol=0, atol=2e-5)
    if name in ("road", "infidelity"):  # what is random is drawn for all images at once
        assert torch.isfinite(whole).all()
        return
    for n in range(3):
        for k in range(2):
            one = MEASURES[name](model, images[n : n + 1], result.heatmap[n : n + 1, k], result.targets[n : n + 1, k])
            torch.testing.assert_close(one, whole[n : n + 1, k], rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", MEASURES)
def test_the_model_is_left_as_it_was(case, name):
    model, images, result = case
    model.train()
    before, grad = models.bystander_state(model), torch.is_grad_enabled()
    MEASURES[name](model, images, result)
    with pytest.raises(ValueError, match="expected one target an image"):
        MEASURES[name](model, images, result.heatmap, [0, 1])
    after = models.bystander_state(model)
    assert {key: value for key, value in before.items() if key not in ("grad", "tensors")} == {
        key: value for key, value in after.items() if key not in ("grad", "tensors")
    }
    assert all(torch.equal(value, after["tensors"][key]) for key, value in before["tensors"].items())
    assert all(value is None for value in after["grad"].values()) and torch.is_grad_enabled() == grad


@pytest.mark.parametrize("name", MEASURES)
def test_heat_that_is_not_finite_is_nan_and_no_other(case, name):
    model, images, result = case
    heat = result.heatmap.clone()
    expected = MEASURES[name](model, images, heat, result.targets)
    heat[1, 3, 4] = torch.nan
    found = MEASURES[name](model, images, heat, result.targets)
    assert found.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]])


def test_callable_targets_count_as_they_are(case):
    model, images, result = case
    heat = result.heatmap
    by_class = metrics.deletion(model, images, heat, 2, score="output")
    by_call = metrics.deletion(model, images, heat, lambda scores: scores[2])
    by_target = metrics.deletion(model, images, heat, camfast.targets.Probability(2))
    torch.testing.assert_close(by_call.scores, by_class.scores)
    torch.testing.assert_close(by_target.scores, metrics.deletion(model, images, heat, 2).scores)


def test_covers(case):
    model, images, result = case
    ends = {}
    for cover in ("zeros", "mean", "blur", torch.full((3, 1, 1), 0.5), lambda x: x * 0 + 0.5):
        curve = metrics.insertion(model, images, result, cover=cover, steps=4)
        ends[str(cover)[:6]] = curve.scores[:, 0]
        torch.testing.assert_close(
            curve.scores[:, -1], model(images).softmax(1).gather(1, result.targets[:, None])[:, 0]
        )
    torch.testing.assert_close(ends["tensor"], ends["<funct"])
    with torch.no_grad():
        blank = model(torch.zeros_like(images)).softmax(1).gather(1, result.targets[:, None])[:, 0]
    torch.testing.assert_close(ends["zeros"], blank)


def test_the_blur_is_a_gaussian():
    from scipy.ndimage import correlate1d

    from camfast.metrics.curves import _covers

    image = models.images(1, size=(30, 26))
    window = torch.exp(-((torch.arange(11) - 5.0) ** 2) / 50)
    window = (window / window.sum()).numpy()
    plain = correlate1d(correlate1d(image.numpy(), window, axis=2, mode="constant"), window, axis=3, mode="constant")
    torch.testing.assert_close(_covers(image, "blur"), torch.from_numpy(plain), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"score": "logit"}, ValueError, "score must be 'probability' or 'output', got 'logit'"),
        ({"heat": "map"}, TypeError, "heat must be an Explanation or a floating tensor, got str"),
        ({"heat": torch.zeros(3, 4, 4, dtype=torch.long)}, TypeError, "got int64"),
        ({"heat": torch.zeros(2, 4, 4)}, ValueError, r"for images \[3, 3, 24, 20\], got \[2, 4, 4\]"),
        ({"heat": torch.zeros(3, 2, 4, 4)}, ValueError, "targets must say what the 2 maps of each image explain"),
        ({"steps": 0}, ValueError, "steps must be a positive int"),
        ({"cover": "black"}, ValueError, "cover must be 'zeros', 'mean', 'blur', a tensor or a callable, got 'black'"),
        ({"cover": torch.zeros(7)}, ValueError, r"a cover must broadcast to images \[3, 3, 24, 20\], got \[7\]"),
        ({"targets": 99}, ValueError, "targets must be classes from 0 to 4, got 99"),
        ({"batch_size": 0}, ValueError, "batch_size must be a positive int"),
        ({"model": print}, TypeError, "model must be a torch.nn.Module"),
    ],
)
def test_wrong_arguments_are_said(case, change, error, message):
    model, images, result = case
    arguments = {"model": model, "images": images, "heat": result.heatmap, **change}
    with pytest.raises(error, match=message):
        metrics.deletion(**arguments)


def test_a_single_score_has_no_probability():
    images = models.images(2)
    model = models.calibrated(models.SmallNet(1), images)
    with pytest.raises(ValueError, match="a single score has no softmax probability"):
        metrics.deletion(model, images, torch.rand(2, 16, 20))
    assert metrics.deletion(model, images, torch.rand(2, 16, 20), score="output").area.shape == (2,)


def test_percentiles_out_of_range_are_said(case):
    with pytest.raises(ValueError, match=r"percentiles must be numbers from 0 to 100, got \[120\]"):
        metrics.road(*case, percentiles=[120])
