"""Which boxes are kept."""

from __future__ import annotations

import pytest
import torch

from camfast.detection.candidates import Candidates
from camfast.detection.keep import kept_in, overlaps


def crowd(count: int = 400, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    corner = torch.rand(count, 2) * 60
    boxes = torch.cat([corner, corner + 5 + 30 * torch.rand(count, 2)], 1)
    return boxes, torch.rand(count, classes)


@pytest.mark.parametrize("overlap", [0.3, 0.7])
def test_suppression_is_that_of_torchvision(overlap):
    ops = pytest.importorskip("torchvision.ops")
    boxes, scores = crowd()
    kept = kept_in(Candidates([boxes], [scores]), 0, min_score=0.5, top=None, overlap=overlap)
    best, labels = scores.max(1)
    above = (best > 0.5).nonzero()[:, 0]
    expected = above[ops.batched_nms(boxes[above], best[above], labels[above], overlap)][:300]
    assert torch.equal(kept.index, expected) and torch.equal(kept.labels, labels[expected])
    assert torch.equal(kept.scores, best[expected]) and 10 < len(kept) <= 300


def test_the_best_ones_of_thousands():
    boxes, scores = crowd(30_000)
    candidates = Candidates([boxes], [scores])
    few, more = (kept_in(candidates, 0, top=top) for top in (4, 16))
    assert len(few) == 4 and torch.equal(few.index, more.index[:4])
    assert (few.scores.diff() <= 0).all()


def test_a_class_alone():
    boxes, scores = crowd()
    kept = kept_in(Candidates([boxes], [scores]), 0, classes=[2], top=None)
    assert len(kept) and (kept.labels == 2).all()
    assert (scores[kept.index].argmax(1) == 2).all()


def test_what_the_model_chose_stands():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 9, 9]])
    scores = torch.tensor([0.3, 0.9, 0.2])
    labels = torch.tensor([1, 1, 1])
    kept = kept_in(Candidates([boxes], [scores], [labels], settled=True), 0)
    assert kept.index.tolist() == [1, 0]


def test_one_box_of_several_classes():
    scores = torch.tensor([[0.9, 0.8], [0.1, 0.3]])
    boxes = torch.rand(2, 4)
    kept = kept_in(Candidates([boxes], [scores], several=True, settled=True), 0)
    assert kept.index.tolist() == [0, 0, 1] and kept.labels.tolist() == [0, 1, 1]
    assert len(kept_in(Candidates([boxes], [scores], settled=True), 0)) == 2


def test_overlaps():
    a = torch.tensor([[0.0, 0, 4, 4], [2, 2, 2, 2]])
    b = torch.tensor([[0.0, 0, 4, 2], [8, 8, 9, 9], [2, 2, 2, 2]])
    assert overlaps(a, b).tolist() == [[0.5, 0, 0], [0, 0, 0]]


def test_no_box():
    kept = kept_in(Candidates([torch.zeros(0, 4)], [torch.zeros(0, 3)]), 0)
    assert len(kept) == 0 and kept.boxes.shape == (0, 4)
    assert len(kept_in(Candidates([torch.rand(5, 4)], [torch.zeros(5, 3)]), 0)) == 0
