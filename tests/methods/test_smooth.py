"""Methods of several or second gradients, and methods made of others, against torchcam and pytorch-grad-cam."""

from __future__ import annotations

import copy

import pytest
import torch
from models import DeepHead, SmallNet, bystander_state, calibrated, images
from torch import nn

import camfast

NAMES = ("smooth_grad_cam_plus_plus", "random_cam", "shapley_cam", "finer_cam", "refine_cam")
CLASSES = [1, 0, 4]


class SmoothHead(SmallNet):
    """A head with curvature, so that second derivatives are not zero."""

    def head(self, features: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.tanh(features).pow(2).flatten(2).mean(2))


@pytest.fixture
def net() -> SmallNet:
    return calibrated(SmoothHead(), images(4))


def peer(name: str, net: nn.Module, layers: list[str], batch: torch.Tensor, classes=None, **call) -> torch.Tensor:
    peers = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    twin = copy.deepcopy(net)
    targets = None if classes is None else [ClassifierOutputTarget(c) for c in classes]
    method = getattr(peers, name)(twin, [twin.get_submodule(n) for n in layers])
    return torch.from_numpy(method(batch, targets, **call))


@pytest.mark.parametrize("layer", ["body", "stem"])
def test_shapley_equals_the_peer(net, layer):
    batch = images(3)
    ours = camfast.ShapleyCAM(net, layer)(batch, CLASSES).heatmap
    torch.testing.assert_close(ours, peer("ShapleyCAM", net, [layer], batch.clone(), CLASSES), rtol=0, atol=2e-6)
    first_order = camfast.GradCAM(net, layer)(batch, CLASSES).heatmap
    assert (ours - first_order).abs().max() > 1e-3


def test_shapley_of_a_linear_head_is_grad_cam():
    net, batch = calibrated(SmallNet(), images(4)), images(2)
    ours = camfast.ShapleyCAM(net, "body")(batch, camfast.TopK(3)).heatmap
    torch.testing.assert_close(ours, camfast.GradCAM(net, "body")(batch, camfast.TopK(3)).heatmap, rtol=0, atol=2e-6)


