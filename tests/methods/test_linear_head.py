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
    "one window and squeeze": lambda: lambda x: nn.functional.avg_pool2d(x, x.shape[2:]).squeeze(-1).squeeze(-1),
    "mean": lambda: lambda x: x.mean((2, 3)),
    "mean from the end": lambda: lambda x: x.mean((-2, -1)),
    "flattened before": lambda: lambda x: x.flatten(2).mean(2),
    "positions in another view": lambda: lambda x: x.reshape(*x.shape[:2], 2, 7, -1).mean((2, -1, 3)),
    "kept dimensions": lambda: lambda x: x.mean((2, 3), keepdim=True).view(len(x), -1),
}
OTHERS = {
    "activation": lambda: lambda x: x.relu().mean((2, 3)),
    "over one dimension only": lambda: lambda x: x.mean(3).sum(2),
    "maximum": lambda: lambda x: x.amax((2, 3)),
    "scaled": lambda: lambda x: 2 * x.mean((2, 3)),
    "weighted window": lambda: lambda x: nn.functional.avg_pool2d(x, x.shape[2:], divisor_override=7).flatten(1),
    "two windows": lambda: lambda x: nn.functional.avg_pool2d(x, (x.shape[2], 5)).mean((2, 3)),
    "channels mixed by a view": lambda: lambda x: x.mean((2, 3)).view(3, -1).t().reshape(len(x), -1),
    "some positions of a view": lambda: lambda x: x.reshape(*x.shape[:2], 2, -1)[:, :, 0].mean(2),
    "positions mixed with channels": lambda: lambda x: x.reshape(len(x), 6, -1).mT.reshape(len(x), 6, -1).mean(2),
    "after a shuffle": lambda: lambda x: x.roll(1, 2).mean((2, 3)),
}


@pytest.fixture
def used(monkeypatch) -> list[bool]:
    """Whether each pass went without autograd."""
    found: list[bool] = []
    plain = gradient.is_pooled
    monkeypatch.setattr(gradient, "is_pooled", lambda *arguments: found.append(plain(*arguments)) or found[-1])
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


class Convolution(nn.Module):
    """A 1 x 1 convolution where others have a linear layer."""

    def __init__(self, groups: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 1, groups=groups, padding=padding)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3), keepdim=True)).amax((2, 3), keepdim=True).flatten(1)


class PlainConvolution(Convolution):
    def forward(self, x):
        return self.head(self.body(x).mean((2, 3), keepdim=True)).flatten(1)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (PlainConvolution, [True]),
        (lambda: PlainConvolution(groups=2), []),
        (lambda: Convolution(padding=1), []),
    ],
)
def test_convolutions_as_linear_layers(used, make, expected):
    model, targets = make().eval(), torch.tensor([1, 3])
    result = camfast.GradCAM(model, "body")(IMAGES, targets, "map", False)
    torch.testing.assert_close(
        result.heatmap, camfast.reference.grad_cam(*autograds(model, targets), None, False), rtol=1e-4, atol=1e-6
    )
    assert used == expected


class Generated(nn.Module):
    """The linear layer's weight, or its bias, is made of the image."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self.body, self.part = nn.Conv2d(3, 6, 3), part
        self.weight, self.bias = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(4))

    def forward(self, x):
        A = self.body(x)
        weight = self.weight * A.abs().mean() if self.part == "weight" else self.weight
        bias = self.bias * A.square().mean() if self.part == "bias" else self.bias
        pooled = A.mean((2, 3))
        return pooled @ weight.t() if self.part == "no bias" else nn.functional.linear(pooled, weight, bias)


@pytest.mark.parametrize("part", ["weight", "bias", "nothing", "no bias"])
@pytest.mark.parametrize("name", ["grad_cam", "grad_cam_plus_plus"])
def test_a_weight_made_of_the_image(used, part, name):
    torch.manual_seed(0)
    model, targets = Generated(part).eval(), torch.tensor([1, 3])
    expected = getattr(camfast.reference, name)(*autograds(model, targets), None, False)
    explainer = camfast.METHODS[name](model, "body")
    for one, of in (
        (explainer(IMAGES, targets, "map", False).heatmap, expected),
        (explainer(IMAGES, targets[:, None].expand(-1, 2), "map", False).heatmap[:, 1], expected),
    ):
        torch.testing.assert_close(one, of, rtol=1e-4, atol=1e-6)
    assert used == ([True, True] if part in ("nothing", "no bias") and name == "grad_cam" else [])


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
