"""Methods that need the image's own gradients, against pytorch-grad-cam and captum."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from models import DeepHead, NoGradForward, SmallNet, TokenNet, TwoInputs, bystander_state, calibrated, images
from torch import nn

import camfast

NAMES = ("full_grad", "guided_backprop", "guided_grad_cam")
CLASSES = [1, 0, 4]


@pytest.fixture
def net() -> SmallNet:
    return calibrated(DeepHead(), images(4))


def full_grad_peer(net: nn.Module, batch: torch.Tensor, classes: list[int]) -> torch.Tensor:
    peers = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    method = peers.FullGrad(copy.deepcopy(net), [])
    return torch.from_numpy(method(batch.clone(), [ClassifierOutputTarget(c) for c in classes]))


@pytest.mark.parametrize("model", [DeepHead, SmallNet])
def test_full_grad_equals_the_peer(model):
    net, batch = calibrated(model(), images(4)), images(3)
    result = camfast.FullGrad(net)(batch, CLASSES)
    theirs = full_grad_peer(net, batch, CLASSES)
    torch.testing.assert_close(result.heatmap, theirs, rtol=0, atol=2e-6)
    assert theirs.std() > 0.01
    assert result.layers == ["stem.0", "stem.1", "body.0", "body.1"]


def test_full_grad_counts_a_layer_for_each_call_and_not_the_idle_ones(net):
    """The peer fails on a layer that does not run."""
    batch, plain = images(2), camfast.FullGrad(net)(images(2), 0).heatmap
    net.idle = nn.Conv2d(3, 3, 1)
    explainer = camfast.FullGrad(net)
    torch.testing.assert_close(explainer(batch, 0).heatmap, plain)
    assert "idle" not in explainer.layers


def test_guided_backprop_equals_captum(net):
    captum = pytest.importorskip("captum.attr")
    batch = images(3)
    result = camfast.guided_backprop(net, batch, CLASSES)
    with pytest.warns(UserWarning, match="backward hooks"):
        theirs = captum.GuidedBackprop(copy.deepcopy(net)).attribute(batch.clone().requires_grad_(), CLASSES)
    scale = float(theirs.detach().abs().max())
    torch.testing.assert_close(result.attributions / scale, theirs.detach() / scale, rtol=0, atol=2e-6)
    expected = camfast.reference.resize_normalize(theirs.detach().abs().sum(1))
    torch.testing.assert_close(result.heatmap, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("layer", ["body", "stem"])
def test_guided_grad_cam_equals_captum(net, layer):
    captum = pytest.importorskip("captum.attr")
    batch, twin = images(3), copy.deepcopy(net)
    result = camfast.guided_grad_cam(net, batch, CLASSES, layer)
    with pytest.warns(UserWarning, match="backward hooks"):
        theirs = captum.GuidedGradCam(twin, twin.get_submodule(layer)).attribute(
            batch.clone().requires_grad_(), CLASSES, interpolate_mode="bilinear"
        )
    scale = float(theirs.detach().abs().max())
    torch.testing.assert_close(result.attributions / scale, theirs.detach() / scale, rtol=0, atol=2e-6)
    assert result.layers == [layer] and result.method == "guided_grad_cam"


def test_relu_as_a_function_is_guided_too():
    """The same network with modules and with functions."""

    class Functional(SmallNet):
        def forward(self, x):
            x = F.relu(self.stem[1](self.stem[0](x)))
            return self.head(self.body[1](self.body[0](x)).relu_())

    modules = calibrated(SmallNet(), images(4))
    functions = Functional()
    functions.load_state_dict(modules.state_dict())
    ours = camfast.guided_backprop(functions.eval(), images(2), 1).attributions
    torch.testing.assert_close(ours, camfast.guided_backprop(modules, images(2), 1).attributions)


@pytest.mark.parametrize("name", NAMES)
def test_targets_of_an_image(net, name):
    batch = images(2)
    many = getattr(camfast, name)(net, batch, torch.tensor([[1, 4, 0], [0, 2, 3]]))
    single = getattr(camfast, name)(net, batch, [0, 3])
    called = getattr(camfast, name)(net, batch, [lambda s: s[0], lambda s: s[3]])
    assert many.heatmap.shape == (2, 3, 16, 20)
    torch.testing.assert_close(many.heatmap[:, 2], single.heatmap, rtol=0, atol=2e-6)
    torch.testing.assert_close(called.heatmap, single.heatmap, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_and_raw_maps(net, name):
    explain = getattr(camfast, name)
    assert explain(net, images(2), 0, size=(9, 7)).heatmap.shape == (2, 9, 7)
    assert explain(net, images(2), 0, size="map").heatmap.shape == (2, 16, 20)
    raw = explain(net, images(2), 0, normalize=False).heatmap
    assert raw.shape == (2, 16, 20) and raw.isfinite().all() and (raw.amax() > 1 or raw.amin() < 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_dtypes(net, name, dtype):
    heat = getattr(camfast, name)(copy.deepcopy(net).to(dtype), images(2).to(dtype), 1).heatmap
    assert heat.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert heat.isfinite().all() and heat.amax() > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_leaves_no_trace(net, name):
    net.train()
    before, batch = bystander_state(net), images(2)
    kept = batch.clone()
    with torch.inference_mode():
        getattr(camfast, name)(net, batch)
    with pytest.raises(ValueError, match="classes from 0 to 4"):
        getattr(camfast, name)(net, batch, 99)
    after = bystander_state(net)
    assert all(torch.equal(before["tensors"][key], after["tensors"][key]) for key in before["tensors"])
    for part in ("hooks", "training", "requires_grad", "grad", "identity", "attributes"):
        assert before[part] == after[part]
    assert torch.equal(batch, kept) and batch.grad is None and not batch.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_several_inputs_and_ranks(name):
    torch.manual_seed(0)
    heat = getattr(camfast, name)(TwoInputs().eval(), (images(2), torch.randn(2, 4)), 1).heatmap
    assert heat.shape == (2, 16, 20) and heat.isfinite().all()
    for rank, size in ((1, (16,)), (3, (4, 6, 8))):
        net = calibrated(SmallNet(rank=rank), images(4, size=size))
        assert getattr(camfast, name)(net, images(2, size=size), 0).heatmap.shape == (2, *size)


def test_bad_arguments(net):
    with pytest.raises(ValueError, match="leave it out"):
        camfast.FullGrad(net, "body")
    with pytest.raises(ValueError, match="leave it out"):
        camfast.GuidedBackprop(net, "body")
    with pytest.raises(ValueError, match="needs a ReLU, got none"):
        camfast.guided_backprop(TokenNet().eval(), images(1))
    for name in ("full_grad", "guided_backprop"):
        with pytest.raises(ValueError, match="got no gradient"):
            getattr(camfast, name)(calibrated(NoGradForward(), images(4)), images(1))
    explainer = camfast.GuidedGradCAM(net)
    explainer.close()
    with pytest.raises(RuntimeError, match="is closed"):
        explainer(images(1))


def test_relu6_is_a_relu_too(net):
    """As a module and as a function: where nothing reaches 6, as guided as with ReLU; a plain hardtanh is none."""
    batch = images(2) * 0.1
    expected = camfast.guided_backprop(net, batch, 1).attributions
    for part in (net.stem, net.body):
        part[2] = nn.ReLU6()
    torch.testing.assert_close(camfast.guided_backprop(net, batch, 1).attributions, expected)
    for part in (net.stem, net.body):
        part[2] = nn.Hardtanh()
    with pytest.raises(ValueError, match="guided backpropagation needs a ReLU, got none"):
        camfast.guided_backprop(net, batch, 1)
