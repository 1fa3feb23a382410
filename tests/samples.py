"""Inputs of the ops: one list that correctness, gradient, compile and emulator tests share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FAMILY = [
    "cam",
    "grad_cam",
    "grad_cam_plus_plus",
    "xgrad_cam",
    "hires_cam",
    "layer_cam",
    "grad_cam_elementwise",
]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
LAYOUTS = ["contiguous", "channels_last", "strided", "misaligned", "tokens", "channel_gaps"]


@dataclass(frozen=True)
class Sample:
    """Activations ``[N, C, *map]``, K targets an image (None: no such dimension), and the heatmap's size."""

    N: int
    C: int
    map: tuple[int, ...]
    size: tuple[int, ...] | int | None = None
    K: int | None = None

    def __str__(self) -> str:
        targets = "" if self.K is None else f"-K{self.K}"
        return f"{self.N}x{self.C}x{'x'.join(map(str, self.map))}{targets}-to-{self.size}".replace(" ", "")

    def tensors(self, op: str, dtype=torch.float32, layout="contiguous", device="cpu", seed=0) -> tuple[Tensor, Tensor]:
        """Activations as after a ReLU (peers' rules divide by their sums), and signed gradients or weights."""
        rng = torch.Generator().manual_seed(seed)
        lead = (self.N,) if self.K is None else (self.N, self.K)
        A = torch.randn(self.N, self.C, *self.map, generator=rng, dtype=torch.float64).clamp(min=0) + 0.01
        if op == "cam":
            second = torch.randn(*lead, self.C, generator=rng, dtype=torch.float64)
        else:
            second = torch.randn(*lead, self.C, *self.map, generator=rng, dtype=torch.float64)
        A, second = A.to(dtype).to(device), second.to(dtype).to(device)
        rank = len(self.map)
        if op == "cam":
            return arrange(A, layout, rank), second
        return arrange(A, layout, rank), arrange(second, layout, rank)


def arrange(x: Tensor, layout: str, rank: int) -> Tensor:
    """The same values, laid out in memory as named. The channel dimension stands before the ``rank`` last ones."""
    channel = x.ndim - rank - 1
    if layout == "contiguous":
        return x.contiguous()
    if layout == "channels_last":
        return x.movedim(channel, -1).contiguous().movedim(-1, channel)
    if layout == "strided":  # every second value of something larger, along the last dimension
        wide = torch.zeros(*x.shape[:-1], x.shape[-1] * 2, dtype=x.dtype, device=x.device)
        wide[..., ::2] = x
        return wide[..., ::2]
    if layout == "misaligned":  # one element off every vector boundary
        flat = torch.zeros(x.numel() + 1, dtype=x.dtype, device=x.device)
        flat[1:] = x.flatten()
        return flat[1:].view(x.shape)
    if layout == "tokens":  # [N, 1 + positions, C] with a class token in front, as transformers have it
        rows = x.movedim(channel, -1).flatten(-rank - 1, -2)
        rows = torch.cat([torch.full_like(rows[..., :1, :], 7.0), rows], -2)[..., 1:, :]
        return rows.unflatten(-2, x.shape[-rank:]).movedim(-1, channel)
    if layout == "channel_gaps":  # every second channel of something larger
        wide = torch.zeros(
            *x.shape[:channel], x.shape[channel] * 2, *x.shape[channel + 1 :], dtype=x.dtype, device=x.device
        )
        every_second = (slice(None),) * channel + (slice(None, None, 2),)
        wide[every_second] = x
        return wide[every_second]
    raise ValueError(layout)


SAMPLES = [
    Sample(1, 2048, (7, 7), 224),
    Sample(3, 40, (7, 7), (33, 50)),
    Sample(2, 64, (14, 14), None, K=3),
    Sample(2, 17, (1, 1), 5),
    Sample(2, 8, (1, 9), (3, 4)),
    Sample(1, 3, (2, 3), (64, 65), K=1),
    Sample(2, 33, (5, 4), (1, 1)),
    Sample(1, 12, (40, 37), (9, 80)),
    Sample(4, 5, (13,), 50),
    Sample(2, 6, (130,), (7,), K=2),
    Sample(2, 10, (3, 4, 5), (7, 9, 4)),
    Sample(1, 4, (2, 6, 3), 12, K=2),
    Sample(2, 1, (6, 6), 11),
    Sample(9, 24, (8, 8), 16),
    # a channel's values in the registers of a warp or of a block, 16 bytes at a time or singly; and too many for that
    Sample(2, 9, (13, 13), 20),
    Sample(2, 10, (16, 16), (5, 777)),
    Sample(1, 20, (28, 28), (2, 4100), K=2),
    Sample(1, 7, (19, 19), 9),
    Sample(1, 9, (35, 35), 30),
    Sample(1, 12, (48, 64), 10),
    Sample(1, 5, (47, 47), 8),
    Sample(1, 3, (65, 66), 12),
]
EMPTY = [Sample(0, 8, (7, 7), 14), Sample(2, 8, (7, 7), 14, K=0), Sample(2, 0, (7, 7), 14)]
