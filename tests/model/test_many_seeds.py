"""Taps: gradients of several objectives in one backward pass, which are those of single ones."""

from __future__ import annotations

import models
import pytest
import torch
from models import images
from torch import nn

from camfast.model.tap import Quirks, Tap

IMAGES = images(3)


def test_many_seeds_in_one_backward(device):
    model = models.DeepHead().eval().to(device)
    with Tap(model, [model.stem, model.body]) as tap:
        scores = tap.run(IMAGES.to(device))
        seeds = torch.randn(4, *scores.shape, device=device)
        found = tap.gradients(scores, seeds)
        assert list(tap.quirks.batched_backward.values()) == [True]
    for k, seed in enumerate(seeds):
        with Tap(model, [model.stem, model.body]) as tap:
            one = tap.gradients(tap.run(IMAGES.to(device)), seed)
        for all_, alone in zip(found, one, strict=True):
            torch.testing.assert_close(all_[k], alone, rtol=1e-4, atol=1e-7)


def test_operation_without_batching_rule_falls_back():
    model = models.CustomBackward().eval()
    quirks = Quirks()
    seeds = torch.randn(3, 3, 5)
    for _ in range(2):
        with Tap(model, [model.body], quirks=quirks) as tap:
            (found,) = tap.gradients(tap.run(IMAGES), seeds)
        assert list(quirks.batched_backward.values()) == [False]
    for k, seed in enumerate(seeds):
        with Tap(model, [model.body]) as tap:
            torch.testing.assert_close(tap.gradients(tap.run(IMAGES), seed)[0], found[k])


class WrongRule(nn.Module):
    """A network of which PyTorch's batched backward has been seen to give other gradients than single ones do."""

    def __init__(self):
        super().__init__()
        self.body, self.norm, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 4)
        with torch.no_grad():
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        return self.fc(nn.functional.gelu(self.norm(self.body(x))).movedim(1, -1).mean((1, 2)))


@pytest.mark.parametrize("batch", [1, 2])
def test_batched_gradients_are_those_of_single_ones(batch, monkeypatch):
    torch.manual_seed(0)
    model, x, quirks = WrongRule().eval(), torch.randn(batch, 3, 3, 16), Quirks()
    seeds = torch.eye(4).unsqueeze(1).expand(4, batch, 4)
    with torch.no_grad():
        A = model.body(x)
    A.requires_grad_()
    y = model.fc(nn.functional.gelu(model.norm(A)).movedim(1, -1).mean((1, 2)))
    wanted = torch.stack([torch.autograd.grad(y[:, k].sum(), A, retain_graph=True)[0] for k in range(4)])
    passes = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: passes.append(k) or grad(*a, **k))
    for call in range(3):
        passes.clear()
        with Tap(model, [model.body], quirks=quirks) as tap:
            (found,) = tap.gradients(tap.run(x), seeds)
        torch.testing.assert_close(found, wanted)
        works = next(iter(quirks.batched_backward.values()))
        assert len(passes) == (1 + (call == 0) if works else 4 + 2 * (call == 0))


def test_no_warning_from_batched_backward(recwarn):
    model = models.TokenNet().eval()
    with Tap(model, [model.blocks]) as tap:
        tap.gradients(tap.run(IMAGES), torch.randn(3, 3, 5))
    assert [str(w.message) for w in recwarn] == []
