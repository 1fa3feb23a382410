"""The networks of the explanation benchmark, and each library's way to explain them with Grad-CAM.

Weights are random: what is measured is time and memory, which do not depend on them. All libraries explain the same
layer of the same network for the same images and classes.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import camfast

__all__ = ["NETWORKS", "ExplainCase", "Network", "explainers", "load", "min_max", "repeated"]


@dataclass(frozen=True)
class Network:
    """A torchvision network, the layer to explain, and the most that explaining may cost over the plain forward."""

    layer: str
    budget: float  # one class an image
    budget_k: float  # five
    tokens: bool = False  # the layer's output is [N, tokens, C], a class token first


# A head of pooling and one linear layer costs nearly nothing to go back through; MobileNetV3's and VGG's have large
# weights that the backward pass must read once more. No promise is made for a transformer, whose last block is in the
# graph.
NETWORKS = {
    "resnet50": Network("layer4", 1.05, 1.10),
    "vgg16": Network("features", 1.15, 1.15),
    "mobilenet_v3_large": Network("features", 1.10, 1.10),
    "efficientnet_b0": Network("features", 1.05, 1.10),
    "convnext_tiny": Network("features", 1.05, 1.10),
    "vit_b_16": Network("encoder.layers.encoder_layer_11.ln_1", float("inf"), float("inf"), tokens=True),
}


@dataclass(frozen=True)
class ExplainCase:
    """A network explained for ``targets`` classes an image, on ``batch`` images of 3x224x224."""

    network: str
    batch: int
    targets: int = 1
    dtype: str = "float32"

    @property
    def label(self) -> str:
        dtype = "" if self.dtype == "float32" else " " + {"float16": "fp16", "bfloat16": "bf16"}[self.dtype]
        return f"{self.network} batch {self.batch}{f' K={self.targets}' if self.targets > 1 else ''}{dtype}"

    @property
    def budget(self) -> float:
        network = NETWORKS[self.network]
        return network.budget_k if self.targets > 1 else network.budget


def load(case: ExplainCase, device: str) -> tuple[nn.Module, Tensor]:
    """The network in evaluation mode, with random weights, and random images."""
    model = copy.deepcopy(_network(case.network))
    torch.manual_seed(0)
    images = torch.randn(case.batch, 3, 224, 224)
    dtype = getattr(torch, case.dtype)
    return model.to(device, dtype), images.to(device, dtype)


@functools.cache
def _network(name: str) -> nn.Module:
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None)
    _tempered(model, torch.randn(4, 3, 224, 224))
    return model.eval()


def _tempered(model: nn.Module, images: Tensor) -> None:
    """Gives random weights the scale of trained ones: else maps are so faint that the libraries' epsilons show."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics of the next pass become the running ones
    for parameter in model.parameters():
        if parameter.ndim == 2 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)  # ViT's head starts at zero
    with torch.no_grad():
        model.train()(images)


def explainers(case: ExplainCase, model: nn.Module, images: Tensor) -> dict[str, Callable[[], Any]]:
    """Every library at hand: calls that give the heatmaps of each image's ``targets`` highest classes.

    Each call is everything: the pass of the network, the choice of the classes, the gradients, the heatmap at the
    images' size. captum does not choose classes; it is given them, chosen beforehand. Heatmaps are ``[N, H, W]``, or a
    list of K such; numpy where the library gives numpy.
    """
    found: dict[str, Callable[[], Any]] = {"camfast": _camfast(case, model, images)}
    for package, build in (("pytorch_grad_cam", _pytorch_grad_cam), ("torchcam", _torchcam), ("captum", _captum)):
        if importlib.util.find_spec(package) is not None:
            found[package.replace("_", "-")] = build(case, model, images)
    if NETWORKS[case.network].tokens:
        found.pop("captum", None)  # it cannot be told where the grid is in a sequence of tokens
    return found


