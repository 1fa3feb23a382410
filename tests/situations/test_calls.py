"""Layers that run several times, checkpoints, recomputed weights, models that were traced or exported."""

from __future__ import annotations

import copy
import pickle
import warnings

import plain_maps
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune, spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

import camfast

RAW = {"size": "map", "normalize": False}


class Siamese(nn.Module):
    """One backbone, called on two images."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()
        )
        self.fc = nn.Linear(32, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.fc(torch.cat([self.net(a).mean((2, 3)), self.net(b).mean((2, 3))], 1))


@pytest.fixture
def pair() -> tuple[nn.Module, Tensor, Tensor]:
    a, b = torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32)
    a[..., :8, :8], b[..., 24:, 24:] = 3, 3
    return Siamese().eval(), a, b


@pytest.mark.parametrize("call", [1, 2])
def test_each_call_of_a_shared_backbone_can_be_asked_for(pair, call):
    net, a, b = pair
    result = camfast.grad_cam(net, (a, b), layers=f"net#{call}", targets=1, **RAW)
    wanted = plain_maps.grad_cam(net, "net", [a, b], lambda y: y[:, 1].sum(), call=call - 1)
    plain_maps.assert_map(result.heatmap, wanted)
    assert result.layers == [f"net#{call}"]
    assert result.images is (a, b)[call - 1]


@pytest.mark.parametrize("layer", [None, "net"])
def test_a_shared_backbone_says_that_it_runs_twice(pair, layer):
    net, a, b = pair
    with pytest.warns(UserWarning, match=r"(?i)twice|two|2"):
        result = camfast.grad_cam(net, (a, b), layers=layer, targets=1, **RAW)
    maps = [plain_maps.grad_cam(net, "net", [a, b], lambda y: y[:, 1].sum(), call=i) for i in range(2)]
    (own,) = (i for i, wanted in enumerate(maps) if (result.heatmap - wanted).abs().max() < 1e-6)
    assert result.images is (a, b)[own]


def test_masks_are_laid_over_the_image_that_the_call_saw(pair):
    """Score-CAM's masks of one image's activations must not cover the other image."""
    net, a, b = pair
    result = camfast.score_cam(net, (a, b), layers="net#2", targets=1, **RAW)
    ((_, _), (A, _)) = plain_maps.calls(net, "net", [a, b], lambda y: y[:, 1].sum())
    masks = torch.nn.functional.interpolate(A, b.shape[2:], mode="bilinear", align_corners=True)[0]
    low, high = masks.flatten(1).amin(1)[:, None, None], masks.flatten(1).amax(1)[:, None, None]
    masks = ((masks - low) / (high - low + 1e-8))[:, None]
    with torch.no_grad():
        weights = net(a.expand(len(masks), -1, -1, -1), b * masks)[:, 1].softmax(0)
    plain_maps.assert_map(result.heatmap, (weights[:, None, None] * A[0]).sum(0, keepdim=True))
    assert result.images is b


def test_captum_on_a_shared_backbone(pair):
    theirs = pytest.importorskip("captum.attr")
    from camfast.compat.captum.attr import LayerGradCam

    net, a, b = pair
    found, wanted = (kind(net, net.net).attribute((a, b), target=1) for kind in (LayerGradCam, theirs.LayerGradCam))
    torch.testing.assert_close(found, wanted)


class Checkpointed(nn.Module):
    def __init__(self, how: bool | None) -> None:
        super().__init__()
        self.how = how
        self.l1 = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.l2 = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU())
        self.l3 = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        self.fc = nn.Linear(16, 4)

    def tail(self, x: Tensor) -> Tensor:
        return self.fc(self.l3(x).mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.l2(self.l1(x))
        return self.tail(x) if self.how is None else checkpoint(self.tail, x, use_reentrant=self.how)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("layer", [None, "l2", "l3"])
def test_checkpoints_of_both_kinds(reentrant, layer):
    net, plain, x = Checkpointed(reentrant).eval(), Checkpointed(None).eval(), torch.randn(2, 3, 16, 16)
    plain.load_state_dict(net.state_dict())
    result = camfast.grad_cam(net, x, layers=layer, targets=1, **RAW)
    wanted = plain_maps.grad_cam(plain, result.layers[0], [x], lambda y: y[:, 1].sum())
    plain_maps.assert_map(result.heatmap, wanted)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("layer", ["l2", "l3"])
def test_checkpoints_by_the_adapter(reentrant, layer):
    peer = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget as Target

    import camfast.compat.pytorch_grad_cam as ours

    net, plain, x = Checkpointed(reentrant).eval(), Checkpointed(None).eval(), torch.randn(2, 3, 16, 16)
    plain.load_state_dict(net.state_dict())
    found = ours.GradCAM(net, [net.get_submodule(layer)])(x, [Target(1)] * 2)
    wanted = peer.GradCAM(plain, [plain.get_submodule(layer)])(x, [Target(1)] * 2)
    torch.testing.assert_close(torch.from_numpy(found), torch.from_numpy(wanted), rtol=0, atol=2e-6)


RECOMPUTED = {
    "pruned": lambda net: prune.l1_unstructured(net.fc, "weight", 0.3),
    "spectral norm": lambda net: spectral_norm(net.fc),
    "weight norm": lambda net: weight_norm(net.fc),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("how", RECOMPUTED)
def test_recomputed_weights_keep_no_graph(how):
    """Pre-hooks recompute ``fc.weight`` in every pass; one with a graph would leave a graph on it."""
    net = nn.Sequential()
    net.c = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.fc = nn.Linear(8, 3)
    RECOMPUTED[how](net.eval())
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        net(x)
    before = net.fc.weight.requires_grad
    copy.deepcopy(net), pickle.dumps(net)
    with torch.no_grad():
        camfast.grad_cam(net, x, layers="c.1")
    assert net.fc.weight.requires_grad == before
    copy.deepcopy(net), pickle.dumps(net)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l1 = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.l2 = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU())
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.l2(self.l1(x)).mean((2, 3)))


def test_a_traced_model_is_explained():
    net, x = Small().eval(), torch.randn(2, 3, 16, 16)
    found = camfast.grad_cam(torch.fx.symbolic_trace(net), x, targets=1, **RAW)
    plain_maps.assert_map(found.heatmap, plain_maps.grad_cam(net, "l2", [x], lambda y: y[:, 1].sum()))


@pytest.mark.parametrize("layer", [None, "l2"])
def test_an_exported_program_is_refused_for_what_it_is(layer):
    net, x = Small().eval(), torch.randn(2, 3, 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(net, (x,)).module()
    with pytest.raises((TypeError, ValueError), match="export") as raised:
        camfast.grad_cam(program, x, layers=layer)
    assert "\n" not in str(raised.value)
