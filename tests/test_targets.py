"""Targets: whatever names a score becomes the right gradient, and anything else an error in one sentence."""

from __future__ import annotations

import models
import numpy as np
import pytest
import torch
from models import SmallNet, images

import camfast
from camfast.methods.chosen import choose
from camfast.model.outputs import scores_of
from camfast.targets import TopK

NAMES = ["tabby", "tiger cat", "espresso", "crane", "crane"]
SCORES = torch.tensor([[0.1, 0.5, 0.2, 0.9, 0.3], [2.0, -1.0, 0.0, 1.0, 3.0], [5.0, 4.0, 3.0, 2.0, 1.0]])


def ids(targets, scores=SCORES, names=NAMES):
    return choose(targets, scores, names).targets.tolist()


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (None, [3, 4, 0]),
        (2, [2, 2, 2]),
        (np.int64(2), [2, 2, 2]),
        (torch.tensor(2), [2, 2, 2]),
        ([0, 1, 2], [0, 1, 2]),
        ((0, 1, 2), [0, 1, 2]),
        ([torch.tensor(0), np.int32(1), 2], [0, 1, 2]),
        (torch.tensor([0, 1, 2]), [0, 1, 2]),
        (torch.tensor([0, 1, 2], dtype=torch.int16), [0, 1, 2]),
        (np.array([0, 1, 2]), [0, 1, 2]),
        (torch.tensor([[0, 1], [2, 3], [4, 4]]), [[0, 1], [2, 3], [4, 4]]),
        ([[0, 1], [2, 3], [4, 4]], [[0, 1], [2, 3], [4, 4]]),
        (TopK(2), [[3, 1], [4, 0], [0, 1]]),
        ("espresso", [2, 2, 2]),
        ("Espresso", [2, 2, 2]),
        (["tabby", 3, "tiger cat"], [0, 3, 1]),
        ([["tabby", 4], [1, "espresso"], [2, 2]], [[0, 4], [1, 2], [2, 2]]),
    ],
)
def test_classes(targets, expected):
    assert ids(targets) == expected


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        (5, ValueError, "classes from 0 to 4, got 5"),
        (-1, ValueError, "classes from 0 to 4, got -1"),
        ([0, 1, 9], ValueError, "classes from 0 to 4, got 9"),
        ([0, 1], ValueError, "expected one target an image, 3, got 2"),
        ([0, 1, 2, 3], ValueError, "expected one target an image, 3, got 4"),
        ([], ValueError, "expected one target an image, 3, got 0"),
        (torch.tensor([0, 1]), ValueError, "expected one target an image, 3, got 2"),
        (torch.zeros(3, 2, 2, dtype=torch.int64), ValueError, r"shape \[N\] or \[N, K\], got \[3, 2, 2\]"),
        (torch.zeros(3, 0, dtype=torch.int64), ValueError, r"got \[3, 0\]"),
        ([[0, 1], [2], [3, 4]], ValueError, "rows of different lengths"),
        ([[0, 1], 2, [3, 4]], ValueError, "rows of different lengths"),
        (torch.tensor([0.0, 1.0, 2.0]), TypeError, "integer classes, got torch.float32"),
        ([0, 1, 2.5], TypeError, "all classes or all callables, got float"),
        (torch.tensor([True, False, True]), TypeError, "integer classes, got torch.bool"),
        (True, TypeError, "got bool"),
        (1.5, TypeError, "got float"),
        ({"class": 1}, TypeError, "got dict"),
        ([0, 1, {"class": 2}], TypeError, "got dict"),
        ([[0, len], [1], [2, 3]], ValueError, "rows of different lengths"),
        (TopK(6), ValueError, r"TopK\(6\) needs at least 6 classes, got 5"),
        ("crane", ValueError, r"the name of several: give a number, 3 \(crane\), 4 \(crane\)"),
        ("tiger", ValueError, "one of 'tabby', 'tiger cat', 'espresso', 'crane', 'crane', got 'tiger'"),
    ],
)
def test_what_is_no_target(targets, error, message):
    with pytest.raises(error, match=message):
        choose(targets, SCORES, NAMES)


def test_names_need_to_be_known():
    with pytest.raises(ValueError, match="no class names are known, got 'tabby'; class_names= gives them"):
        choose("tabby", SCORES)


@pytest.mark.parametrize("k", [0, -1, 2.0, "5"])
def test_top_k_of_what(k):
    with pytest.raises(ValueError, match="TopK expects a positive int, got"):
        TopK(k)


def gradient(chosen):
    outputs, seeds = chosen.objective()
    (found,) = torch.autograd.grad(outputs, chosen.scores, seeds)
    return found


