"""Which maps are levels, where a head has steps of its own on which boxes and scores depend."""

from __future__ import annotations

import detectors
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import camfast


class Yolox(nn.Module):
    """A head as YOLOX has it: how sure it is of an object is told beside the box, and multiplies the class's score."""

    def __init__(self, width: int = 8, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.ModuleList([nn.Conv2d(3, width, 8, 8), nn.Conv2d(width, width, 2, 2)])
        conv = lambda size, out=width: nn.Conv2d(width, out, size, padding=size // 2)  # noqa: E731
        self.stems = nn.ModuleList(conv(1) for _ in range(2))
        self.of_class = nn.ModuleList(nn.Sequential(conv(3), nn.SiLU(), conv(1, classes)) for _ in range(2))
        self.of_box = nn.ModuleList(nn.Sequential(conv(3), nn.SiLU()) for _ in range(2))
        self.boxes = nn.ModuleList(conv(1, 4) for _ in range(2))
        self.objects = nn.ModuleList(conv(1, 1) for _ in range(2))

    def forward(self, images: Tensor) -> Tensor:
        fine = F.silu(self.trunk[0](images))
        rows = []
        for k, (level, stride) in enumerate(((fine, 8), (F.silu(self.trunk[1](fine)), 16))):
            stem = F.silu(self.stems[k](level))
            box = self.of_box[k](stem)
            y, x = torch.meshgrid(torch.arange(level.shape[2]), torch.arange(level.shape[3]), indexing="ij")
            offset, extent = self.boxes[k](box).split(2, 1)
            centre = (torch.stack([x, y]).to(images) + offset) * stride
            parts = [centre, extent.exp() * stride, self.objects[k](box).sigmoid(), self.of_class[k](stem).sigmoid()]
            rows.append(torch.cat(parts, 1).flatten(2))
        return torch.cat(rows, 2).transpose(1, 2)


def test_a_heads_own_steps_are_no_levels():
    """Score and box depend on the branch of boxes too, which is made of the level alone: the heat is the level's."""
    model = Yolox().double().eval()
    images = torch.randn(1, 3, 96, 128, dtype=torch.float64)
    explainer = camfast.DetectionExplainer(model)
    for _ in range(2):
        result = explainer(images, min_score=0.0, top=5)
        assert explainer.layers == ["stems.0", "stems.1"]
        table = model(images)[0].detach()
        scores = table[:, 4:5] * table[:, 5:]
        for heat, label, score in zip(result.heatmaps[0], result.labels[0], result.scores[0], strict=True):
            row = int((scores[:, label] - score).abs().argmin())
            value = lambda out, row=row, label=label: out[0, row, 4] * out[0, row, 5 + label]  # noqa: E731
            maps, slopes = detectors.plain_gradients(model, lambda: model(images), explainer.layers, value, True)
            expected = detectors.summed(detectors.layer_cam_of(maps, slopes, 0), (96, 128))
            assert heat.any() and (heat - expected).abs().max() < 1e-6


class Functional(nn.Module):
    """Activations are plain functions, and both levels pass through the same convolutions."""

    def __init__(self, width: int = 8, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fine, self.coarse = nn.Conv2d(3, width, 8, 8), nn.Conv2d(width, width, 3, 2, 1)
        self.tower = nn.Conv2d(width, width, 3, padding=1)
        self.classes, self.boxes = nn.Conv2d(width, classes, 1), nn.Conv2d(width, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        fine = F.silu(self.fine(images))
        rows = []
        for level, stride in ((fine, 8), (F.silu(self.coarse(fine)), 16)):
            tower = F.silu(self.tower(level))
            offset, extent = self.boxes(tower).split(2, 1)
            y, x = torch.meshgrid(torch.arange(level.shape[2]), torch.arange(level.shape[3]), indexing="ij")
            centre = (torch.stack([x, y]).to(images) + offset) * stride
            rows.append(torch.cat([centre, extent.exp() * stride, self.classes(tower).sigmoid()], 1).flatten(2))
        return torch.cat(rows, 2)


def test_levels_behind_plain_functions():
    """The tower, which runs once for each level, is none: boxes of one level would have no heat."""
    model = Functional().double().eval()
    images = torch.randn(1, 3, 96, 128, dtype=torch.float64)
    explainer = camfast.DetectionExplainer(model, overlap=1.0)
    for _ in range(2):
        result = explainer(images, min_score=0.0, top=None)
        assert explainer.layers == ["fine", "coarse"]
        assert len(result.labels[0]) == 12 * 16 + 6 * 8 and result.heatmaps[0].flatten(1).any(1).float().mean() > 0.95
