"""The same script on pytorch-grad-cam and on camfast.compat.pytorch_grad_cam: the import line alone differs."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from torch import nn

PEER, OURS = "pytorch_grad_cam", "camfast.compat.pytorch_grad_cam"


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)).eval()


@pytest.mark.parametrize("package", [PEER, OURS])
def test_a_subclass_overrides_steps(package):
    base = importlib.import_module(package + ".base_cam").BaseCAM

    class Mean(base):
        def get_cam_weights(self, input_tensor, target_layers, targets, activations, grads):
            return np.abs(grads).mean(axis=(2, 3))

    model, images = network(), torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(1))
    cam = Mean(model, [model[1], model[3]])
    found = cam(images, None)
    target = cam.outputs.argmax(1)
    A = images
    expected = []
    for i, layer in enumerate(model):
        A = layer(A)
        if i in (1, 3):
            head = A.detach().requires_grad_()
            score = model[i + 1 :](head.clone())[torch.arange(2), target].sum()
            (G,) = torch.autograd.grad(score, head)
            own = (G.abs().mean((2, 3), keepdim=True) * head.detach()).sum(1, keepdim=True).clamp(min=0)
            own = own - own.amin((2, 3), keepdim=True)
            own = own / (1e-7 + own.amax((2, 3), keepdim=True))
            expected.append(nn.functional.interpolate(own, (20, 20), mode="bilinear")[:, 0])
    mean = torch.stack(expected).mean(0)
    mean = mean - mean.amin((1, 2), keepdim=True)
    np.testing.assert_allclose(found, mean / (1e-7 + mean.amax((1, 2), keepdim=True)), atol=2e-6)


def test_layers_come_in_the_order_asked_for():
    package = importlib.import_module(OURS)
    seen = []

    class Seen(package.GradCAM):
        def get_cam_image(self, input_tensor, target_layer, targets, activations, grads, eigen_smooth=False):
            seen.append((target_layer, activations.shape[1], grads.shape[1]))
            return super().get_cam_image(input_tensor, target_layer, targets, activations, grads, eigen_smooth)

    model = network()
    Seen(model, [model[2], model[0]])(torch.randn(1, 3, 20, 20), None)
    assert seen == [(model[2], 16, 16), (model[0], 8, 8)]


def test_the_model_is_left_as_it_was():
    model = network().train()
    cam = importlib.import_module(OURS).GradCAM(model, [model[2]])
    cam(torch.randn(1, 3, 20, 20), None)
    assert model.training and all(p.grad is None for p in model.parameters())
    assert cam.outputs.shape == (1, 5)
    cam.__exit__(None, None, None)
    assert not model[2]._forward_hooks


def test_fewer_targets_than_images_are_refused():
    model = network()
    package = importlib.import_module(OURS)
    with pytest.raises(ValueError, match="one an image, 2, got 1"):
        package.GradCAM(model, [model[2]])(torch.randn(2, 3, 20, 20), [lambda scores: scores[0]])


@pytest.mark.parametrize("use_rgb", [False, True])
def test_overlays_equal_the_original(use_rgb):
    rng = np.random.default_rng(0)
    image, mask = rng.random((31, 17, 3), np.float32), rng.random((31, 17), np.float32)
    pictures = [
        importlib.import_module(f"{package}.utils.image").show_cam_on_image(image, mask, use_rgb)
        for package in (OURS, PEER)
    ]
    np.testing.assert_array_equal(*pictures)


@pytest.mark.parametrize("size", [(40, 30), (5, 4)])
def test_scaled_maps_equal_the_original(size):
    maps = np.random.default_rng(0).standard_normal((2, 9, 11)).astype(np.float32)
    ours, peer = (importlib.import_module(f"{p}.utils.image").scale_cam_image(maps, size) for p in (OURS, PEER))
    np.testing.assert_allclose(ours, peer, atol=2e-6)


def test_strict_comes_from_the_attribute_or_the_environment(monkeypatch):
    package, strictness = (importlib.import_module(OURS + name) for name in ("", ".strictness"))
    monkeypatch.delenv("CAMFAST_COMPAT_STRICT", raising=False)
    assert not strictness.is_strict()
    monkeypatch.setenv("CAMFAST_COMPAT_STRICT", "1")
    assert strictness.is_strict()
    monkeypatch.setattr(package, "strict", False)
    assert not strictness.is_strict()
