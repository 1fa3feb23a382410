"""From an image to features: convolutions, then what stands in the middle of today's networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import blocks
from .axes import Axes
from .blocks import again, mark
from .choices import Choices

__all__ = ["State", "Trunk", "trunk"]


@dataclass(frozen=True)
class State:
    """What is known of the features so far."""

    layout: str  # of the tensor that flows: "NC*", "N*C" or "NTC"
    map: tuple[int, ...]
    along: tuple[int, ...]
    channels: int
    prefix: int = 0
    reach: tuple[float, ...] = ()  # how far a feature sees, in positions of the image, if nothing mixes them
    step: tuple[float, ...] = ()  # positions of the image from one feature to the next
    mixes: bool = False  # every feature may see the whole image: attention, recurrence, norms over positions

    @property
    def rank(self) -> int:
        return len(self.map)

    def axes(self, layout: str = "") -> Axes:
        return Axes(layout or self.layout, self.map, self.along, self.prefix)


class Trunk(nn.Module):
    """Steps in a row: modules, by name, and changes of layout between them."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[str] = []

    def add(self, name: str, module: nn.Module) -> nn.Module:
        self.add_module(name, module)
        self.steps.append(name)
        return module

    def turn(self, how: str) -> None:
        self.steps.append(how)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """``padding`` is bool ``[N, *size]``, True where an image has been filled up."""
        for step in self.steps:
            if step == ">last":
                x = x.movedim(1, -1)
            elif step == ">first":
                x = x.movedim(-1, 1)
            elif step == ">tokens":
                x = x.flatten(2).transpose(1, 2)
            elif step == ">transposed tokens":
                x = x.transpose(2, 3).flatten(2).transpose(1, 2)
            elif step == ">columns":  # [N, C, H, W] to [N, W, C * H]
                x = x.flatten(1, 2).transpose(1, 2)
            elif step == ">batch second" or step == ">batch first":
                x = x.transpose(0, 1)
            elif step == ">class token":
                tokens = self.class_tokens.expand(x.shape[0], -1, -1)
                x = torch.cat([tokens, x], 1) + self.positions
            elif step == "encoder" and padding is not None:
                mask = self.padded(padding)
                x = self.encoder(x, src_key_padding_mask=mask).masked_fill(mask[..., None], 0)
            else:
                x = getattr(self, step)(x)
        return x

    def padded(self, padding: Tensor) -> Tensor:
        """Bool ``[N, T]``: tokens that see nothing but padding."""
        shrink = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[padding.ndim - 1]
        mask = shrink(padding[:, None].float(), self.grid) == 1
        mask = mask.transpose(2, 3) if self.turned else mask
        return F.pad(mask.flatten(1), (self.class_tokens.shape[1], 0))


