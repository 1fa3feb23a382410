"""A training step with a loss on heat, by camfast and by the ways that people go without it.

All train the same network, of random weights, on the same images: cross-entropy plus half the share of the Grad-CAM heat
that lies outside a box, then a step of SGD. The step without the heat's loss is what each is compared with.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import camfast
from camfast import losses

__all__ = ["NETWORKS", "PLAIN", "TrainingCase", "candidates", "gradients", "load"]

PLAIN = "plain step"
CLASSES = 1000


@dataclass(frozen=True)
class Network:
    """A network, the layer whose heat is trained, and the most that the heat's loss may cost over the plain step."""

    layer: str
    budget: float
    library: str = "torchvision"
    tokens: bool = False  # the layer's output is [N, tokens, C], a class token first


# 1.08 where pooling and one linear layer follow the layer, 1.35 elsewhere.
NETWORKS = {
    "resnet18": Network("layer4", 1.08),
    "resnet50": Network("layer4", 1.08),
    "efficientnet_b0": Network("features", 1.08),  # dropout stands between pooling and the linear layer
    "mobilenet_v3_large": Network("features", 1.35),
    "vit_small_patch16_224": Network("blocks.11.norm1", 1.35, "timm", tokens=True),
}
WEIGHT = 0.5  # of the heat's loss


@dataclass(frozen=True)
class TrainingCase:
    """A network in training, ``batch`` images of 3 x ``side`` x ``side`` a step."""

    network: str
    batch: int
    side: int = 224

    @property
    def label(self) -> str:
        return f"{self.network} batch {self.batch}"

    @property
    def budget(self) -> float:
        return NETWORKS[self.network].budget


@functools.cache
def _network(name: str) -> nn.Module:
    torch.manual_seed(0)
    if NETWORKS[name].library == "timm":
        import timm

        return timm.create_model(name, pretrained=False, num_classes=CLASSES)
    import torchvision

    return torchvision.models.get_model(name, weights=None, num_classes=CLASSES)


