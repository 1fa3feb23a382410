"""Recurrent and attending heads, signals and audio: networks that learned to find one place, whose heat must lie there.

A short pattern, somewhere in noise, decides the class, and nothing else in the input tells it. With random weights the map must
change where the pattern is put; once a network has been trained on it, for a second or some, the heat must lie there. Elsewhere it
would be wrong: time and features exchanged, the batch taken for time, only the last step of a recurrence seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import camfast

CLASSES, WIDTH = 3, 16  # of the pattern, along time


def signals(count: int, generator: torch.Generator, length: int = 128) -> tuple[Tensor, Tensor, Tensor]:
    """Signals ``[N, 2, L]``, classes ``[N]``, and where the pattern is, bool ``[N, L]``: a wave, faster with the class."""
    x = 0.2 * torch.randn(count, 2, length, generator=generator)
    classes = torch.randint(0, CLASSES, (count,), generator=generator)
    starts = torch.randint(0, length - WIDTH, (count,), generator=generator)
    offset = torch.arange(length) - starts[:, None]
    inside = (offset >= 0) & (offset < WIDTH)
    waves = torch.sin(2 * math.pi * offset * (1 + classes[:, None]) / WIDTH) * inside
    x[:, 0] += 2 * waves
    x[:, 1] += inside * (classes[:, None] - 1.0)
    return x, classes, inside


def pictures(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Images ``[N, 3, 24, 48]``, or spectrograms of as many bands: a patch whose colour is the class."""
    x = 0.2 * torch.randn(count, 3, 24, 48, generator=generator)
    classes = torch.randint(0, CLASSES, (count,), generator=generator)
    inside = torch.zeros(count, 24, 48, dtype=torch.bool)
    for n in range(count):
        top, left = (int(torch.randint(0, most - 8, (), generator=generator)) for most in (24, 48))
        inside[n, top : top + 8, left : left + 8] = True
        x[n, classes[n]][inside[n]] += 2.0
    return x, classes, inside


def convolutions(rank: int, inputs: int, stride: int = 2) -> nn.Sequential:
    conv, norm = (nn.Conv1d, nn.BatchNorm1d) if rank == 1 else (nn.Conv2d, nn.BatchNorm2d)
    return nn.Sequential(
        conv(inputs, 24, 5, stride, 2), norm(24), nn.ReLU(), conv(24, 32, 3, 2, 1), norm(32), nn.ReLU()
    )


class Recurrent(nn.Module):
    """Convolutions, then ``nn.LSTM`` or ``nn.GRU`` over time, of which the last step, the last state or the mean is read."""

    def __init__(self, kind: type[nn.RNNBase], read: str, batch_first: bool = True, both_ways: bool = False) -> None:
        super().__init__()
        self.body = convolutions(1, 2)
        self.rnn = kind(32, 24, batch_first=batch_first, bidirectional=both_ways)
        self.fc = nn.Linear(48 if both_ways else 24, CLASSES)
        self.read, self.batch_first = read, batch_first

    def forward(self, x: Tensor) -> Tensor:
        steps = self.body(x).movedim(2, 1 if self.batch_first else 0)
        out, state = self.rnn(steps)
        time = 1 if self.batch_first else 0
        if self.read == "state":
            return self.fc((state[0] if isinstance(state, tuple) else state)[-1])
        return self.fc(out.select(time, -1) if self.read == "last" else out.mean(time))


class ReadByColumns(nn.Module):
    """A text recogniser's form: columns of a map are the steps of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.body = convolutions(2, 3)
        self.rnn = nn.LSTM(32 * 6, 24, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(48, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        columns = self.body(x).flatten(1, 2).transpose(1, 2)  # [N, 12, 32 * 6]
        return self.fc(self.rnn(columns)[0].mean(1))


class Attending(nn.Module):
    """``nn.TransformerEncoder`` over the steps or patches of convolutions, with or without a class token in front."""

    def __init__(self, rank: int, batch_first: bool, token: bool) -> None:
        super().__init__()
        self.body = convolutions(rank, 2 if rank == 1 else 3)
        layer = nn.TransformerEncoderLayer(32, 2, 48, 0.0, batch_first=batch_first, norm_first=token)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.token = nn.Parameter(torch.randn(1, 1, 32) * 0.1) if token else None
        self.fc = nn.Linear(32, CLASSES)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.body(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1)
        tokens = self.encoder(tokens if self.batch_first else tokens.transpose(0, 1))
        tokens = tokens if self.batch_first else tokens.transpose(0, 1)
        return self.fc(tokens.mean(1) if self.token is None else tokens[:, 0])


class Waveform(nn.Module):
    """Audio as it is, ``[N, L]``: convolutions, pooling, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = convolutions(1, 1)
        self.fc = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x[:, None]).mean(2))


class Spectrogram(nn.Module):
    """Audio as bands over time, computed inside: the map is of time alone, as the input is."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(17, 32, 3, 1, 1), nn.BatchNorm1d(32), nn.ReLU())
        self.fc = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        bands = torch.stft(x, 32, 4, window=torch.hann_window(32), return_complex=True).abs()  # [N, 17, T]
        return self.fc(self.body(bands).mean(2))


def wav2vec2() -> nn.Module:
    """transformers' wav2vec 2.0 with a classifier, small."""
    transformers = pytest.importorskip("transformers")
    config = transformers.Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, conv_dim=(16, 24), conv_stride=(2, 2),
        conv_kernel=(5, 3), num_feat_extract_layers=2, feat_extract_norm="layer", num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, classifier_proj_size=16, num_labels=CLASSES,
    )  # fmt: skip
    return transformers.Wav2Vec2ForSequenceClassification(config)


