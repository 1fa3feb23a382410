"""What the dimensions of a layer's output are, where sizes alone tell nothing or the wrong thing."""

from __future__ import annotations

import plain_maps
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import camfast

RAW = {"size": "map", "normalize": False}


class ConvolutionThenLSTM(nn.Module):
    """A signal ``[N, 3, L]``: convolutions, then an LSTM over ``[N, T, 24]``."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv1d(3, 16, 5, padding=2), nn.ReLU(), nn.MaxPool1d(4),
            nn.Conv1d(16, 24, 5, padding=2), nn.ReLU(), nn.MaxPool1d(4),
        )  # fmt: skip
        self.lstm = nn.LSTM(24, 32, batch_first=True)
        self.fc = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(self.cnn(x).transpose(1, 2))[0].mean(1))


@pytest.mark.parametrize("layer", [None, "lstm", "cnn"])
def test_heat_of_a_signal_lies_along_time(layer):
    net, x = ConvolutionThenLSTM().eval(), torch.randn(2, 3, 320)
    result = camfast.grad_cam(net, x, targets=1, layers=layer, **RAW)
    (used,) = result.layers
    assert used == (layer or "lstm")
    wanted = plain_maps.grad_cam(net, used, [x], lambda y: y[:, 1].sum(), channels=2 if used == "lstm" else 1)
    plain_maps.assert_map(result.heatmap, wanted)


@pytest.mark.parametrize(
    "channels, pool, size",
    [((32, 64), (1, 4), (64, 64)), ((64, 128), (1, 4), (128, 128)), ((16, 16), (2, 1), (64, 64)), ((32, 64), (1, 4), (64, 400))],
    ids=["time pooled", "larger", "frequency pooled", "not square"],
)  # fmt: skip
def test_spectrogram_with_as_many_channels_as_bands(channels, pool, size):
    peer = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget as Target

    import camfast.compat.pytorch_grad_cam as ours

    first, second = channels
    net = nn.Sequential(
        nn.Conv2d(1, first, 3, padding=1), nn.ReLU(), nn.MaxPool2d(pool),
        nn.Conv2d(first, second, 3, padding=1), nn.ReLU(), nn.MaxPool2d(pool),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(second, 4),
    ).eval()  # fmt: skip
    x = torch.randn(2, 1, *size)
    wanted = plain_maps.grad_cam(net, "5", [x], lambda y: y[:, 1].sum())
    plain_maps.assert_map(camfast.grad_cam(net, x, targets=1, layers="5", **RAW).heatmap, wanted)
    theirs = torch.from_numpy(peer.GradCAM(net, [net[5]])(x, [Target(1)] * 2))
    torch.testing.assert_close(camfast.grad_cam(net, x, targets=1, layers="5").heatmap, theirs, rtol=0, atol=2e-6)
    adapter = torch.from_numpy(ours.GradCAM(net, [net[5]])(x, [Target(1)] * 2))
    torch.testing.assert_close(adapter, theirs, rtol=0, atol=2e-6)


class Padded(nn.Module):
    """Tokens of a picture through ``nn.TransformerEncoder``, padding left out."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv2d(3, 16, 5, padding=2, stride=4), nn.ReLU())
        self.enc = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        mask = F.max_pool2d(padding[:, None].float(), 4).flatten(1) > 0
        tokens = self.enc(self.cnn(x).flatten(2).transpose(1, 2), src_key_padding_mask=mask)
        return self.fc(tokens.masked_fill(mask[..., None], 0).mean(1))


@pytest.fixture
def padded() -> tuple[nn.Module, Tensor, Tensor]:
    padding = torch.zeros(2, 32, 32, dtype=torch.bool)
    padding[:, 24:] = True
    return Padded().eval(), torch.randn(2, 3, 32, 32), padding


@pytest.mark.parametrize("method", ["grad_cam", "eigen_cam"])
@pytest.mark.parametrize("layer", [None, "cnn"])
def test_a_padding_mask_does_not_matter(padded, method, layer):
    net, x, padding = padded
    heat = camfast.METHODS[method](net, layers=layer)((x, padding)).heatmap
    assert heat.shape == (2, 32, 32) and heat.isfinite().all() and heat.flatten(1).any(1).all()


def test_encoder_layer_with_a_padding_mask(padded):
    net, x, padding = padded
    wanted = plain_maps.grad_cam(net, "enc.layers.0", [x, padding], lambda y: y[:, 1].sum(), channels=2)
    found = camfast.grad_cam(net, (x, padding), targets=1, layers="enc.layers.0", **RAW).heatmap
    plain_maps.assert_map(found, wanted.unflatten(1, (8, 8)))


def test_feature_maps_with_a_padding_mask(padded):
    net, x, padding = padded
    maps = camfast.FeatureMaps(net, layers="enc.layers.*")((x, padding))
    kept = []
    handle = net.enc.layers[1].register_forward_hook(lambda m, a, out: kept.append(out.detach()))
    net(x, padding)  # with a graph, where no fast path is taken
    handle.remove()
    plain_maps.assert_map(maps["enc.layers.1"], kept[0].transpose(1, 2).unflatten(2, (8, 8)))


def test_captum_with_a_padding_mask(padded):
    theirs = pytest.importorskip("captum.attr")
    from camfast.compat.captum.attr import LayerGradCam

    net, x, padding = padded
    own, other = (
        kind(net, net.enc.layers[0]).attribute(x, target=1, additional_forward_args=(padding,))
        for kind in (LayerGradCam, theirs.LayerGradCam)
    )
    torch.testing.assert_close(own, other)
