"""Small networks for tests: each has one trait that a tap, a layer search or a method must cope with."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def images(n: int = 2, channels: int = 3, size: tuple[int, ...] = (16, 20), seed: int = 0) -> Tensor:
    """Random images with structure at several scales, so that maps are not constant."""
    generator = torch.Generator().manual_seed(seed)
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    coarse = torch.randn(n, channels, *(4,) * len(size), generator=generator)
    return F.interpolate(coarse, size, mode=mode) + 0.3 * torch.randn(n, channels, *size, generator=generator)


def calibrated(model: nn.Module, batch: Tensor) -> nn.Module:
    """``model`` in evaluation mode, its batch norms set by ``batch``: a random network then tells positions apart."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    model.train()
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


def bystander_state(model: nn.Module) -> dict[str, object]:
    """Everything of ``model`` that an explanation must leave as it was."""
    return {
        "hooks": {
            name: [len(getattr(m, kind)) for kind in _HOOKS] for name, m in model.named_modules(remove_duplicate=False)
        },
        "training": {name: m.training for name, m in model.named_modules(remove_duplicate=False)},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "grad": {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        "tensors": {name: t.clone() for name, t in model.state_dict().items()},
        "identity": {name: id(t) for name, t in [*model.named_parameters(), *model.named_buffers()]},
        "attributes": {name: sorted(vars(m)) for name, m in model.named_modules()},
    }


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class SmallNet(nn.Module):
    """Convolutions with batch norm and in-place ReLU, global average pooling, one linear layer."""

    def __init__(self, classes: int = 5, channels: int = 3, rank: int = 2, width: int = 8) -> None:
        super().__init__()
        conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[rank]
        norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[rank]
        self.stem = nn.Sequential(conv(channels, width, 3, padding=1), norm(width), nn.ReLU(inplace=True))
        self.body = nn.Sequential(
            conv(width, 2 * width, 3, stride=2, padding=1), norm(2 * width), nn.ReLU(inplace=True)
        )
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)))

    def head(self, features: Tensor) -> Tensor:
        return self.fc(self.dropout(features.flatten(2).mean(2)))


class DeepHead(SmallNet):
    """No global pooling: a map of 8 x 10 is flattened and goes through two linear layers with a nonlinearity."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__(classes)
        self.pool = nn.AdaptiveAvgPool2d((4, 5))
        self.fc = nn.Sequential(nn.Linear(16 * 20, 12), nn.GELU(), nn.Linear(12, classes))

    def head(self, features: Tensor) -> Tensor:
        return self.fc(self.pool(features).flatten(1))


class InPlaceAfter(SmallNet):
    """The tapped convolution's output is overwritten by what follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(8, 16, 3, padding=1)

    def head(self, features: Tensor) -> Tensor:
        return self.fc(F.relu_(features).flatten(2).mean(2))


class Twice(SmallNet):
    """The same block runs twice in one pass."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Tanh())
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.body(self.stem(x))))


Parts = namedtuple("Parts", ["mask", "features"])


@dataclass
class Record:
    """A dataclass as an output."""

    count: int
    features: Tensor


class Packing(nn.Module):
    """A convolution whose output is wrapped up: in a tuple, list, named tuple, dict, dataclass or nested."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(8, 16, 3, padding=1)

    def forward(self, x: Tensor) -> object:
        features = self.conv(x)
        mask = features.amax((1, 2, 3)) > 0
        return {
            "tuple": (mask, features),
            "list": [features, mask],
            "namedtuple": Parts(mask, features),
            "dict": {"mask": mask, "features": features},
            "dataclass": Record(3, features),
            "nested": (mask, {"inner": [features]}),
        }[self.kind]


class Packed(SmallNet):
    """The tapped layer returns more than a tensor."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body = Packing(kind)

    def forward(self, x: Tensor) -> Tensor:
        packed = self.body(self.stem(x))
        kind = self.body.kind
        if kind == "tuple":
            assert isinstance(packed, tuple)
        features = {
            "tuple": lambda: packed[1],
            "list": lambda: packed[0],
            "namedtuple": lambda: packed.features,
            "dict": lambda: packed["features"],
            "dataclass": lambda: packed.features,
            "nested": lambda: packed[1]["inner"][0],
        }[kind]()
        return self.head(torch.relu(features))


class FrozenTrunk(SmallNet):
    """Runs its backbone under its own no_grad, as feature extractors with frozen weights do."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.body(self.stem(x))
        return self.head(features)


