"""Scripts of pytorch-grad-cam's users, run on it or on camfast: the import line alone differs."""

from __future__ import annotations

import contextlib
import importlib
import io
import textwrap
import warnings

import numpy as np
import torch

__all__ = [
    "CNN",
    "DETECTOR",
    "LOOSE",
    "OURS",
    "PEER",
    "SEGMENTER",
    "SWIN",
    "TOLERANCE",
    "VIT",
    "assert_equal",
    "result_of",
]

PEER, OURS = "pytorch_grad_cam", "camfast.compat.pytorch_grad_cam"
TOLERANCE = 2e-6
LOOSE = 5e-5  # small differences of scores, or components of nearly equal strength, magnify rounding

CNN = """
torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(),
    nn.Conv2d(16, 12, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 6),
).eval()
images = torch.randn(BATCH, 3, 36, 44, generator=torch.Generator().manual_seed(1))
"""
VIT = """
from timm.models.vision_transformer import VisionTransformer
torch.manual_seed(0)
model = VisionTransformer(img_size=64, patch_size=16, embed_dim=32, depth=3, num_heads=2, num_classes=6).eval()
images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
layers = [model.blocks[-1].norm1]
def reshape_transform(tensor, height=4, width=4):
    result = tensor[:, 1:, :].reshape(tensor.size(0), height, width, tensor.size(2))
    return result.transpose(2, 3).transpose(1, 2)
"""
SWIN = """
from timm.models.swin_transformer import SwinTransformer
torch.manual_seed(0)
model = SwinTransformer(
    img_size=64, patch_size=4, window_size=4, embed_dim=16, depths=(1, 1), num_heads=(1, 2), num_classes=6
).eval()
images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
layers = [model.layers[-1].blocks[-1].norm1]
def reshape_transform(tensor):
    return tensor.transpose(2, 3).transpose(1, 2)
"""
DETECTOR = """
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
torch.manual_seed(0)
model = FasterRCNN(
    resnet_fpn_backbone(backbone_name="resnet18", weights=None), num_classes=3, min_size=128, max_size=128,
    box_score_thresh=0.0, box_detections_per_img=4, rpn_pre_nms_top_n_test=40, rpn_post_nms_top_n_test=8,
).eval()
images = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    found = model(images)[0]
targets = [FasterRCNNBoxScoreTarget(labels=found["labels"].tolist(), bounding_boxes=found["boxes"].numpy())]
"""
SEGMENTER = """
torch.manual_seed(0)
class Segmenter(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU())
        self.head = nn.Conv2d(8, 4, 1)
    def forward(self, x):
        out = self.head(self.trunk(x))
        return {"out": nn.functional.interpolate(out, x.shape[2:], mode="bilinear")}
class Wrapper(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
    def forward(self, x):
        return self.model(x)["out"]
model = Wrapper(Segmenter()).eval()
images = torch.randn(1, 3, 30, 34, generator=torch.Generator().manual_seed(1))
mask = np.float32(model(images)[0, 2].detach().numpy() > model(images)[0, 2].median().item())
class Mine:
    def __init__(self, category, mask):
        self.category, self.mask = category, torch.from_numpy(mask)
    def __call__(self, model_output):
        return (model_output[self.category, :, :] * self.mask).sum()
"""
IMPORTS = """
import numpy as np
import torch
from torch import nn
from {package} import *
from {package} import {names}
from {package}.utils.image import scale_cam_image, show_cam_on_image
from {package}.utils.model_targets import *
from {package}.utils.reshape_transforms import *
"""
NAMES = """GradCAM HiResCAM ScoreCAM AblationCAM XGradCAM GradCAMPlusPlus LayerCAM EigenCAM EigenGradCAM RandomCAM FullGrad
    GradCAMElementWise KPCA_CAM FEM ShapleyCAM FinerCAM RefineCAM SESS SegEigenCAM AblationLayer AblationLayerVit
    AblationLayerFasterRCNN GuidedBackpropReLUModel DeepFeatureFactorization"""


def result_of(package: str, script: str) -> np.ndarray:
    names = ", ".join(NAMES.split())
    source = IMPORTS.format(package=package, names=names) + textwrap.dedent(script)
    space: dict = {"BaseCAM": importlib.import_module(package + ".base_cam").BaseCAM}
    np.random.seed(0)
    torch.manual_seed(0)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        exec(compile(source, f"<script on {package}>", "exec"), space)
    return np.asarray(space["result"])


def assert_equal(script: str, atol: float = TOLERANCE) -> None:
    theirs, ours = result_of(PEER, script), result_of(OURS, script)
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    assert np.ptp(theirs) > 0  # a map that is nothing would be equal to anything
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)
