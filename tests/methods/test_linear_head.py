"""Layers that nothing but pooling follows: the same gradients as autograd's, and only there."""

from __future__ import annotations

import pytest
import torch
from models import images
from torch import nn

import camfast
from camfast.methods import gradient
from camfast.model.tap import Tap

IMAGES = images(2)


class Pooled(nn.Module):
    """A convolution, ``pool``, and a linear layer."""

    def __init__(self, pool, width: int = 6) -> None:
        super().__init__()
        self.body, self.pool, self.head = nn.Conv2d(3, 6, 3), pool, nn.Linear(width, 4)

    def forward(self, x):
        return self.head(self.pool(self.body(x)))


POOLS = {
    "adaptive and flatten": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "mean": lambda: lambda x: x.mean((2, 3)),
    "mean from the end": lambda: lambda x: x.mean((-2, -1)),
    "kept dimensions": lambda: lambda x: x.mean((2, 3), keepdim=True).view(len(x), -1),
}
OTHERS = {
    "activation": lambda: lambda x: x.relu().mean((2, 3)),
    "over one dimension only": lambda: lambda x: x.mean(3).sum(2),
    "maximum": lambda: lambda x: x.amax((2, 3)),
    "scaled": lambda: lambda x: 2 * x.mean((2, 3)),
    "after a shuffle": lambda: lambda x: x.roll(1, 2).mean((2, 3)),
}


@pytest.fixture
def used(monkeypatch) -> list[bool]:
    """Whether each pass went without autograd."""
    found: list[bool] = []
    plain = gradient.gradient_of_pooled

    def watched(*arguments):
        weights = plain(*arguments)
        found.append(weights is not None)
        return weights

    monkeypatch.setattr(gradient, "gradient_of_pooled", watched)
    return found


def autograds(model, targets):
    """Gradients of the layer, by autograd alone."""
    with Tap(model, [model.body]) as tap:
        scores = tap.run(IMAGES.to(next(model.parameters())))
        (found,) = tap.gradients(scores.gather(1, targets.view(-1, 1)).sum())
        return tap.activations[0], found


@pytest.mark.parametrize("name", ["grad_cam", "hires_cam", "layer_cam"])
@pytest.mark.parametrize("pool", [*POOLS, *OTHERS])
def test_maps_are_autograds(used, pool, name, device):
    model = Pooled({**POOLS, **OTHERS}[pool]()).eval().to(device)
    targets = torch.tensor([1, 3], device=device)
    result = camfast.METHODS[name](model, model.body)(IMAGES.to(device), targets, "map", False)
    expected = getattr(camfast.reference, name)(*autograds(model, targets), None, False)
    torch.testing.assert_close(result.heatmap, expected, rtol=1e-4, atol=1e-6)
    assert used == [pool in POOLS]


def test_channels_last(used, device):
    model = Pooled(POOLS["adaptive and flatten"]()).eval().to(device)
    plain = camfast.GradCAM(model, "body")(IMAGES.to(device), 2, "map", False)
    model = model.to(memory_format=torch.channels_last)
    last = IMAGES.to(device).contiguous(memory_format=torch.channels_last)
    result = camfast.GradCAM(model, "body")(last, 2, "map", False)
    torch.testing.assert_close(result.heatmap, plain.heatmap, rtol=1e-5, atol=1e-6)
    assert used == [True, True]


def test_reshape_that_moves_channels(used):
    model = Pooled(POOLS["mean"]()).eval()
    plain = camfast.GradCAM(model, "body")(IMAGES, 1, "map", False)
    turned = camfast.GradCAM(model, "body", reshape=lambda x: x.flip(1))(IMAGES, 1, "map", False)
    torch.testing.assert_close(turned.heatmap, plain.heatmap, rtol=1e-5, atol=1e-6)
    assert used == [True]  # the second is not asked


def test_adapter_shows_the_gradients():
    from camfast.compat.pytorch_grad_cam import GradCAM, LayerCAM

    model = Pooled(POOLS["mean"]()).eval()
    A, expected = autograds(model, torch.tensor([1, 1]))
    for kind in (GradCAM, LayerCAM):
        with kind(model, [model.body]) as extractor:
            extractor(IMAGES, [lambda scores: scores[1]] * 2)
            by_callables = extractor.activations_and_grads.gradients
            extractor(IMAGES, [camfast.compat.pytorch_grad_cam.utils.model_targets.ClassifierOutputTarget(1)] * 2)
            (found,), (kept,) = extractor.activations_and_grads.gradients, extractor.activations_and_grads.activations
            torch.testing.assert_close(by_callables[0], expected)
            torch.testing.assert_close(found, expected)
            torch.testing.assert_close(kept, A)


def test_dimensions_that_are_not_the_maps(used):
    class Sideways(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 6, 3, padding=(1, 0)), nn.Linear(18, 4)

        def forward(self, x):
            return self.head(self.body(x).mean((1, 2)))  # [N, W]: over channels and rows

    model = Sideways().eval()
    targets = torch.tensor([0, 2])
    result = camfast.GradCAM(model, "body")(IMAGES, targets, "map", False)
    expected = camfast.reference.grad_cam(*autograds(model, targets), None, False)
    torch.testing.assert_close(result.heatmap, expected, rtol=0, atol=1e-6)
    assert used == [False]


def test_not_what_asks_for_gradients_at_positions(used):
    model = Pooled(POOLS["mean"]()).eval()
    for name in ("grad_cam_plus_plus", "xgrad_cam", "grad_cam_elementwise"):
        camfast.METHODS[name](model, "body")(IMAGES)
    camfast.GradCAM(model, "body", eigen_smooth=True)(IMAGES)
    several = nn.Sequential(model.body, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.head)
    camfast.GradCAM(several.eval(), ["0", "1"])(IMAGES)
    assert not any(used)
