"""Detectors of real packages, small and with random weights, and what plain autograd says of one of their boxes."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import real_networks
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camfast.model.outputs import replace_first, tensors_in
from camfast.model.tap import Tap, is_map


@contextlib.contextmanager
def ultralytics(settings: Any):
    """The library can be imported inside; it writes its settings into the folder ``settings``."""
    library = real_networks.asset("python/ultralytics")
    pytest.importorskip("cv2")
    before = os.environ.get("YOLO_CONFIG_DIR")
    os.environ["YOLO_CONFIG_DIR"] = str(settings)
    sys.path.insert(0, str(library.parent))
    try:
        yield
    finally:
        sys.path.remove(str(library.parent))
        if before is None:
            del os.environ["YOLO_CONFIG_DIR"]
        else:
            os.environ["YOLO_CONFIG_DIR"] = before


@contextlib.contextmanager
def gradients_asked_for() -> Iterator[list[int]]:
    """Inside, the list gets an entry for each time that gradients of a whole head are asked for: how many rows of them."""
    rows: list[int] = []
    gradients = Tap.gradients

    def noted(self: Tap, outputs: Any, seeds: Tensor | None = None, *args: Any, **options: Any) -> list[Any]:
        rows.append(1 if seeds is None else len(seeds))
        return gradients(self, outputs, seeds, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tap, "gradients", noted)
        yield rows


def yolo(settings: Any, name: str, classes: int = 5) -> nn.Module:
    """A model of ultralytics by the name of its description, with random weights, so that it finds a few things."""
    with ultralytics(settings):
        from ultralytics.nn import tasks
        from ultralytics.utils import LOGGER

        LOGGER.setLevel("ERROR")
        kind = (
            "SegmentationModel" if "-seg" in name else "RTDETRDetectionModel" if "rtdetr" in name else "DetectionModel"
        )
        torch.manual_seed(0)
        model = getattr(tasks, kind)(f"{name}.yaml", nc=classes, verbose=False).eval()
    livened(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "cv3" in name and name.endswith(".2.weight"):
                parameter.mul_(0.05)  # scores that are not all 1
    return model


def livened(model: nn.Module) -> None:
    """Normalisation by what a batch of noise measures, so that random weights pass something on to every level."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        model(torch.rand(2, 3, 128, 160))
    for norm in norms:
        norm.eval()


def torchvision_model(name: str) -> nn.Module:
    """A detector of torchvision on a small backbone, without a threshold, so that it finds a few things."""
    detection = pytest.importorskip("torchvision.models.detection")
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    torch.manual_seed(0)
    few = {"score_thresh": 0.0, "detections_per_img": 6, "num_classes": 4}
    if name.startswith("ssd"):
        model = getattr(detection, name)(weights=None, weights_backbone=None, **few).eval()
        livened(model)
        with torch.no_grad():
            for layer in model.head.classification_head.module_list.modules():
                if isinstance(layer, nn.Conv2d) and name == "ssd300_vgg16":
                    layer.weight.mul_(0.05)  # scores that are not all 1
        return model
    options: dict[str, Any] = {"weights": None, "backbone_name": "resnet18"}
    if "rcnn" not in name:
        options |= {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)}
    backbone = resnet_fpn_backbone(**options)
    if "rcnn" in name:
        few = {f"box_{key}": value for key, value in few.items() if key != "num_classes"}
        from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

        few |= {"box_head": TwoMLPHead(256 * 49, 32), "box_predictor": FastRCNNPredictor(32, 4), "num_classes": None}
        if name == "mask_rcnn":
            from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

            few |= {"mask_head": MaskRCNNHeads(256, (16,), 1), "mask_predictor": MaskRCNNPredictor(16, 16, 4)}
        few |= {"rpn_post_nms_top_n_test": 40, "rpn_pre_nms_top_n_test": 60}
    kind = {"faster_rcnn": "FasterRCNN", "mask_rcnn": "MaskRCNN", "retinanet": "RetinaNet", "fcos": "FCOS"}[name]
    return getattr(detection, kind)(backbone, min_size=64, max_size=96, **few).eval()


RESNET = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}
SMALL = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2}
SMALL |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_labels": 5}