def repeated(case: ExplainCase, model: nn.Module, images: Tensor, **option: bool) -> dict[str, Callable[[], Any]]:
    """camfast's explainer with ``graph=True`` or ``compile=True``, called until it is captured or compiled.

    Raises ``ValueError`` with the reason where that was not possible.
    """
    call = _camfast(case, model, images, **option)
    for _ in range(3):
        call()
    problem = call.explainer.graph_problem or call.explainer.compile_problem
    if problem:
        raise ValueError(problem)
    ((name, _),) = option.items()
    return {f"camfast, {name}=True": call}


def min_max(maps: Any) -> Tensor:
    """Any library's heatmaps as fp32 ``[N, H, W]`` or ``[N, K, H, W]`` in [0, 1], to compare them."""
    if isinstance(maps, list):
        return torch.stack([min_max(m) for m in maps], 1)
    maps = torch.as_tensor(maps).detach().cpu().float()
    low = maps.amin((-2, -1), keepdim=True)
    return (maps - low) / ((maps - low).amax((-2, -1), keepdim=True) + 1e-7)


@dataclass
class _Camfast:
    explainer: camfast.GradCAM
    images: Tensor
    targets: camfast.TopK | None

    def __call__(self) -> Tensor:
        return self.explainer(self.images, self.targets).heatmap


def _camfast(case: ExplainCase, model: nn.Module, images: Tensor, **option: bool) -> _Camfast:
    explainer = camfast.GradCAM(model, NETWORKS[case.network].layer, **option)
    return _Camfast(explainer, images, camfast.TopK(case.targets) if case.targets > 1 else None)


def _pytorch_grad_cam(case: ExplainCase, model: nn.Module, images: Tensor) -> Callable[[], Any]:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    layer = model.get_submodule(NETWORKS[case.network].layer)
    reshape = _grid if NETWORKS[case.network].tokens else None

    def call() -> Any:
        # Extractors listen to the model as long as they live, and would slow the other candidates down.
        with GradCAM(model, [layer], reshape_transform=reshape) as extractor:
            if case.targets == 1:
                return extractor(images, None)
            # It takes one class an image: a call a class, the first of which chooses.
            maps = [extractor(images, None)]
            chosen = extractor.outputs.detach().topk(case.targets).indices.tolist()
            for k in range(1, case.targets):
                maps.append(extractor(images, [ClassifierOutputTarget(row[k]) for row in chosen]))
            return maps

    return call


def _torchcam(case: ExplainCase, model: nn.Module, images: Tensor) -> Callable[[], Any]:
    from torchcam.methods import GradCAM

    reshape = _grid if NETWORKS[case.network].tokens else None

    def call() -> Any:
        with GradCAM(model, NETWORKS[case.network].layer, reshape_transform=reshape) as extractor:
            scores = model(images)
            chosen = scores.detach().topk(case.targets).indices.tolist()
            maps = []
            for k in range(case.targets):
                low = extractor([row[k] for row in chosen], scores, retain_graph=k + 1 < case.targets)[0]
                maps.append(F.interpolate(low.unsqueeze(1), images.shape[2:], mode="bilinear").squeeze(1))
            return maps if case.targets > 1 else maps[0]

    return call


def _captum(case: ExplainCase, model: nn.Module, images: Tensor) -> Callable[[], Any]:
    from captum.attr import LayerAttribution, LayerGradCam

    layer = model.get_submodule(NETWORKS[case.network].layer)
    with torch.no_grad():
        chosen = model(images).topk(case.targets).indices

    def call() -> Any:
        extractor = LayerGradCam(model, layer)
        maps = []
        for k in range(case.targets):
            low = extractor.attribute(images, chosen[:, k], relu_attributions=True)
            maps.append(LayerAttribution.interpolate(low, tuple(images.shape[2:]), "bilinear").squeeze(1))
        return maps if case.targets > 1 else maps[0]

    return call


def _grid(tokens: Tensor) -> Tensor:
    """``[N, 1 + side * side, C]`` to ``[N, C, side, side]``."""
    side = round((tokens.shape[1] - 1) ** 0.5)
    return tokens[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