class AttentionBehind(torch.nn.Module):
    """A convolution's patches, and attention over them behind the layer that is explained."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 16, 4, 4)
        layer = torch.nn.TransformerEncoderLayer(16, 2, 24, 0.0, batch_first=True)
        self.encoder = torch.nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.fc = torch.nn.Linear(16, 5)

    def forward(self, x):
        return self.fc(self.encoder(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


def test_shapley_through_attention():
    """Whose fused kernels have no second derivative; by hand: the gradient less half the Hessian times the activations."""
    net, x = AttentionBehind().eval(), images(2)
    found = camfast.shapley_cam(net, x, 3, "patches", size="map", normalize=False).heatmap
    A = net.patches(x).detach().requires_grad_()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        score = net.fc(net.encoder(A.flatten(2).transpose(1, 2)).mean(1))[:, 3].sum()
        (gradient,) = torch.autograd.grad(score, A, create_graph=True)
        (product,) = torch.autograd.grad(gradient, A, A.detach())
    weights = (gradient - 0.5 * product).detach().mean((2, 3), keepdim=True)
    torch.testing.assert_close(found, (weights * A.detach()).sum(1), rtol=1e-4, atol=1e-6)


def test_shapley_does_not_reach_the_trunk(net):
    """The trunk may hold what cannot be differentiated twice."""

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise AssertionError("the trunk was differentiated")

    trunk = net.stem
    net.stem = nn.Sequential(trunk, type("Barrier", (nn.Module,), {"forward": lambda self, x: Once.apply(x)})())
    assert camfast.ShapleyCAM(net, "body")(images(2)).heatmap.isfinite().all()


def test_finer_equals_the_peer(net):
    batch = images(3)
    ours = camfast.FinerCAM(net, "body")(batch).heatmap
    torch.testing.assert_close(ours, peer("FinerCAM", net, ["body"], batch), rtol=0, atol=2e-6)
    ours = camfast.FinerCAM(net, "body", alpha=0.5, comparisons=(2,))(batch).heatmap
    theirs = peer("FinerCAM", net, ["body"], batch, alpha=0.5, comparison_categories=[2])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


def test_finer_with_classes_and_another_base(net):
    pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam import FinerCAM, LayerCAM

    batch = images(3)
    result = camfast.FinerCAM(net, "body", base_method=camfast.LayerCAM)(batch, [2, 2, 2])
    twin = copy.deepcopy(net)
    theirs = FinerCAM(twin, [twin.body], base_method=LayerCAM)(batch, target_idx=2)
    torch.testing.assert_close(result.heatmap, torch.from_numpy(theirs), rtol=0, atol=2e-6)
    assert result.targets.tolist() == [2, 2, 2] and result.method == "finer_cam"


def test_refine_equals_the_peer(net):
    batch = images(3)
    ours = camfast.RefineCAM(net, ["stem", "body"])(batch, CLASSES).heatmap
    torch.testing.assert_close(ours, peer("RefineCAM", net, ["stem", "body"], batch, CLASSES), rtol=0, atol=2e-6)


@pytest.mark.parametrize("std", [0.0, 0.3])
@pytest.mark.parametrize("model", [SmoothHead, DeepHead])
def test_smooth_equals_torchcam(model, std):
    methods = pytest.importorskip("torchcam.methods")
    net, batch = calibrated(model(), images(4)), images(3)
    torch.manual_seed(7)
    ours = camfast.SmoothGradCAMPlusPlus(net, "body", std=std)(batch, CLASSES, size="map", normalize=False).heatmap
    torch.manual_seed(7)
    with methods.SmoothGradCAMpp(copy.deepcopy(net), "body", std=max(std, 1e-12)) as method:
        method.model(batch)
        (theirs,) = method(CLASSES, normalized=False)
    ours = ours.clamp(min=0)
    torch.testing.assert_close(ours / ours.amax(), theirs / theirs.amax(), rtol=0, atol=2e-6)
    assert theirs.std() > 0


def test_random_equals_the_peer_with_its_weights(net, monkeypatch):
    import numpy as np

    generator = torch.Generator().manual_seed(5)
    weights = torch.rand(3, 16, generator=generator) * 2 - 1
    monkeypatch.setattr(np.random, "uniform", lambda *args, **options: weights.numpy())
    batch = images(3)
    ours = camfast.RandomCAM(net, "body", seed=5)(batch).heatmap
    torch.testing.assert_close(ours, peer("RandomCAM", net, ["body"], batch, CLASSES), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["smooth_grad_cam_plus_plus", "random_cam"])
def test_seed_settles_chance(net, name):
    batch, explain = images(2), getattr(camfast, name)
    state = torch.get_rng_state()
    first = explain(net, batch, 0, "body", seed=1).heatmap
    assert torch.equal(first, explain(net, batch, 0, "body", seed=1).heatmap)
    assert not torch.equal(first, explain(net, batch, 0, "body", seed=2).heatmap)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", NAMES)
def test_targets_of_an_image(net, name):
    batch = images(2)
    options = {"seed": 3} if name in ("smooth_grad_cam_plus_plus", "random_cam") else {}
    explain = getattr(camfast, name)
    many = explain(net, batch, torch.tensor([[1, 4, 0], [0, 2, 3]]), "body", **options).heatmap
    assert many.shape == (2, 3, 16, 20)
    if name != "random_cam":
        single = explain(net, batch, [0, 3], "body", **options).heatmap
        torch.testing.assert_close(many[:, 2], single, rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_dtypes(net, name, dtype):
    heat = getattr(camfast, name)(copy.deepcopy(net).to(dtype), images(2).to(dtype), 1, "body").heatmap
    assert heat.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert heat.isfinite().all() and heat.amax() > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_leaves_no_trace(net, name):
    net.train()
    before = bystander_state(net)
    getattr(camfast, name)(net, images(2), layers="body")
    with pytest.raises(ValueError, match="classes from 0 to 4"):
        getattr(camfast, name)(net, images(2), 99, "body")
    after = bystander_state(net)
    assert all(torch.equal(before["tensors"][key], after["tensors"][key]) for key in before["tensors"])
    for part in ("hooks", "training", "requires_grad", "grad", "identity", "attributes"):
        assert before[part] == after[part]


def test_layers_are_found(net):
    for name in NAMES:
        explainer = camfast.METHODS[name](net)
        assert explainer(images(1)).heatmap.shape == (1, 16, 20) and explainer.layers == ["body"]
        explainer.close()
        with pytest.raises(RuntimeError, match="is closed"):
            explainer(images(1))


def test_bad_arguments(net):
    with pytest.raises(ValueError, match="samples must be"):
        camfast.SmoothGradCAMPlusPlus(net, samples=0)
    with pytest.raises(ValueError, match="std must not"):
        camfast.SmoothGradCAMPlusPlus(net, std=-1)
    with pytest.raises(TypeError, match="base_method must be"):
        camfast.FinerCAM(net, base_method="grad_cam")
    with pytest.raises(TypeError, match="explains by gradients"):
        camfast.FinerCAM(net, base_method=camfast.CAM)
    with pytest.raises(ValueError, match="places from 1"):
        camfast.FinerCAM(net, comparisons=(0,))
    with pytest.raises(TypeError, match="contrasts classes"):
        camfast.FinerCAM(net, "body")(images(1), lambda scores: scores[0])
    with pytest.raises(ValueError, match="class to compare with"):
        camfast.FinerCAM(calibrated(SmallNet(classes=1), images(4)), "body")(images(1))
