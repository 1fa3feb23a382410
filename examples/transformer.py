"""A vision transformer: trained on the spot, then explained, by gradients and by its attention.

    python examples/transformer.py transformer.png

A picture holds two shapes, and the network tells which. No `reshape_transform` is needed: where the class token stands and
how the patches lie is found out. With a network of your own, such as
`timm.create_model("vit_base_patch16_224", pretrained=True)`, only the last lines are needed.
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from shapes import NAMES, SIDE, on_shapes, pictures, sheet, trained
from torch import Tensor, nn

import camfast


class SmallViT(nn.Module):
    """Patches of 8 x 8 pixels, a class token, one block of attention: what can be trained in some seconds."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.patches = nn.Sequential(nn.Conv2d(3, 32, 4, 4), nn.GELU(), nn.Conv2d(32, width, 2, 2))
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, 1 + (SIDE // 8) ** 2, width) * 0.02)
        block = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 1, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, len(NAMES))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1) + self.places
        return self.head(self.blocks(tokens)[:, 0])


def loss_of(model: nn.Module, images: Tensor, kinds: Tensor, boxes: Tensor, masks: Tensor) -> Tensor:
    """How well the shapes that are in a picture are told."""
    present = torch.zeros(len(images), len(NAMES)).scatter_(1, kinds, 1.0)
    return F.binary_cross_entropy_with_logits(model(images), present)


if __name__ == "__main__":
    model = trained(SmallViT, loss_of, rate=1e-3)
    images, kinds, _, masks = pictures(4, torch.Generator().manual_seed(1))

    # Grad-CAM weighs a token's features alike at all places, which suits convolutions more than tokens; HiResCAM weighs
    # each place by itself, and LeGrad reads the attention.
    rows = {}
    for method in (camfast.grad_cam, camfast.hires_cam, camfast.legrad):
        # Both shapes of each picture in one pass: targets [N, 2], heatmaps [N, 2, 64, 64].
        result = method(model, images, targets=kinds, class_names=NAMES)
        name = f"{result.method} of {', '.join(result.layers)}"
        print(f"{name}: {on_shapes(result.heatmap, masks)}")
        rows[f"{name}: first the one shape, then the other"] = result.overlay().flatten(0, 1)
    sheet(rows, sys.argv[1] if len(sys.argv) > 1 else "transformer.png")
