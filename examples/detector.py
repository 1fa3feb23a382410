"""A detector: why each of its boxes is there.

    python examples/detector.py detector.png

torchvision's Faster R-CNN with a small backbone, which is trained on the spot to find three shapes. With one of your own, such
as `fasterrcnn_resnet50_fpn` or YOLO, only the last lines are needed; `camfast detect street.jpg -m yolo26n.pt` does it from the
shell.
"""

from __future__ import annotations

import sys

import torch
from shapes import NAMES, SIDE, on_shapes, pictures, trained
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

import camfast


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


if __name__ == "__main__":
    model = trained(network, loss_of, rate=1e-3, steps=100, count=8)
    images, kinds, _, masks = pictures(8, torch.Generator().manual_seed(1))
    names = ["ground", *NAMES]

    # One call: the boxes that the detector keeps, and a heatmap of each. HiResCAM is faithful place by place.
    result = camfast.explain_detections(model, images, min_score=0.7, method="hires_cam", class_names=names)
    print("found:", "; ".join(", ".join(found) for found in result.names))

    heat, own = [], []  # of each box: its heat, and the mask of the shape that it says it is
    for n, labels in enumerate(result.labels):
        for label, heatmap in zip(labels, result.heatmaps[n], strict=True):
            if (kinds[n] == label - 1).any():
                heat.append(heatmap)
                own.append(masks[n, (kinds[n] == label - 1).int().argmax()])
    print(f"{result.method} of {', '.join(result.layers)}: {on_shapes(torch.stack(heat), torch.stack(own))}")

    result[:2].save(sys.argv[1] if len(sys.argv) > 1 else "detector.png")
