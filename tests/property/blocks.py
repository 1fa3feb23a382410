"""Modules of small networks, each marked with the axes of what it returns."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .axes import Axes, Call

__all__ = [
    "Attention",
    "Block",
    "Lora",
    "Mlp",
    "NoMap",
    "Recurrent",
    "Residual",
    "WindowBlock",
    "calls_of",
    "conv",
    "mark",
    "mark_calls",
    "mark_rest",
    "pool",
]

_MARK = "_calls_known"
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVG = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
ADAPTIVE = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
DROPOUTS = {1: nn.Dropout1d, 2: nn.Dropout2d, 3: nn.Dropout3d}

NoMap = None
"""The axes of what has no positions."""


def mark(module: nn.Module, axes: Axes | None) -> nn.Module:
    """Says that ``module``, and those of its parts that nothing is known of yet, return ``axes`` in one more call."""
    for part in module.modules():
        if _MARK not in vars(part):
            setattr(part, _MARK, [Call(axes)])
    return module


def again(module: nn.Module, axes: Axes | None) -> None:
    """One more call of a module that is marked already, with ``axes`` of its own."""
    vars(module).setdefault(_MARK, []).append(Call(axes))


def repeat(module: nn.Module, times: int) -> None:
    """The calls of ``module`` and its parts happen ``times`` times."""
    for part in module.modules():
        setattr(part, _MARK, calls_of(part) * times)


def mark_calls(module: nn.Module, images: Iterable[str]) -> nn.Module:
    """``module`` runs once for each of ``images``, by their names."""
    for part in module.modules():
        setattr(part, _MARK, [Call(call.axes, image) for image in images for call in calls_of(part)])
    return module


def mark_rest(model: nn.Module) -> nn.Module:
    """Whatever nothing is known of returns no map: linear layers behind the pooling, recomputed weights, wrappers."""
    return mark(model, NoMap)


def calls_of(module: nn.Module) -> list[Call]:
    """The calls of ``module`` in one pass, in order; empty where nothing is known of it."""
    return vars(module).get(_MARK, [])


def conv(rank: int, inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    return CONVS[rank](inside, outside, kernel, stride, padding=kernel // 2, groups=groups)


def pool(rank: int, kind: str, kernel: tuple[int, ...]) -> nn.Module:
    return (MAX if kind == "max" else AVG)[rank](kernel)


class Residual(nn.Module):
    """Two convolutions and a skip connection."""

    def __init__(self, rank: int, channels: int, act: nn.Module) -> None:
        super().__init__()
        self.conv1 = conv(rank, channels, channels, 3)
        self.bn1 = NORMS[rank](channels)
        self.relu = act
        self.conv2 = conv(rank, channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.conv2(self.relu(self.bn1(self.conv1(x)))))


class Mlp(nn.Module):
    """A block of features last: normalisation, two linear layers, a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, 2 * channels)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(self.act(self.fc1(self.norm(x))))


class Attention(nn.Module):
    """Self-attention of tokens ``[N, T, C]``, written out."""

    def __init__(self, channels: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.softmax = nn.Softmax(-1)
        self.proj = nn.Linear(channels, channels)
        setattr(self.softmax, _MARK, [Call(NoMap)])

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        weights = self.softmax(q @ k.transpose(-1, -2) * (c // self.heads) ** -0.5)
        return self.proj((weights @ v).transpose(1, 2).reshape(n, t, c))


class Block(nn.Module):
    """A transformer's block, normalised first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = Attention(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class WindowBlock(nn.Module):
    """Attention within windows of ``side`` by ``side`` of a map ``[N, H, W, C]``, as in Swin."""

    def __init__(self, channels: int, map: tuple[int, ...], side: int) -> None:
        super().__init__()
        self.side = side
        self.norm = nn.LayerNorm(channels)
        self.attn = Attention(channels)
        self.mlp = Mlp(channels)
        mark(self.attn, Axes("windows", map, (0, 1), window=(side, side)))

    def forward(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        s = self.side
        windows = self.norm(x).view(n, h // s, s, w // s, s, c).transpose(2, 3).reshape(-1, s * s, c)
        windows = self.attn(windows).view(n, h // s, w // s, s, s, c).transpose(2, 3)
        return self.mlp(x + windows.reshape(n, h, w, c))


class Recurrent(nn.Module):
    """An LSTM or GRU over ``[N, T, C]``, which it turns as its module wants it; what comes out is ``[N, T, C]``."""

    def __init__(self, kind: str, inside: int, hidden: int, batch_first: bool, both: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        make = nn.LSTM if kind == "lstm" else nn.GRU
        self.rnn = make(inside, hidden, batch_first=batch_first, bidirectional=both)

    def forward(self, x: Tensor) -> Tensor:
        out = self.rnn(x if self.batch_first else x.transpose(0, 1))[0]
        return out if self.batch_first else out.transpose(0, 1)


class Lora(nn.Module):
    """A layer beside a change of low rank, as fine-tuning libraries wrap them."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.Linear(base.in_features, 2, bias=False)
        self.lora_B = nn.Linear(2, base.out_features, bias=False)
        for part in self.modules():
            if calls_of(base) and not calls_of(part):
                setattr(part, _MARK, list(calls_of(base)))

    @property
    def weight(self) -> Tensor:
        return self.base_layer.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


def seeded(model: nn.Module, seed: int, biases: bool = True) -> nn.Module:
    """``model`` in evaluation mode with weights of that seed, at a scale at which small maps keep their contrast."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and parameter.numel():
                fan = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=rng) * (1.6 / fan**0.5))
            elif "bias" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=rng) * (0.1 if biases else 0))
    return model.eval()
