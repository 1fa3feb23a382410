"""Methods of principal components, against pytorch-grad-cam and against plain singular value decompositions."""

from __future__ import annotations

import copy

import pytest
import torch
from models import InPlaceAfter, SmallNet, bystander_state, calibrated, images

import camfast
from camfast.methods import weights

peers = pytest.importorskip("pytorch_grad_cam")

NAMES = {
    "eigen_cam": "EigenCAM",
    "eigen_grad_cam": "EigenGradCAM",
    "seg_eigen_cam": "SegEigenCAM",
    "kpca_cam": "KPCA_CAM",
    "fem": "FEM",
}
UP_TO_SIGN = ("eigen_cam", "eigen_grad_cam")


@pytest.fixture
def net() -> SmallNet:
    return calibrated(SmallNet(), images(4))


def peer(name: str, net: torch.nn.Module, layers: list, batch: torch.Tensor, classes: list[int]) -> torch.Tensor:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    twin = copy.deepcopy(net)
    names = [next(n for n, m in net.named_modules() if m is layer) for layer in layers]
    with getattr(peers, NAMES[name])(twin, [twin.get_submodule(n) for n in names]) as method:
        return torch.from_numpy(method(batch, [ClassifierOutputTarget(c) for c in classes]))


def raw_peer(net: torch.nn.Module, layer: torch.nn.Module, weigh, batch: torch.Tensor, classes) -> torch.Tensor:
    """The signed projection, so that maps can be compared up to sign before the ReLU."""
    from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection

    kept = []
    handle = layer.register_forward_hook(lambda module, args, output: kept.append(output))
    scores = net(batch)
    handle.remove()
    (gradient,) = torch.autograd.grad(scores.gather(1, torch.tensor(classes)[:, None]).sum(), kept[0])
    return torch.from_numpy(get_2d_projection(weigh(kept[0].detach(), gradient).numpy()))


@pytest.mark.parametrize("name", ["seg_eigen_cam", "kpca_cam", "fem"])
@pytest.mark.parametrize("layer", ["body", "stem"])
def test_equals_the_peer(net, name, layer):
    batch = images(3)
    ours = camfast.METHODS[name](net, layer)(batch, [1, 0, 4]).heatmap
    theirs = peer(name, net, [net.get_submodule(layer)], batch, [1, 0, 4])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)
    assert theirs.std() > 0.01


@pytest.mark.parametrize("name, weigh", [("eigen_cam", lambda A, g: A), ("eigen_grad_cam", lambda A, g: A * g)])
@pytest.mark.parametrize("layer", ["body", "stem"])
def test_equals_the_peer_up_to_sign(net, name, weigh, layer):
    batch = images(3)
    ours = camfast.METHODS[name](net, layer)(batch, [1, 0, 4], size="map", normalize=False).heatmap
    theirs = raw_peer(net, net.get_submodule(layer), weigh, batch, [1, 0, 4])
    for mine, other in zip(ours, theirs, strict=True):
        signed = other * torch.sign((mine * other).sum())
        torch.testing.assert_close(mine / mine.abs().max(), signed / signed.abs().max(), rtol=0, atol=2e-6)
        assert mine.max() >= -mine.min()


@pytest.mark.parametrize("name", UP_TO_SIGN)
def test_normalised_map_is_the_peers_or_its_opposite(net, name):
    batch, classes = images(3), [1, 0, 4]
    ours = camfast.METHODS[name](net, "body")(batch, classes).heatmap
    raw = camfast.METHODS[name](net, "body")(batch, classes, size="map", normalize=False).heatmap
    flipped = camfast.reference.resize_normalize(-raw, (16, 20), relu=True)
    for mine, other, theirs in zip(ours, flipped, peer(name, net, [net.body], batch, classes), strict=True):
        assert min((mine - theirs).abs().max(), (other - theirs).abs().max()) <= 2e-6


def test_several_layers_equal_the_peer(net):
    batch = images(2)
    ours = camfast.FEM(net, ["stem", "body"])(batch).heatmap
    classes = net(batch).argmax(1).tolist()
    torch.testing.assert_close(ours, peer("fem", net, [net.stem, net.body], batch, classes), rtol=0, atol=2e-6)


def test_sign_is_settled_even_where_both_ends_are_equal():
    """Two positions are always +a and -a: the first of them is taken as positive, whatever the platform."""
    A = torch.tensor([[[0.0, 1.0], [0.5, 3.0]], [[1.0, 0.0], [3.0, 0.5]]])
    raw = camfast.ops.eigen_cam(A, normalize=False)
    assert (raw[:, 0] > 0).all() and torch.allclose(raw[:, 0], -raw[:, 1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_dtypes(net, name, dtype):
    batch = images(2)
    expected = camfast.METHODS[name](net, "body")(batch, 1).heatmap
    ours = camfast.METHODS[name](copy.deepcopy(net).to(dtype), "body")(batch.to(dtype), 1).heatmap
    assert ours.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    similarity = torch.nn.functional.cosine_similarity(ours.flatten(1).double(), expected.flatten(1).double())
    assert similarity.min() > (0.8 if dtype == torch.bfloat16 or name == "fem" else 0.98)


@pytest.mark.parametrize("name", NAMES)
def test_targets_of_an_image(net, name):
    batch = images(2)
    explain = getattr(camfast, name)
    many = explain(net, batch, camfast.TopK(3), "body").heatmap
    assert many.shape == (2, 3, 16, 20)
    single = explain(net, batch, net(batch).topk(3).indices[:, 2], "body").heatmap
    torch.testing.assert_close(many[:, 2], single, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_leaves_no_trace(name):
    net = calibrated(InPlaceAfter(), images(4)).train()
    before = bystander_state(net)
    camfast.METHODS[name](net, "body")(images(2))
    after = bystander_state(net)
    assert all(torch.equal(before["tensors"][key], after["tensors"][key]) for key in before["tensors"])
    for part in ("hooks", "training", "requires_grad", "identity", "attributes"):
        assert before[part] == after[part]
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("rank", [1, 3])
def test_sequences_and_volumes(rank):
    size = {1: (16,), 3: (6, 8, 10)}[rank]
    batch = images(2, size=size)
    net = calibrated(SmallNet(rank=rank), batch)
    for name in NAMES:
        heat = camfast.METHODS[name](net, "body")(batch, 0).heatmap
        assert heat.shape == (2, *size) and heat.isfinite().all()


def test_bad_arguments(net):
    with pytest.raises(ValueError, match="gamma must be positive"):
        camfast.KPCACAM(net, "body", gamma=-1)
    with pytest.raises(ValueError, match="shape of the activations"):
        weights.eigen_of_product(torch.zeros(1, 2, 3, 3), torch.zeros(2))
