"""Boxes explained by windows: the same heat as by a pass through the whole head, or that pass; and the model notices nothing."""

from __future__ import annotations

import detectors
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import camfast

SIZE = (128, 160)
FORMS = ["by level", "classes first", "classes last", "probabilities"]


class Branch(nn.Module):
    """Scores one level: what is two positions away counts. ``context`` lets all of the level count."""

    def __init__(self, channels: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.last = nn.Conv2d(channels, classes, 3, padding=1)
        self.context = 0.0
        self.seen: list[tuple[int, ...]] = []

    def forward(self, level: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        self.seen.append(tuple(level.shape))
        self.shape = tuple(level.shape)
        scores = self.last(F.silu(self.first(level))) * scale
        return scores + self.context * level.mean((1, 2, 3), keepdim=True) if self.context else scores


class Branches(nn.Module):
    """Scores two levels in one call; the boxes are one position's size each."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.branches = nn.ModuleList(Branch() for _ in range(2))

    def forward(self, levels: list[Tensor], axis: int = 1) -> Tensor:
        # With a tensor of another kind beside the level, a branch is no part that can be called again by itself.
        given = (levels[0].new_ones(()),) if self.form.startswith("classes") else ()
        parts = zip(self.branches, levels, strict=True)
        scores = torch.cat([branch(level, *given).flatten(2) for branch, level in parts], 2)
        return scores if axis == 1 else scores.transpose(1, 2)


class Detector(nn.Module):
    def __init__(self, form: str = "by level") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form = form
        self.fine, self.coarse = nn.Conv2d(3, 4, 8, 8), nn.Conv2d(4, 4, 2, 2)
        self.head = Branches(form)

    def forward(self, images: Tensor) -> object:
        fine = self.fine(images)
        levels = [fine, self.coarse(F.silu(fine))]
        logits = self.head(levels, axis=2 if self.form == "classes last" else 1)
        logits = logits.transpose(1, 2) if self.form == "classes last" else logits
        boxes = []
        for level, stride in zip(levels, (8, 16), strict=True):
            y, x = torch.meshgrid(torch.arange(level.shape[2]), torch.arange(level.shape[3]), indexing="ij")
            centre = (torch.stack([x, y]).to(images) + 0.5) * stride
            boxes.append(
                torch.cat([centre, torch.full_like(centre, stride)]).expand(len(images), 4, *level.shape[2:])
                + 1e-3 * level.sum(1, keepdim=True)
            )
        boxes = torch.cat([b.flatten(2) for b in boxes], 2)
        table = torch.cat([boxes, logits.sigmoid()], 1)
        return table if self.form == "probabilities" else (table, {"scores": logits})


def explained(explainer: camfast.DetectionExplainer, images: Tensor) -> tuple[list[Tensor], int]:
    """The heat of nearly every position's box, those at the edges too, and how many gradients were asked for."""
    with detectors.gradients_asked_for() as asked:
        return explainer(images, min_score=0.0, top=None).heatmaps, len(asked)


def images(count: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(1)).to(dtype)


def same(heat: list[Tensor], expected: list[Tensor], tolerance: float = 1e-6) -> bool:
    return all((a - b).abs().max() <= tolerance for a, b in zip(heat, expected, strict=True))


def fresh(model: nn.Module, given: Tensor) -> list[Tensor]:
    return explained(camfast.DetectionExplainer(model, overlap=1.0), given)[0]


@pytest.mark.parametrize("form", FORMS)
def test_the_heat_is_that_of_a_pass_through_the_whole_head(form):
    model = Detector(form).double().eval()
    explainer = camfast.DetectionExplainer(model, overlap=1.0)
    _, asked = explained(explainer, images())
    assert asked > 0
    other = images().flip(0, 3)
    heat, asked = explained(explainer, other)
    assert asked == 0 and [len(one) for one in heat] == [300, 300]
    assert same(heat, fresh(model, other)) and all(one.flatten(1).any(1).float().mean() > 0.9 for one in heat)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions(dtype):
    model = Detector().to(dtype).eval()
    explainer = camfast.DetectionExplainer(model, overlap=1.0)
    explained(explainer, images(1, dtype))
    heat, asked = explained(explainer, images(1, dtype).flip(3))
    assert asked == 0
    assert same(heat, fresh(model, images(1, dtype).flip(3)), 1e-5 if dtype is torch.float32 else 0.1)


def test_a_part_that_comes_to_see_more_is_noticed():
    """Its windows give other scores than the detector: from then on all of the head is passed."""
    model = Detector().double().eval()
    explainer = camfast.DetectionExplainer(model, overlap=1.0)
    explained(explainer, images())
    assert explained(explainer, images())[1] == 0
    model.head.branches[1].context = 0.01
    for _ in range(2):
        heat, asked = explained(explainer, images())
        assert asked > 0 and same(heat, fresh(model, images()))


def test_a_part_that_is_exchanged_is_noticed():
    model = Detector().double().eval()
    explainer = camfast.DetectionExplainer(model, overlap=1.0)
    explained(explainer, images())
    model.head.branches[0] = Branch().double().eval()
    assert same(explained(explainer, images())[0], fresh(model, images()))


def test_a_part_that_cannot_take_windows():
    class Proud(Branch):
        def forward(self, level: Tensor, scale: Tensor | float = 1.0) -> Tensor:
            if tuple(level.shape[2:]) not in ((16, 20), (8, 10)):
                raise ValueError("a level is 16 x 20 or 8 x 10")
            return super().forward(level, scale)

    model = Detector().eval()
    model.head.branches = nn.ModuleList(Proud() for _ in range(2))
    model = model.double()
    explainer = camfast.DetectionExplainer(model, overlap=1.0)
    for _ in range(3):
        heat, asked = explained(explainer, images())
        assert asked > 0 and same(heat, fresh(model, images()))


def test_boxes_without_heat_at_their_own_level():
    """They are explained by what reached it from the other, which takes a graph; the rest still goes by windows."""
    model = Detector().double().eval()
    with torch.no_grad():
        model.coarse.bias.fill_(-30)  # every activation is negative there
    explainer = camfast.DetectionExplainer(model, overlap=1.0)
    expected, _ = explained(explainer, images())
    for _ in range(3):
        heat, _ = explained(explainer, images())
        assert same(heat, expected) and all(one.flatten(1).any(1).float().mean() > 0.9 for one in heat)


def test_the_model_notices_nothing():
    """Neither caches nor hooks of its parts see a window."""
    model = Detector().double().eval()
    explainer = camfast.DetectionExplainer(model, overlap=1.0)
    explained(explainer, images())
    hooked: list[tuple[int, ...]] = []
    parts = [model.head.branches[0], model.head.branches[0].last]
    handles = [part.register_forward_hook(lambda module, args, out: hooked.append(tuple(out.shape))) for part in parts]
    for branch in model.head.branches:
        branch.seen.clear()
    assert explained(explainer, images())[1] == 0
    for handle in handles:
        handle.remove()
    assert hooked == [(2, 3, 16, 20)] * 2
    assert [branch.seen for branch in model.head.branches] == [[(2, 4, 16, 20)], [(2, 4, 8, 10)]]
    assert [branch.shape for branch in model.head.branches] == [(2, 4, 16, 20), (2, 4, 8, 10)]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_classes_as_a_whole_and_other_methods_go_through_the_whole_head():
    model = Detector().double().eval()
    explainer = camfast.DetectionExplainer(model, overlap=1.0)
    explained(explainer, images())
    with detectors.gradients_asked_for() as asked:
        whole = explainer(images(), min_score=0.0, each=False)
    assert asked and all(heat.any() for heat in whole.heatmaps)
    other = camfast.DetectionExplainer(model, "grad_cam", overlap=1.0)
    assert explained(other, images())[1] > 0 and explained(other, images())[1] > 0
