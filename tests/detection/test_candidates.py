"""What a detector returned, by its form alone."""

from __future__ import annotations

import pytest
import torch

from camfast.detection.candidates import Candidates, candidates_of

SIZES = [(64, 96), (64, 96)]
BOXES = torch.tensor([[10.0, 20, 40, 60], [0, 0, 96, 64], [50, 30, 70, 34]])
CENTRES = torch.cat([(BOXES[:, :2] + BOXES[:, 2:]) / 2, BOXES[:, 2:] - BOXES[:, :2]], 1)


def logits(classes: int = 5, count: int = 3) -> torch.Tensor:
    return torch.randn(2, count, classes)


def test_mappings():
    one = {"boxes": BOXES, "labels": torch.tensor([1, 2, 3]), "scores": torch.rand(3)}
    found = candidates_of([one, one], SIZES)
    assert found.settled and torch.equal(found.boxes[1], BOXES) and found.labels[0].tolist() == [1, 2, 3]
    assert torch.equal(candidates_of(one, SIZES[:1]).scores[0], one["scores"])


@pytest.mark.parametrize("names", [("logits", "pred_boxes"), ("pred_logits", "pred_boxes")])
def test_queries(names):
    rows, shares = logits(6), (CENTRES / torch.tensor([96.0, 64, 96, 64])).expand(2, 3, 4)
    found = candidates_of(dict(zip(names, (rows, shares), strict=True)), SIZES, classes=6)
    assert torch.allclose(found.boxes[0], BOXES, atol=1e-4) and found.several
    assert torch.equal(found.scores[1], rows[1].sigmoid()) and torch.equal(found.values[1], rows[1])
    found = candidates_of(dict(zip(names, (rows, shares), strict=True)), SIZES, classes=5)
    assert torch.equal(found.scores[1], rows[1].softmax(-1)[:, :-1]) and not found.several
    assert torch.allclose(found.quality[0], found.scores[0].sum(1))


def test_no_object_where_the_number_of_classes_is_unknown():
    """A trained network of that kind says "no object" of most queries; the others say nothing of the kind."""
    rows, shares = logits(6, 8), torch.rand(2, 8, 4)
    rows[:, :6, -1] = 9
    assert candidates_of({"pred_logits": rows, "pred_boxes": shares}, SIZES).scores[0].shape == (8, 5)
    assert candidates_of({"pred_logits": rows.flip(-1), "pred_boxes": shares}, SIZES).scores[0].shape == (8, 6)


def test_rows_of_an_anchor_free_head():
    count = 40
    scores = torch.rand(2, 5, count)
    table = torch.cat([CENTRES.T.repeat(2, 1, 14)[..., :count], scores], 1)
    for output in (table, (table, {"boxes": None}), [table]):
        found = candidates_of(output, SIZES, classes=5)
        assert torch.equal(found.scores[0], scores[0].T) and torch.allclose(found.boxes[0][:3], BOXES)
        assert not found.settled and found.masks is None
    assert torch.equal(candidates_of(table, SIZES).scores[0], scores[0].T)  # the shorter axis


def test_logits_beside_the_rows():
    raw = torch.randn(2, 5, 40)
    table = torch.cat([torch.rand(2, 4, 40) * 90, raw.sigmoid(), torch.randn(2, 8, 40)], 1)
    found = candidates_of((table, {"one2many": {"scores": raw, "boxes": None}}), SIZES)
    assert torch.equal(found.values[0], raw[0].T) and found.scores[0].shape == (40, 5)


def test_rows_with_an_object_column():
    table = torch.cat([CENTRES.repeat(2, 20, 1), torch.rand(2, 60, 1), torch.rand(2, 60, 7)], 2)
    for classes in (7, None):
        found = candidates_of(table, SIZES, classes)
        assert torch.equal(found.scores[1], table[1, :, 5:] * table[1, :, 4:5])
        assert torch.equal(found.quality[1], table[1, :, 4])


def test_rows_that_the_model_chose():
    raw = torch.randn(2, 5, 40)
    scores, index = raw.sigmoid().flatten(1).topk(9)
    labels = index // 40
    boxes = torch.rand(2, 9, 4) * 60
    table = torch.cat([boxes, scores[..., None], labels[..., None].float()], 2)
    found = candidates_of((table, {"one2one": {"scores": raw}, "one2many": {"scores": raw + 1}}), SIZES)
    assert found.settled and torch.equal(found.labels[1], labels[1]) and torch.equal(found.scores[1], scores[1])
    index = torch.tensor([0, 4])
    assert torch.equal(found.explained(0, index, labels[0][index]).sigmoid(), scores[0][index])  # traced to the logits
    alone = candidates_of(table, SIZES)
    assert torch.equal(alone.explained(0, index, labels[0][index]), scores[0][index])


def test_masks_of_prototypes():
    coefficients, prototypes = torch.randn(2, 8, 40), torch.randn(2, 8, 16, 24)
    table = torch.cat([torch.rand(2, 4, 40) * 90, torch.rand(2, 5, 40), coefficients], 1)
    found = candidates_of(((table, prototypes), {}), SIZES, classes=5)
    planes = found.masks(1, torch.tensor([3, 7]), BOXES[:2])
    assert torch.allclose(planes[1], (coefficients[1, :, 7, None, None] * prototypes[1]).sum(0), atol=1e-5)


def test_a_function_of_ones_own():
    boxes, scores = BOXES.expand(2, 3, 4), torch.rand(2, 3, 5)
    for found in (Candidates.of((boxes, scores)), Candidates.of({"boxes": boxes, "scores": scores})):
        assert len(found.boxes) == 2 and torch.equal(found.scores[1], scores[1])
    with pytest.raises(TypeError, match="must return camfast.detection.Candidates, or .boxes, scores., got int"):
        Candidates.of(3)
    with pytest.raises(ValueError, match=r"boxes \[A, 4\] and scores \[A, classes\], got \[3, 4\] and \[4, 5\]"):
        Candidates.of((boxes, torch.rand(2, 4, 5)))


@pytest.mark.parametrize("output", [torch.rand(2, 10), {"a": torch.rand(2, 3)}, (), [torch.rand(2, 3, 4, 4)]])
def test_an_unknown_form(output):
    with pytest.raises(TypeError, match="expected a detector's boxes and scores .* candidates= reads any other output"):
        candidates_of(output, SIZES)