def trunk(choose: Choices, key: str, rank: int, channels: int, size: tuple[int, ...], middles: list[str]) -> tuple:
    """A trunk for images ``[N, channels, *size]``, and the state of what it returns."""
    net = Trunk()
    state = State("NC*", size, tuple(range(rank)), channels, reach=(0.0,) * rank, step=(1.0,) * rank)
    shared = nn.ReLU() if choose(f"{key}acts", ["own", "own", "own", "shared"]) == "shared" else None
    middle = choose(f"{key}middle", [name for name in middles if _fits(name, rank)])
    patches = middle in ("tokens", "windows", "last") and choose(f"{key}stem", ["convs", "patches"]) == "patches"
    if patches and min(size) >= 8:
        side = choose(f"{key}patch", [4, 2])
        width = choose(f"{key}width", [8, 4, 12, "positions"])
        state = _patches(net, state, side, 2 * (size[-1] // side) if width == "positions" else width)
    else:
        for i in range(choose(f"{key}depth", [2, 1, 3])):
            state = _convolutions(choose, f"{key}conv{i}.", net, state, shared, f"layer{i}")
    if middle == "tokens" and math.prod(state.map) > 64:  # attention over many positions takes long
        state = _patches(net, state, 2, state.channels)
    state = _MIDDLES[middle](choose, key, net, state)
    mark(net, state.axes())
    return net, state


def _fits(middle: str, rank: int) -> bool:
    return {"rnn": rank == 1, "columns": rank == 2, "windows": rank == 2}.get(middle, True)


def _wider(state: State, positions: Sequence[int]) -> State:
    """The state after a layer that sees so many of the features before it, to either side."""
    return replace(state, reach=tuple(r + n * s for r, n, s in zip(state.reach, positions, state.step, strict=True)))


def _smaller(state: State, sizes: Sequence[int], factors: Sequence[int]) -> State:
    return replace(state, map=tuple(sizes), step=tuple(s * f for s, f in zip(state.step, factors, strict=True)))


def _patches(net: Trunk, state: State, side: int, channels: int) -> State:
    layer = blocks.CONVS[state.rank](state.channels, channels, side, side)
    sides = [side] * state.rank
    state = _smaller(_wider(state, sides), [n // side for n in state.map], sides)
    return _added(net, f"patch_embed{len(net.steps)}", layer, state, channels)


def _act(choose: Choices, key: str, shared: nn.Module | None) -> nn.Module:
    if shared is not None:
        return shared
    kind = choose(f"{key}act", ["relu", "relu", "in place", "gelu", "silu"])
    return {"relu": nn.ReLU, "in place": lambda: nn.ReLU(inplace=True), "gelu": nn.GELU, "silu": nn.SiLU}[kind]()


def _convolutions(choose: Choices, key: str, net: Trunk, state: State, shared: nn.Module | None, name: str) -> State:
    """One stage: a convolution, perhaps a norm, an activation, perhaps a residual block, perhaps pooling."""
    rank, before = state.rank, state
    kernel = choose(f"{key}kernel", [3, 3, 1, 5])
    stride = choose(f"{key}stride", [1, 2]) if min(state.map) >= 6 else 1
    width = choose(f"{key}width", [8, 6, 12, 16, "positions", "half positions"])
    sizes = tuple((n - 1) // stride + 1 for n in state.map)
    width = {"positions": sizes[-1], "half positions": max(2, sizes[-1] // 2)}.get(width, width)
    state = replace(_smaller(_wider(state, [kernel // 2 + 1] * rank), sizes, [stride] * rank), channels=width)
    parts: list[nn.Module] = [blocks.conv(rank, before.channels, width, kernel, stride)]
    norm = choose(f"{key}norm", ["none", "batch", "batch", "group"])
    if norm == "batch":
        parts.append(blocks.NORMS[rank](width))
    if norm == "group":
        parts.append(nn.GroupNorm(1, width))
        state = replace(state, mixes=True)
    act = _act(choose, key, shared)
    parts.append(act)
    again(act, state.axes())
    if choose(f"{key}residual", [False, False, False, True]):
        if shared is None:
            act = nn.ReLU()
        again(act, state.axes())
        again(act, state.axes())
        parts.append(blocks.Residual(rank, width, act))
        state = _wider(state, [4] * rank)
    for part in parts:
        mark(part, state.axes())
    kinds = ["none", "max", "avg", "last axis", "first axis"]
    pooled = choose(f"{key}pool", kinds if rank > 1 else kinds[:3])
    factor = choose(f"{key}pool by", [2, 2, 4]) if pooled != "none" else 1
    kernels = [factor] * rank
    if pooled == "last axis":
        kernels = [1] * (rank - 1) + [factor]
    if pooled == "first axis":
        kernels = [factor] + [1] * (rank - 1)
    if pooled != "none" and all(n // k >= 3 for n, k in zip(state.map, kernels, strict=True)):
        layer = blocks.pool(rank, "avg" if pooled == "avg" else "max", tuple(kernels))
        state = _smaller(_wider(state, kernels), [n // k for n, k in zip(state.map, kernels, strict=True)], kernels)
        parts.append(mark(layer, state.axes()))
    mark(net.add(name, nn.Sequential(*parts)), state.axes())
    return state


def _none(choose: Choices, key: str, net: Trunk, state: State) -> State:
    return state


def _reused(choose: Choices, key: str, net: Trunk, state: State) -> State:
    """One block, of weights of its own, several times in a row."""
    times = choose(f"{key}times", [2, 3])
    act = nn.ReLU()
    again(act, state.axes())
    block = mark(nn.Sequential(blocks.conv(state.rank, state.channels, state.channels, 3), act), state.axes())
    blocks.repeat(net.add("shared", block), times)
    net.steps += ["shared"] * (times - 1)
    return _wider(state, [2 * times] * state.rank)


def _last(choose: Choices, key: str, net: Trunk, state: State) -> State:
    """Features last, as in ConvNeXt; then perhaps back."""
    net.turn(">last")
    state = replace(state, layout="N*C")
    for i in range(choose(f"{key}blocks", [1, 2])):
        mark(net.add(f"block{i}", blocks.Mlp(state.channels)), state.axes())
    return _back(choose, key, net, state)


def _windows(choose: Choices, key: str, net: Trunk, state: State) -> State:
    side = next((side for side in (3, 2) if all(n % side == 0 for n in state.map)), None)
    channels = state.channels + state.channels % 2
    if side is None or channels != state.channels:
        return _last(choose, key, net, state)
    net.turn(">last")
    state = _wider(replace(state, layout="N*C"), [2 * side] * state.rank)
    for i in range(choose(f"{key}blocks", [1, 2])):
        mark(net.add(f"block{i}", blocks.WindowBlock(state.channels, state.map, side)), state.axes())
    return _back(choose, key, net, state)


def _back(choose: Choices, key: str, net: Trunk, state: State) -> State:
    if choose(f"{key}ends", ["last", "norm", "convolution"]) == "convolution":
        net.turn(">first")
        state = _wider(replace(state, layout="NC*"), [2] * state.rank)
        act = nn.ReLU()
        again(act, state.axes())
        return _added(net, "neck", nn.Sequential(blocks.conv(state.rank, state.channels, 8, 3), act), state, 8)
    if choose.made.get(f"{key}ends") == "norm":
        mark(net.add("norm", nn.LayerNorm(state.channels)), state.axes())
    return state


def _added(net: Trunk, name: str, module: nn.Module, state: State, channels: int) -> State:
    state = replace(state, channels=channels)
    mark(net.add(name, module), state.axes())
    return state


def _tokens(choose: Choices, key: str, net: Trunk, state: State) -> State:
    """A transformer, with or without tokens of its own before the positions."""
    if state.channels % 2:
        state = _added(net, "project", blocks.CONVS[state.rank](state.channels, 8, 1), replace(state), 8)
    turned = state.rank == 2 and choose(f"{key}order", ["rows", "rows", "rows", "rows", "columns"]) == "columns"
    net.grid, net.turned = state.map, turned
    net.turn(">transposed tokens" if turned else ">tokens")
    if turned:
        state = replace(state, map=state.map[::-1], along=(1, 0))
    prefix = choose(f"{key}prefix", [0, 1, 1, 2, 5])
    state = replace(state, layout="NTC", prefix=prefix, mixes=True)
    net.class_tokens = nn.Parameter(torch.zeros(1, prefix, state.channels))
    net.positions = nn.Parameter(torch.zeros(1, prefix + math.prod(state.map), state.channels))
    net.turn(">class token")
    kind = choose(f"{key}blocks are", ["own", "layers", "encoder", "layers, batch second", "encoder, batch second"])
    depth = choose(f"{key}blocks", [1, 2])
    second = kind.endswith("second")
    layer = lambda: nn.TransformerEncoderLayer(state.channels, 2, 2 * state.channels, batch_first=not second)  # noqa: E731
    inside = state.axes("TNC" if second else "NTC")
    if second:
        net.turn(">batch second")
    if kind == "own":
        mark(net.add("blocks", nn.Sequential(*(blocks.Block(state.channels) for _ in range(depth)))), inside)
    elif kind.startswith("layers"):
        mark(net.add("layers", nn.Sequential(*(layer() for _ in range(depth)))), inside)
    else:
        mark(net.add("encoder", nn.TransformerEncoder(layer(), depth)), inside)
    if second:
        net.turn(">batch first")
    if choose(f"{key}norm at end", [False, True]):
        mark(net.add("norm", nn.LayerNorm(state.channels)), state.axes())
    return state


def _rnn(choose: Choices, key: str, net: Trunk, state: State) -> State:
    net.turn(">tokens")
    return _recurrent(choose, key, net, replace(state, layout="NTC", mixes=True))


def _columns(choose: Choices, key: str, net: Trunk, state: State) -> State:
    """An LSTM over the columns of a picture, as in readers of text lines."""
    net.turn(">columns")
    channels = state.channels * state.map[0]
    return _recurrent(choose, key, net, State("NTC", state.map[1:], (1,), channels, 0, state.reach, state.step, True))


def _recurrent(choose: Choices, key: str, net: Trunk, state: State) -> State:
    kind = choose(f"{key}rnn", ["lstm", "gru"])
    hidden = choose(f"{key}hidden", [8, 12, "positions"])
    hidden = state.map[0] if hidden == "positions" else hidden
    inside = state.channels
    first = choose(f"{key}batch first", [True, True, False])
    both = choose(f"{key}both ways", [False, True])
    state = replace(state, channels=hidden * (1 + both))
    module = blocks.Recurrent(kind, inside, hidden, first, both)
    mark(module.rnn, state.axes("NTC" if first else "TNC"))
    mark(net.add("recurrent", module), state.axes())
    return state


_MIDDLES = {
    "none": _none,
    "reused": _reused,
    "last": _last,
    "windows": _windows,
    "tokens": _tokens,
    "rnn": _rnn,
    "columns": _columns,
}
