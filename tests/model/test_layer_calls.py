"""Layers that run several times in a pass: which call is explained, of which image, and what is said about it."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

import camfast
from camfast.errors import DoubtWarning

RAW = {"size": "map", "normalize": False}


class Siamese(nn.Module):
    """One backbone over two images."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.fc = nn.Linear(16, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.fc(torch.cat([self.net(a).mean((2, 3)), self.net(b).mean((2, 3))], 1))


class Frames(nn.Module):
    """One backbone over the frames of a clip, one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh())
        self.fc = nn.Linear(8, 3)

    def forward(self, clip: Tensor) -> Tensor:
        return self.fc(torch.stack([self.net(frame).mean((2, 3)) for frame in clip.unbind(1)], 1).amax(1))


class SharedActivation(nn.Module):
    """One activation module at three places of a chain."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.convs = nn.ModuleList([nn.Conv2d(3, 8, 3, padding=1), *(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))])
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = self.act(conv(x))
        return self.fc(x.mean((2, 3)))


def plain(model: nn.Module, layer: nn.Module, inputs: tuple[Tensor, ...], target: int) -> list[Tensor]:
    """Raw Grad-CAM maps of every call of ``layer``, by hooks and autograd."""
    kept: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, args, output: kept.append(output))
    score = model(*inputs)[:, target].sum()
    handle.remove()
    gradients = torch.autograd.grad(score, kept)
    return [(g.mean((2, 3), keepdim=True) * A).sum(1).detach() for A, g in zip(kept, gradients, strict=True)]


@pytest.fixture
def siamese() -> tuple[Siamese, Tensor, Tensor]:
    torch.manual_seed(0)
    return Siamese().eval(), torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)


@pytest.mark.parametrize("call", [1, 2])
def test_a_call_by_number_is_that_calls_map_over_its_image(siamese, call: int) -> None:
    model, a, b = siamese
    result = camfast.grad_cam(model, (a, b), layers=f"net#{call}", targets=1, **RAW)
    torch.testing.assert_close(result.heatmap, plain(model, model.net, (a, b), 1)[call - 1], rtol=1e-5, atol=1e-7)
    assert result.layers == [f"net#{call}"]
    assert result.images is (a, b)[call - 1]


def test_all_calls_are_as_many_layers(siamese) -> None:
    model, a, b = siamese
    result = camfast.grad_cam(model, (a, b), layers="net#*", targets=1, **RAW)
    first, second = plain(model, model.net, (a, b), 1)
    torch.testing.assert_close(result.heatmap, (first + second) / 2, rtol=1e-5, atol=1e-7)
    assert result.layers == ["net#1", "net#2"]


@pytest.mark.parametrize("layers", ["net", None])
def test_without_a_number_it_is_the_last_call_and_said_so(siamese, layers) -> None:
    model, a, b = siamese
    with pytest.warns(DoubtWarning, match="ran 2 times in one pass"):
        result = camfast.grad_cam(model, (a, b), layers=layers, targets=1, **RAW)
    torch.testing.assert_close(result.heatmap, plain(model, model.net, (a, b), 1)[1], rtol=1e-5, atol=1e-7)
    assert result.layers == ["net#2"]
    assert result.images is b


def test_frames_in_a_loop_are_calls() -> None:
    torch.manual_seed(0)
    model, clip = Frames().eval(), torch.randn(2, 4, 3, 8, 8)
    maps = plain(model, model.net, (clip,), 2)
    for turn in range(4):
        result = camfast.grad_cam(model, clip, layers=f"net#{turn + 1}", targets=2, **RAW)
        torch.testing.assert_close(result.heatmap, maps[turn], rtol=1e-5, atol=1e-7)
    with pytest.warns(DoubtWarning, match="ran 4 times"):
        camfast.grad_cam(model, clip, layers="net", targets=2, **RAW)


def test_a_shared_activation_is_named_with_its_call_and_no_warning() -> None:
    torch.manual_seed(0)
    model, x = SharedActivation().eval(), torch.randn(2, 3, 8, 8)
    maps = plain(model, model.act, (x,), 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        last = camfast.grad_cam(model, x, layers="act", targets=3, **RAW)
        second = camfast.grad_cam(model, x, layers="act#2", targets=3, **RAW)
    assert last.layers == ["act#3"]
    torch.testing.assert_close(last.heatmap, maps[2], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(second.heatmap, maps[1], rtol=1e-5, atol=1e-7)


def test_masks_are_laid_over_the_image_of_the_call(siamese) -> None:
    model, a, b = siamese
    model.fc.weight.data[:, 8:] = 0  # the scores read the first image alone
    result = camfast.score_cam(model, (a, b), layers="net#2", targets=1, **RAW)
    A = model.net(b).detach()
    assert result.images is b
    # Masks of b change nothing in the scores, so that the softmax over channels is even.
    torch.testing.assert_close(result.heatmap, A.mean(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["ablation_cam", "recipro_cam", "shapley_cam", "layer_cam", "eigen_cam"])
def test_other_methods_take_calls(siamese, method: str) -> None:
    model, a, b = siamese
    model.fc.weight.data[:, :8] = 0.3
    swapped = Siamese().eval()
    swapped.load_state_dict(model.state_dict())
    swapped.fc.weight.data = model.fc.weight.data.roll(8, 1)
    explain = getattr(camfast, method)
    first = explain(model, (a, b), layers="net#1", targets=1, **RAW)
    last = explain(swapped, (b, a), layers="net#2", targets=1, **RAW)
    torch.testing.assert_close(first.heatmap, last.heatmap, rtol=1e-4, atol=1e-5)


def test_features_and_gradients_address_calls_alike(siamese) -> None:
    model, a, b = siamese
    maps = camfast.FeatureMaps(model, ["net#2"])((a, b))
    assert list(maps) == ["net#2"]
    torch.testing.assert_close(maps["net#2"], model.net(b).detach())
    assert list(camfast.FeatureMaps(model, ["net#*"])((a, b))) == ["net", "net#2"]
    gradients = camfast.Gradients(model, ["net"])((a, b), lambda output: output[:, 1].sum())
    wanted = model.fc.weight[1].detach() / 64
    torch.testing.assert_close(gradients["net"], wanted[:8, None, None].expand(2, 8, 8, 8))
    torch.testing.assert_close(gradients["net#2"], wanted[8:, None, None].expand(2, 8, 8, 8))


def test_a_call_that_is_not_there(siamese) -> None:
    model, a, b = siamese
    with pytest.raises(ValueError, match="'net#3'; it runs 2 times"):
        camfast.grad_cam(model, (a, b), layers="net#3")


def test_exported_programs_have_no_layers_and_unflattened_ones_do(siamese) -> None:
    model, a, b = siamese
    program = torch.export.export(model, (a, b))
    for layers in (None, "net"):
        with pytest.raises(TypeError, match="torch.export"):
            camfast.grad_cam(program.module(), (a, b), layers=layers)
    with pytest.raises(TypeError, match="torch.export"):
        camfast.FeatureMaps(program.module())
    whole = SharedActivation().eval()
    x = torch.randn(2, 3, 8, 8)
    parts = torch.export.unflatten(torch.export.export(whole, (x,)))
    result = camfast.grad_cam(parts, x, layers="convs.2", targets=1, **RAW)
    torch.testing.assert_close(result.heatmap, plain(whole, whole.convs[2], (x,), 1)[0], rtol=1e-5, atol=1e-7)