def plain(rank: int) -> nn.Module:
    pool = nn.AdaptiveAvgPool1d(1) if rank == 1 else nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(convolutions(rank, 2 if rank == 1 else 3), pool, nn.Flatten(), nn.Linear(32, CLASSES))


def wave_alone(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Audio ``[N, L]``."""
    x, classes, inside = signals(count, generator)
    return x[:, 0], classes, inside


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable]] = {
    "conv1d": (lambda: plain(1), signals),
    "lstm, last step": (lambda: Recurrent(nn.LSTM, "last"), signals),
    "lstm, mean": (lambda: Recurrent(nn.LSTM, "mean"), signals),
    "lstm, both ways": (lambda: Recurrent(nn.LSTM, "mean", both_ways=True), signals),
    "lstm, time first": (lambda: Recurrent(nn.LSTM, "mean", batch_first=False), signals),
    "gru, state": (lambda: Recurrent(nn.GRU, "state"), signals),
    "gru, time first, state": (lambda: Recurrent(nn.GRU, "state", batch_first=False), signals),
    "gru, mean": (lambda: Recurrent(nn.GRU, "mean"), signals),
    "lstm over columns": (ReadByColumns, pictures),
    "encoder of a signal": (lambda: Attending(1, True, False), signals),
    "encoder of a signal, time first": (lambda: Attending(1, False, False), signals),
    "encoder of a signal, class token": (lambda: Attending(1, True, True), signals),
    "encoder of a picture": (lambda: Attending(2, True, False), pictures),
    "encoder of a picture, tokens first": (lambda: Attending(2, False, False), pictures),
    "encoder of a picture, tokens first, class token": (lambda: Attending(2, False, True), pictures),
    "waveform": (Waveform, wave_alone),
    "wav2vec 2.0": (wav2vec2, wave_alone),
    "spectrogram inside": (Spectrogram, wave_alone),
    "spectrogram": (lambda: plain(2), pictures),
}


def trained(make: Callable[[], nn.Module], data: Callable) -> nn.Module:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    net = make()
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(300):
        x, classes, _ = data(32, generator)
        loss = F.cross_entropy(net(x), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.05:
            break
    return net.eval()


def share(heat: Tensor, inside: Tensor) -> tuple[float, float]:
    """The part of the heat on the pattern or just beside it, and what it would be by chance."""
    rank = inside.ndim - 1
    near = inside[:, None].float()
    near = (F.max_pool1d(near, 9, 1, 4) if rank == 1 else F.max_pool2d(near, 9, 1, 4))[:, 0]
    dims = tuple(range(1, heat.ndim))
    return ((heat * near).sum(dims) / heat.sum(dims).clamp(min=1e-6)).mean().item(), near.mean().item()


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_added_in_one_place_shows_there(name):
    """Of random weights, which carry nothing far: the difference that the pattern makes to the map is where it is."""
    make, data = NETWORKS[name]
    torch.manual_seed(0)
    net = make().eval()
    x, classes, inside = data(12, torch.Generator().manual_seed(1))
    without = torch.where(inside if x.ndim == inside.ndim else inside[:, None], 0.2 * torch.randn(x.shape), x)
    explainer = camfast.HiResCAM(net)
    maps = [explainer(images, classes, normalize=False).heatmap for images in (x, without)]
    found, chance = share((maps[0] - maps[1]).abs(), inside)
    assert found > 2 * chance, (explainer.layers, found, chance)
    one = explainer(x[:1], classes[:1], normalize=False)  # alone, where the batch cannot be taken for time
    torch.testing.assert_close(one.heatmap, maps[0][:1], rtol=1e-3, atol=1e-5)


# Which method reads them best, and at which layer where it is not the one that is found: after attention over all places, whose
# mean is read, each place holds something of the evidence.
TRAINED = {
    "conv1d": ("grad_cam", None),
    "lstm, both ways": ("grad_cam", None),
    "lstm, time first": ("grad_cam", None),
    "gru, time first, state": ("hires_cam", None),
    "lstm over columns": ("grad_cam", None),
    "encoder of a signal, time first": ("hires_cam", None),
    "encoder of a signal, class token": ("hires_cam", None),
    "encoder of a picture": ("hires_cam", "body"),
    "encoder of a picture, tokens first, class token": ("hires_cam", None),
    "waveform": ("grad_cam", None),
    "spectrogram inside": ("grad_cam", None),
    "spectrogram": ("grad_cam", None),
}


@pytest.mark.parametrize("name", TRAINED)
def test_heat_lies_where_the_evidence_is(name):
    make, data = NETWORKS[name]
    method, layers = TRAINED[name]
    net = trained(make, data)
    x, classes, inside = data(12, torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert (net(x).argmax(1) == classes).float().mean() > 0.9  # it has learned to see the pattern
    result = camfast.METHODS[method](net, layers)(x, classes)
    assert result.heatmap.shape == inside.shape
    found, chance = share(result.heatmap, inside)
    assert found > 2 * chance, (result.layers, found, chance)
