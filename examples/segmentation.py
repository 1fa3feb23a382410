"""A segmentation network: which pixels of the picture made it see a class in a region.

    python examples/segmentation.py segmentation.png

The network, which is trained on the spot, gives each pixel a score for the ground and for three shapes. With one of your own,
such as torchvision's `deeplabv3_resnet50`, only the last lines are needed.
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from shapes import NAMES, on_shapes, pictures, sheet, trained
from torch import Tensor, nn

import camfast
from camfast.targets import Segmentation

CLASSES = ["ground", *NAMES]


class SmallFCN(nn.Module):
    """Convolutions at an eighth of the resolution, and scores ``[N, 4, 64, 64]`` that are enlarged to the picture's."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride in [(3, 16, 2), (16, 32, 2), (32, 64, 2), (64, 64, 1)]:
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Conv2d(64, len(CLASSES), 1)

    def forward(self, images: Tensor) -> Tensor:
        return F.interpolate(self.head(self.body(images)), images.shape[2:], mode="bilinear")


def loss_of(model: nn.Module, images: Tensor, kinds: Tensor, boxes: Tensor, masks: Tensor) -> Tensor:
    """How well ground and shapes are told apart."""
    truth = ((1 + kinds)[:, :, None, None] * masks).sum(1)  # [N, 64, 64]
    return F.cross_entropy(model(images), truth)


if __name__ == "__main__":
    model = trained(SmallFCN, loss_of, rate=3e-3)
    images, kinds, _, masks = pictures(8, torch.Generator().manual_seed(1))

    # Each picture's first shape: its class, where the network sees it. A mask of your own goes in as Segmentation(c, mask).
    targets = [Segmentation(1 + int(kind)) for kind in kinds[:, 0]]
    result = camfast.grad_cam(model, images, targets)
    print(f"{result.method} of {', '.join(result.layers)}: {on_shapes(result.heatmap, masks[:, 0])}")

    seen = result.scores.argmax(1)  # [N, 64, 64]
    colors = torch.tensor([[40, 40, 40], [230, 90, 60], [70, 190, 90], [90, 110, 240]], dtype=torch.uint8)
    names = ", ".join(CLASSES[1 + int(kind)] for kind in kinds[:, 0])
    rows = {"what the network sees": colors[seen], f"where it saw {names}": result.overlay()}
    sheet(rows, sys.argv[1] if len(sys.argv) > 1 else "segmentation.png")