def test_objective_of_one_class_an_image():
    scores = SCORES.clone().requires_grad_()
    assert torch.equal(gradient(choose([1, 4, 0], scores)), torch.eye(5)[[1, 4, 0]])


def test_objective_of_several_classes_an_image():
    scores = SCORES.clone().requires_grad_()
    chosen = choose(TopK(2), scores)
    outputs, seeds = chosen.objective()
    assert chosen.per_image == 2 and outputs is scores
    assert torch.equal(seeds, torch.eye(5)[torch.tensor([[3, 4, 0], [1, 0, 1]])])


def test_objective_of_planes_is_their_mean():
    scores = torch.randn(2, 4, 3, 5, requires_grad=True)
    found = gradient(choose(2, scores))
    expected = torch.autograd.grad(scores[:, 2].mean((1, 2)).sum(), scores)[0]
    torch.testing.assert_close(found, expected)
    assert choose(None, scores).targets.tolist() == scores.mean((2, 3)).argmax(1).tolist()
    _, seeds = choose(torch.tensor([[0, 1], [2, 3]]), scores).objective()
    assert seeds.shape == (2, 2, 4, 3, 5)
    torch.testing.assert_close(seeds.sum((2, 3, 4)), torch.ones(2, 2))
    assert seeds[1, 1, 3].count_nonzero() == 15


def test_objective_of_a_single_column():
    for scores in (torch.randn(3, 1, requires_grad=True), torch.randn(3, requires_grad=True)):
        assert torch.equal(gradient(choose(None, scores)), torch.ones_like(scores))
        assert choose(None, scores).targets.tolist() == [0, 0, 0]


def test_objective_of_callables():
    scores = SCORES.clone().requires_grad_()
    found = gradient(choose(lambda row: row[1] - 2 * row[0], scores))
    assert torch.equal(found, torch.tensor([[-2.0, 1, 0, 0, 0]] * 3))
    each = [lambda row: row[0], lambda row: row[3:].sum().reshape(1), torch.nn.Flatten(0)]
    with pytest.raises(ValueError, match=r"one scalar, got shape \[5\]"):
        gradient(choose(each, scores))
    each[2] = lambda row: row.square().sum()
    found = gradient(choose(each, scores))
    assert torch.equal(found, torch.stack([torch.eye(5)[0], torch.eye(5)[3:].sum(0), 2 * SCORES[2]]))


def test_callables_inside_no_grad():
    model = SmallNet().eval()
    x = images()
    expected = camfast.grad_cam(model, x, lambda row: row[1]).heatmap
    with torch.no_grad():
        torch.testing.assert_close(camfast.grad_cam(model, x, lambda row: row[1]).heatmap, expected)
    torch.testing.assert_close(camfast.grad_cam(model, x, 1).heatmap, expected)


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (lambda row: row, ValueError, r"one scalar, got shape \[5\]"),
        (lambda row: row[0].detach(), ValueError, "differentiable function of the scores, got a tensor cut off"),
        (lambda row: row[0].item(), TypeError, "must return a tensor, got float"),
        (lambda row: row.argmax(), ValueError, "got a tensor cut off"),
    ],
)
def test_callables_that_give_no_score(target, error, message):
    with pytest.raises(error, match=message):
        choose(target, SCORES.clone().requires_grad_()).objective()


def test_scores_of_outputs():
    assert scores_of({"logits": SCORES}, 3) is SCORES
    with pytest.raises(TypeError, match=r"must return scores \[N, classes\], got NoneType: no float tensor"):
        scores_of(None, 3)
    with pytest.raises(ValueError, match=r"one row of scores an image, \[3, ...\], got \[\]"):
        scores_of(SCORES.sum(), 3)
    with pytest.raises(ValueError, match=r"\[2, ...\], got \[3, 5\]"):
        scores_of(SCORES, 2)


@pytest.mark.parametrize("kind", ["dict", "out", "tuple", "list", "object"])
def test_models_that_return_more_than_scores(kind):
    model = models.Output(kind).eval()
    plain = SmallNet().eval()
    plain.load_state_dict(model.state_dict())
    x = images()
    ours, theirs = camfast.grad_cam(model, x, TopK(2)), camfast.grad_cam(plain, x, TopK(2))
    torch.testing.assert_close(ours.heatmap, theirs.heatmap)
    torch.testing.assert_close(ours.scores, theirs.scores)


def test_targets_on_any_device(device):
    model = SmallNet().eval().to(device)
    x = images().to(device)
    expected = camfast.grad_cam(model, x, [1, 2])
    for targets in (torch.tensor([1, 2]), torch.tensor([1, 2], device=device), np.array([1, 2])):
        result = camfast.grad_cam(model, x, targets)
        assert result.targets.device == x.device
        torch.testing.assert_close(result.heatmap, expected.heatmap)
