"""SESS against pytorch-grad-cam."""

from __future__ import annotations

import copy

import pytest
import torch
from models import SmallNet, TokenNet, bystander_state, calibrated, images

import camfast

X = images(2, size=(18, 25))


@pytest.fixture
def net() -> SmallNet:
    return calibrated(SmallNet(), images(4))


OPTIONS = {
    "default": {"theta": 1e-3},  # at 0 the last bit of a resize decides which pixels count
    "max": {"pool": "max", "smooth": False, "num_scales": 3},
    "filtered": {"pre_filter_ratio": 0.4, "theta": 0.1, "num_scales": 4, "step_size": 7},
    "scales": {"window_size": 12, "scales": [12, 17, 30], "batch_size": 5},
    "another": {"base_method": "LayerCAM", "num_scales": 3},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_equals_the_peer(net, name):
    peer = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    twin, options = copy.deepcopy(net), dict(OPTIONS[name])
    theirs, ours = dict(options), dict(options)
    if "base_method" in options:
        theirs["base_method"], ours["base_method"] = peer.LayerCAM, camfast.LayerCAM
    found = peer.SESS(twin, [twin.body], **theirs)(X, [ClassifierOutputTarget(c) for c in (1, 3)])
    result = camfast.SESS(net, "body", **ours)(X, [1, 3])
    torch.testing.assert_close(result.heatmap, torch.from_numpy(found), rtol=0, atol=4e-6)
    torch.testing.assert_close(result.scores, net(X).detach())
    assert found.std() > 0.05 and result.layers == ["body"]


@pytest.mark.parametrize("options", [{"num_scales": 2}, {"num_scales": 2, "pre_filter_ratio": 0.5}])
def test_targets_of_an_image(net, options):
    many = camfast.SESS(net, **options)(X, camfast.TopK(2))
    for k in range(2):
        one = camfast.SESS(net, **options)(X, many.targets[:, k]).heatmap
        torch.testing.assert_close(many.heatmap[:, k], one, rtol=0, atol=1e-5)
    called = camfast.SESS(net, use_softmax=False, **options)(X, lambda scores: scores[2]).heatmap
    named = camfast.SESS(net, use_softmax=False, **options)(X, 2).heatmap
    torch.testing.assert_close(called, named, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(net, dtype):
    expected = camfast.sess(net, X, 1, num_scales=2).heatmap
    result = camfast.sess(net.to(dtype), X.to(dtype), 1, num_scales=2).heatmap
    assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (result - expected).abs().max() < (1e-5 if dtype == torch.float64 else 0.1)


def test_other_networks_sizes_and_a_tiny_image(net):
    assert camfast.sess(TokenNet().eval(), images(1), num_scales=1).heatmap.shape == (1, 16, 20)
    raw = camfast.sess(net, X, num_scales=2, size=7, normalize=False)
    assert raw.heatmap.shape == (2, 7, 7) and raw.heatmap.min() >= 0
    assert camfast.sess(net, X[..., :3, :4], num_scales=2).heatmap.shape == (2, 3, 4)


def test_leaves_no_trace(net):
    net.train()
    before = bystander_state(net)
    camfast.SESS(net, num_scales=2, pre_filter_ratio=0.5)(X)
    with pytest.raises(ZeroDivisionError):
        camfast.SESS(net, num_scales=2)(X, lambda scores: 1 / 0)
    after = bystander_state(net)
    for kind in ("hooks", "training", "requires_grad", "identity", "attributes"):
        assert before[kind] == after[kind]
    assert all(torch.equal(value, after["tensors"][name]) for name, value in before["tensors"].items())


def test_bad_arguments(net):
    for options, message in [
        ({"pool": "sum"}, "pool must be 'mean' or 'max', got 'sum'"),
        ({"pre_filter_ratio": 1.0}, "pre_filter_ratio must be from 0 to below 1, got 1.0"),
        ({"scales": []}, "scales must be positive ints"),
        ({"num_scales": 0}, "num_scales must be a positive int or None, got 0"),
        ({"aug_smooth": True}, "SESS has no aug_smooth"),
    ]:
        with pytest.raises(ValueError, match=message):
            camfast.SESS(net, **options)
    with pytest.raises(ValueError, match="every scale must be at least the window's side, 18, got 9"):
        camfast.SESS(net, scales=[9])(X)
    with pytest.raises(ValueError, match=r"SESS explains pictures \[N, C, H, W\], got images \[2, 3, 32\]"):
        camfast.SESS(calibrated(SmallNet(rank=1), images(4, size=(32,))))(images(2, size=(32,)))
