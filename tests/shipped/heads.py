"""Small networks, one for each kind of head that a file must hold."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE = (32, 40)
CLASSES = 5


def _trunk(channels: int = 8) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, 2, 1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, 2, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3, 2, 1),
    )


class Network(nn.Module):
    """A small trunk and one of the heads below."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.trunk = _trunk()
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.trunk(images))


class Norm(nn.Module):
    """A layer norm over the channels, as ConvNeXt has it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Shuffled(nn.Module):
    """Channels that attend to positions: fused attention, sizes read from the batch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        q, k, v = self.qkv(tokens).reshape(x.shape[0], tokens.shape[1], 3, 2, -1).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(tokens.shape)
        return self.out((tokens + found)[:, 0] + F.gelu(found).mean(1))


HEADS = {
    "pooled": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)),
    "relu before pooling": lambda: nn.Sequential(
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)
    ),
    "hidden layer": lambda: nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 12), nn.Hardswish(), nn.Linear(12, CLASSES)
    ),
    "flattened": lambda: nn.Sequential(
        nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True), nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(48, CLASSES)
    ),
    "layer norm": lambda: nn.Sequential(Norm(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)),
    "convolutions": lambda: nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, 2, 1, groups=4),
        nn.SiLU(),
        nn.AvgPool2d(2, 1, 1, count_include_pad=False),
        nn.GroupNorm(2, 8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    ),
    "attention": lambda: Shuffled(8),
}


def network(head: str) -> Network:
    """A network with the head of that name, in evaluation mode."""
    torch.manual_seed(1)
    model = Network(HEADS[head]()).eval()
    with torch.no_grad():  # scores that tell positions apart
        [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1].weight.mul_(10)
    return model
