"""A detector: what of the picture made it find a box, for each of its boxes.

    python examples/detector.py detector.png

torchvision's Faster R-CNN with a small backbone, which is trained on the spot to find three shapes. With one of your own, such
as `fasterrcnn_resnet50_fpn`, only the last lines are needed.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from PIL import Image, ImageDraw
from shapes import NAMES, SIDE, on_shapes, pictures, sheet, trained
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

import camfast
from camfast.targets import Detection


def network() -> FasterRCNN:
    """Four convolutions, anchors of 20 x 20 pixels, and a head for ground, disc, square and cross."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in [(3, 16, 2), (16, 32, 2), (32, 64, 1), (64, 64, 1)]:
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    backbone = nn.Sequential(*layers)
    backbone.out_channels = 64  # type: ignore[assignment]
    return FasterRCNN(
        backbone,
        num_classes=1 + len(NAMES),
        min_size=SIDE,
        max_size=SIDE,
        image_mean=[0.5] * 3,
        image_std=[0.25] * 3,
        rpn_anchor_generator=AnchorGenerator(((20,),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 5, 2),
        rpn_pre_nms_top_n_train=200,
        rpn_post_nms_top_n_train=50,
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_test=50,
        box_batch_size_per_image=32,
        box_score_thresh=0.5,
    )


def loss_of(model: nn.Module, images: Tensor, kinds: Tensor, boxes: Tensor, masks: Tensor) -> Tensor:
    """The detector's own losses of places and classes."""
    truth = [{"boxes": b, "labels": 1 + k} for b, k in zip(boxes, kinds, strict=True)]
    return sum(model(list(images), truth).values(), torch.zeros(()))


def with_boxes(picture: Tensor, boxes: Tensor) -> Tensor:
    """``picture``, RGB uint8 ``[H, W, 3]``, with ``boxes`` ``[D, 4]`` drawn on a copy."""
    page = Image.fromarray(picture.numpy().copy())
    for box in boxes.tolist():
        ImageDraw.Draw(page).rectangle(box, outline="white")
    return torch.from_numpy(np.array(page))


if __name__ == "__main__":
    model = trained(network, loss_of, rate=1e-3, steps=100, count=8)
    images, kinds, _, masks = pictures(8, torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = model(images)
    print("found:", "; ".join(", ".join(NAMES[label - 1] for label in one["labels"].tolist()) for one in found))

    # The best box of each image, by its place and its class. A bare number k would be the image's k-th box.
    targets = [Detection(one["boxes"][:1], one["labels"][:1]) for one in found]
    # HiResCAM, which is faithful place by place: a box depends on its own places, which Grad-CAM's mean would blur.
    result = camfast.hires_cam(model, images, targets)

    best = torch.stack([one["labels"][0] - 1 for one in found])  # which shape it is
    own = masks[torch.arange(len(masks)), (kinds == best[:, None]).int().argmax(1)]
    print(f"{result.method} of {', '.join(result.layers)}: {on_shapes(result.heatmap, own)}")

    pixels = (images * 255).to(torch.uint8).permute(0, 2, 3, 1)
    boxes = torch.stack([with_boxes(p, one["boxes"]) for p, one in zip(pixels, found, strict=True)])
    heat = torch.stack([with_boxes(p, one["boxes"][:1]) for p, one in zip(result.overlay(), found, strict=True)])
    rows = {"what the detector finds": boxes, "why it finds its best box": heat}
    sheet(rows, sys.argv[1] if len(sys.argv) > 1 else "detector.png")