class CutOff(SmallNet):
    """Detaches after the layer: nothing can be explained by gradients."""

    def head(self, features: Tensor) -> Tensor:
        return super().head(features.detach())


class NoGradForward(SmallNet):
    """Its forward is decorated with no_grad."""

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class TwoInputs(SmallNet):
    """An image and a row of numbers an image."""

    def __init__(self) -> None:
        super().__init__()
        self.meta = nn.Linear(4, 5)

    def forward(self, image: Tensor, meta: Tensor) -> Tensor:
        return super().forward(image) + self.meta(meta)


class Output(SmallNet):
    """Returns its scores in a structure."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> object:
        features = self.body(self.stem(x))
        scores = self.head(features)
        return {
            "dict": lambda: {"logits": scores, "features": features},
            "out": lambda: {"features": features, "out": scores},
            "tuple": lambda: (scores, features),
            "list": lambda: [scores, features],
            "object": lambda: namedtuple("Out", ["hidden", "logits"])(features, scores),
        }[self.kind]()


class Branches(SmallNet):
    """Two layers side by side, neither after the other; and one that feeds no score."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(8, 16, 3, padding=1)
        self.right = nn.Conv2d(8, 16, 1)
        self.unused = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        self.unused(stem)
        return self.head(torch.relu(self.left(stem)) * torch.sigmoid(self.right(stem)))


class Segmenter(SmallNet):
    """Scores for every pixel, resized to the image; an auxiliary head runs last."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__(classes)
        self.classifier = nn.Conv2d(16, classes, 1)
        self.aux = nn.Sequential(nn.Conv2d(16, 6, 3, padding=1), nn.Conv2d(6, classes, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(self.stem(x))
        out = F.interpolate(self.classifier(features), x.shape[2:], mode="bilinear")
        return {"out": out, "aux": self.aux(features)}


class _NoRule(torch.autograd.Function):
    """An operation whose backward has no batching rule."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        assert gradient.storage_offset() >= 0 and gradient.data_ptr() != 0
        return 2 * x * gradient


class CustomBackward(SmallNet):
    """Its head holds an operation that one batched backward pass cannot take."""

    def head(self, features: Tensor) -> Tensor:
        return super().head(_NoRule.apply(features))


class Attention(nn.Module):
    """Self-attention, written out, with its own softmax module."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.softmax = nn.Softmax(-1)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        attention = self.softmax(q @ k.transpose(-1, -2) * (c // self.heads) ** -0.5)
        return self.proj((attention @ v).transpose(1, 2).reshape(n, t, c))


class Block(nn.Module):
    """A transformer's block, normalised first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TokenNet(nn.Module):
    """A small ViT: patches, ``prefix`` extra tokens, two blocks; scores from the first token, or the mean."""

    def __init__(self, size: tuple[int, int] = (16, 20), patch: int = 4, prefix: int = 1, classes: int = 5) -> None:
        super().__init__()
        width = 16
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.prefix = nn.Parameter(torch.randn(1, prefix, width))
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.prefix.expand(len(x), -1, -1), tokens], 1)
        tokens = self.norm(self.blocks(tokens))
        return self.fc(tokens[:, 0] if self.prefix.shape[1] else tokens.mean(1))


class ChannelsLastNet(nn.Module):
    """Features [N, h, w, C] throughout, as in Swin."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.norm = nn.LayerNorm(16)
        self.fc = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).permute(0, 2, 3, 1)
        return self.fc(self.norm(x + self.mlp(x)).mean((1, 2)))


class Boxes(nn.Module):
    """A dense detector: at each position a box and scores ``[N, 4 + classes, positions]``."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = SmallNet(width=8).stem
        self.down = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.head = nn.Conv2d(8, 7, 1)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.head(self.down(self.trunk(x))).sigmoid().flatten(2)
        return torch.cat([rows[:, :4] * 8 + 2, rows[:, 4:]], 1)