def load(case: TrainingCase, device: str) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """The network in training mode, images, labels, and boxes ``[N, 4]``."""
    model = copy.deepcopy(_network(case.network)).to(device).train()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(case.batch, 3, case.side, case.side, generator=generator)
    labels = torch.randint(CLASSES, (case.batch,), generator=generator)
    low = torch.randint(case.side // 2, (case.batch, 2), generator=generator)
    boxes = torch.cat([low, low + case.side // 3], 1).float()
    return model, images.to(device), labels.to(device), boxes.to(device)


Loss = Callable[[], Tensor]


def candidates(case: TrainingCase, device: str) -> dict[str, tuple[nn.Module, Loss, str]]:
    """By name: a network of its own, the loss of a step with it, and a note."""
    found = {}
    for name, (build, note) in _BUILDERS.items():
        if name == "pytorch-grad-cam" and importlib.util.find_spec("pytorch_grad_cam") is None:
            continue
        model, images, labels, boxes = load(case, device)
        found[name] = (model, build(case, model, images, labels, boxes), note)
    return found


def gradients(model: nn.Module, loss: Loss) -> tuple[float, dict[str, Tensor]]:
    """A loss and the gradient of every parameter; dropout draws the same numbers each time."""
    model.zero_grad(set_to_none=True)
    torch.manual_seed(3)
    value = loss()
    value.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return value.item(), found


def _plain(case: TrainingCase, model: nn.Module, images: Tensor, labels: Tensor, boxes: Tensor) -> Loss:
    return lambda: F.cross_entropy(model(images), labels)


def _camfast(case: TrainingCase, model: nn.Module, images: Tensor, labels: Tensor, boxes: Tensor) -> Loss:
    explainer = camfast.GradCAM(model, NETWORKS[case.network].layer)

    def loss() -> Tensor:
        result = explainer(images, labels, differentiable=True)
        return F.cross_entropy(result.scores, labels) + WEIGHT * losses.energy_outside(result.heatmap, boxes=boxes)

    return loss


def _by_hand(case: TrainingCase, model: nn.Module, images: Tensor, labels: Tensor, boxes: Tensor, whole: bool) -> Loss:
    """A hook, a gradient with its graph, and Grad-CAM's formula.

    ``whole``: by ``backward(create_graph=True)``, as most scripts do, which records the derivative of every layer. Else by
    ``autograd.grad`` of the layer alone, the best that a careful hand does.
    """
    layer, tokens = model.get_submodule(NETWORKS[case.network].layer), NETWORKS[case.network].tokens
    inside = losses.box_masks(boxes, (case.side, case.side), like=images)[0]

    def loss() -> Tensor:
        seen: list[Tensor] = []
        hook = layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
        try:
            with _attention(tokens):
                scores = model(images)
        finally:
            hook.remove()
        A = seen[0]
        score = scores.gather(1, labels[:, None]).sum()
        if whole:
            parameters = [p for p in model.parameters() if p.requires_grad]
            G = torch.autograd.grad(score, [A, *parameters], create_graph=True, allow_unused=True)[0]
        else:
            (G,) = torch.autograd.grad(score, A, create_graph=True)
        if tokens:
            A, G = _grid(A), _grid(G)
        raw = (G.mean((2, 3), keepdim=True) * A).sum(1).relu()
        heat = F.interpolate(_min_max(raw)[:, None], images.shape[2:], mode="bilinear")[:, 0]
        heat = _min_max(heat)
        share = (heat * inside).sum((1, 2)) / heat.sum((1, 2)).clamp(min=1e-7)
        return F.cross_entropy(scores, labels) + WEIGHT * (1 - share).mean()

    return loss


def _pytorch_grad_cam(case: TrainingCase, model: nn.Module, images: Tensor, labels: Tensor, boxes: Tensor) -> Loss:
    """Its extractor with ``detach=False`` and its derivative by the images; scaling and loss by hand, since its own are numpy."""
    from pytorch_grad_cam.activations_and_gradients import ActivationsAndGradients
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    layer, tokens = model.get_submodule(NETWORKS[case.network].layer), NETWORKS[case.network].tokens
    inside = losses.box_masks(boxes, (case.side, case.side), like=images)[0]
    targets = [ClassifierOutputTarget(label) for label in labels.tolist()]
    pixels = images.clone().requires_grad_()  # it differentiates by the images

    def loss() -> Tensor:
        extractor = ActivationsAndGradients(model, [layer], None, detach=False)
        with _attention(tokens):
            scores = extractor(pixels)
        score = sum(target(row) for target, row in zip(targets, scores, strict=True))
        torch.autograd.grad(score, pixels, retain_graph=True, create_graph=True)  # type: ignore[arg-type]
        A, G = extractor.activations[0], extractor.gradients[0]
        extractor.activations, extractor.gradients = [], []  # release() would cut what they hold from the graph
        extractor.release()
        if tokens:
            A, G = _grid(A), _grid(G)
        raw = (G.mean((2, 3), keepdim=True) * A).sum(1).relu()
        heat = _min_max(F.interpolate(_min_max(raw)[:, None], images.shape[2:], mode="bilinear")[:, 0])
        share = (heat * inside).sum((1, 2)) / heat.sum((1, 2)).clamp(min=1e-7)
        return F.cross_entropy(scores, labels) + WEIGHT * (1 - share).mean()

    return loss


def _attention(tokens: bool) -> AbstractContextManager[None]:
    """Attention by its formula, for networks that have it: the fused kernels have no second derivative."""
    return sdpa_kernel(SDPBackend.MATH) if tokens else nullcontext()


def _min_max(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low + 1e-7)


def _grid(tokens: Tensor) -> Tensor:
    """``[N, 1 + side * side, C]`` to ``[N, C, side, side]``."""
    side = round((tokens.shape[1] - 1) ** 0.5)
    return tokens[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)


_BUILDERS: dict[str, tuple[Callable[..., Loss], str]] = {
    "camfast": (_camfast, ""),
    PLAIN: (_plain, "no heat"),
    "PyTorch, whole network": (functools.partial(_by_hand, whole=True), "create_graph=True through every layer"),
    "PyTorch, head": (functools.partial(_by_hand, whole=False), "autograd.grad to the layer"),
    "pytorch-grad-cam": (_pytorch_grad_cam, "detach=False"),
}
