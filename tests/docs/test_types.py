"""User code under mypy and pyright: what the README and the documentation show passes, and what is wrong is found."""

from __future__ import annotations

import re

import pytest
from checkers import CHECKERS, errors
from test_snippets import ALONE, TOGETHER, snippets

# What the pages take for given, as a stub that their code imports.
GIVEN = """
from typing import Any
import torch
model: torch.nn.Module
detector: torch.nn.Module
images: torch.Tensor
class_names: list[str]
frames: Any
show: Any
"""
HEADER = "import camfast, torch\nfrom given import *\n"

GOOD = """
import camfast, torch
from torch import nn

def explain(model: nn.Module, images: torch.Tensor) -> None:
    result: camfast.Explanation = camfast.grad_cam(model, images, targets=3, layers="layer4", size=7, fuse="max")
    many = camfast.score_cam(model, images, [3, 4], [model], channels=8, batch_size=4, eval_mode=False)
    guided: camfast.GuidedExplanation = camfast.guided_grad_cam(model, images, layers="layer4", class_names=["a", "b"])
    concepts: camfast.Factorization = camfast.DeepFeatureFactorization(model, "layer4", components=3)(images)
    explainer = camfast.SESS(model, layers=["a", "b"], base_method=camfast.LayerCAM, num_scales=3, reshape=torch.relu)
    print(result.heatmap, many.scores, guided.attributions, concepts.concepts, explainer(images, camfast.TopK(5)))
    print(camfast.METHODS["grad_cam"](model, "layer4")(images))
    outside: torch.Tensor = camfast.losses.energy_outside(result.heatmap, boxes=torch.ones(1, 4), reduction="sum")
    heat_loss = camfast.callbacks.HeatLoss(model, lambda found, masks: camfast.losses.sparsity(found.heatmap), weight=0.5)
    print(outside, heat_loss(images, 3)[0].scores, heat_loss(images, 3)[1].item())
"""

WRONG = [
    "camfast.GradCAM(42)",
    "camfast.GradCAM(model, layer='a')",
    "camfast.GradCAM(model, fuse='sum')",
    "camfast.SSCAM(model, samples='many')",
    "camfast.grad_cam(model, images, target=3)",
    "camfast.grad_cam(model, images, layers=3)",
    "camfast.score_cam(model, images, channels='all')",
    "camfast.full_grad(model, images, layers='layer4')",
    "camfast.grad_cam(model, images).heatmaps",
    "camfast.Realtime(model, smoothing=0.5)",
    "camfast.targets.Contrast()",
    "camfast.losses.sparsity(images, reduction='average')",
    "camfast.losses.energy_outside(images, boxes=[[0, 0, 2, 2]], weight=3)",
    "camfast.FeatureMaps(model, reduce='median')",
    "camfast.grad_can(model, images)",
]


@pytest.mark.parametrize("checker", CHECKERS)
def test_what_is_shown_passes(checker, tmp_path):
    (tmp_path / "given.pyi").write_text(GIVEN)
    for page in TOGETHER:
        (tmp_path / f"page_{page.stem.replace('-', '_')}.py").write_text("\n".join([HEADER, *snippets(page)]))
    for page in ALONE:
        for number, part in enumerate(snippets(page)):
            ours = re.sub(r".*# before\n", "", part)  # the other library's own line is its own affair
            (tmp_path / f"page_{page.stem.replace('-', '_')}_{number}.py").write_text(ours)
    assert (tmp_path / "page_README.py").exists() and (tmp_path / "page_torchcam_0.py").exists()
    assert errors(checker, tmp_path) == {}


@pytest.mark.parametrize("checker", CHECKERS)
def test_what_is_wrong_is_found(checker, tmp_path):
    lines = [
        *GOOD.splitlines(),
        "def wrong(model: nn.Module, images: torch.Tensor) -> None:",
        *(f"    {line}" for line in WRONG),
    ]
    (tmp_path / "user.py").write_text("\n".join(lines) + "\n")
    last = len(lines)
    found = errors(checker, tmp_path)
    assert set(found) == {("user.py", line) for line in range(last - len(WRONG) + 1, last + 1)}, found