def huggingface(name: str) -> nn.Module:
    """A detector of Hugging Face, made from a small configuration."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if name == "OwlViT":
        return _owl(transformers)
    if name == "RfDetr":
        return _rf_detr(transformers)
    stages = {"out_features": ["stage2", "stage3", "stage4"]} if name not in ("Detr", "ConditionalDetr") else {}
    backbone = transformers.ResNetConfig(**RESNET, **(stages or {"out_features": ["stage4"]}))
    plain = {
        "use_timm_backbone": False,
        "use_pretrained_backbone": False,
        "backbone": None,
        "backbone_config": backbone,
    }
    of_rt = {
        "backbone_config": backbone,
        "use_pretrained_backbone": False,
        "encoder_in_channels": [8, 16, 16],
        "encoder_hidden_dim": 16,
        "decoder_in_channels": [16, 16, 16],
        "decoder_n_points": 2,
        "num_queries": 9,
        "num_denoising": 0,
        "anchor_image_size": None,
        **SMALL,
    }
    of_rt["decoder_layers"] = 2
    options: dict[str, dict[str, Any]] = {
        "Detr": {**plain, **SMALL, "num_queries": 7},
        "ConditionalDetr": {**plain, **SMALL, "num_queries": 7},
        "DeformableDetr": {**plain, **SMALL, "d_model": 32, "num_queries": 7, "num_feature_levels": 3},
        "RTDetr": of_rt,
        "DFine": {**of_rt, "max_num_bins": 4},
        "Yolos": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "image_size": [96, 128],
            "patch_size": 16,
            "num_detection_tokens": 5,
            "num_labels": 5,
        },
    }
    config = getattr(transformers, f"{name}Config")(**options[name])
    kind = "YolosForObjectDetection" if name == "Yolos" else f"{name}ForObjectDetection"
    model = getattr(transformers, kind)(config).eval()
    if name == "Yolos":  # tokens of zeros would all find the same
        torch.nn.init.normal_(model.vit.embeddings.detection_tokens)
    return model


def _owl(transformers: Any) -> nn.Module:
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    texts = {**tower, "vocab_size": 50, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1}
    images = {**tower, "image_size": 96, "patch_size": 16}
    config = transformers.OwlViTConfig(text_config=texts, vision_config=images, projection_dim=32)
    model = transformers.OwlViTForObjectDetection(config).eval()
    with torch.no_grad():
        heads = (model.box_head, model.class_head.logit_scale, model.class_head.logit_shift)
        for parameter in (parameter for head in heads for parameter in head.parameters()):
            parameter.mul_(0.01)  # each patch's box is about where the patch is, as in a trained one
    return model


def _rf_detr(transformers: Any) -> nn.Module:
    trunk = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 112, "num_windows": 2}
    trunk |= {"out_features": ["stage2", "stage3"], "window_block_indexes": [0]}
    small = {"d_model": 32, "decoder_layers": 2, "decoder_ffn_dim": 32, "group_detr": 1, "c2f_num_blocks": 1}
    small |= {"decoder_self_attention_heads": 2, "decoder_cross_attention_heads": 2, "num_queries": 7, "num_labels": 5}
    config = transformers.RfDetrConfig(backbone_config=transformers.RfDetrDinov2Config(**trunk), **small)
    return transformers.RfDetrForObjectDetection(config).eval()


def plain_gradients(
    model: nn.Module, call: Callable[[], Any], layers: Sequence[str], value: Callable[[Any], Tensor], separate: bool
) -> tuple[list[Tensor], list[Tensor | None]]:
    """Outputs of ``layers`` and the gradient of ``value`` of the model's output there, by hooks and nothing else.

    With ``separate`` each layer's output is a leaf, so that what it gave to other layers does not count.
    """
    captured: dict[str, Tensor] = {}
    handles = []
    for name in layers:

        def hook(module, args, output, name=name):
            if separate:
                leaf = next(filter(is_map, tensors_in(output))).detach().requires_grad_()
                captured[name] = leaf
                return replace_first(output, is_map, lambda tensor: leaf.clone())[0]
            captured[name] = next(filter(is_map, tensors_in(output)))
            return None

        handles.append(model.get_submodule(name).register_forward_hook(hook))
    try:
        with torch.enable_grad():
            for parameter in model.parameters():
                parameter.requires_grad_()
            output = call()
            maps = [captured[name] for name in layers]
            gradients = torch.autograd.grad(value(output), maps, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    return [A.detach() for A in maps], list(gradients)


def layer_cam_of(maps: Sequence[Tensor], gradients: Sequence[Tensor | None], image: int = 0) -> list[Tensor]:
    """Positive gradient times activation, summed over channels, where it is positive: ``[h, w]`` a level."""
    found = []
    for A, G in zip(maps, gradients, strict=True):
        if G is None:
            found.append(torch.zeros(A.shape[2:]))
        else:
            found.append((G[image].clamp(min=0) * A[image]).sum(0).clamp(min=0))
    return found


def summed(levels: Sequence[Tensor], canvas: tuple[int, int]) -> Tensor:
    """The levels brought to the finest one, added, divided by the maximum, and brought to the image's size."""
    finest = max((tuple(level.shape) for level in levels), key=lambda shape: shape[0] * shape[1])
    total = sum(_resized(level, finest) for level in levels)
    return _resized(total / total.amax(), canvas)


def greatest(levels: Sequence[Tensor], canvas: tuple[int, int]) -> Tensor:
    """Each level at the image's size and divided by its own maximum; the greatest of them."""
    full = [_resized(level, canvas) for level in levels]
    return torch.stack([level / level.amax() if level.any() else level for level in full]).amax(0)


def _resized(level: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(level[None, None], size, mode="bilinear", align_corners=False)[0, 0]
