"""The cases of the method benchmark, and each library's way to do the same method on the same network and images.

Every candidate has a copy of the network of its own, and its hooks are set once, before anything is timed. Weights are
random, set to the scale of trained ones. Methods that score every channel are slow in the other libraries: they get a
layer of few channels, or a small image; their time is proportional to the number of channels.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from explain_cases import ExplainCase, load, min_max
from torch import Tensor, nn

import camfast
from camfast import ops
from camfast.ops import reference

__all__ = ["CASES", "Candidate", "MethodCase", "candidates", "opposite"]

CLASS = 7


@dataclass(frozen=True)
class MethodCase:
    """One method on one network; ``target`` is how many times faster than pytorch-grad-cam it is to be, None: no aim."""

    method: str
    network: str = "resnet50"
    layer: str = "layer4"
    size: int = 224
    target: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    note: str = ""  # for the label
    tolerance: float = 1e-3
    quick: bool = False

    @property
    def label(self) -> str:
        note = f", {self.note}" if self.note else ""
        if not self.network:
            return f"{self.method}, the rule alone, [1,2048,7,7]"
        return f"{self.method} {self.network} {self.size}{note}"

    def __hash__(self) -> int:
        return hash(self.label)


@dataclass
class Candidate:
    """``call`` explains one image; ``result`` makes of what it returns a heatmap ``[N, H, W]``, and is not timed.

    ``exact`` is False where the formula differs (``note`` says how) and only the time is comparable.
    """

    call: Callable[[], Any]
    result: Callable[[Any], Tensor] = min_max
    exact: bool = True
    note: str = ""


CASES = [
    MethodCase("eigen_cam", network="", target=50, quick=True),
    MethodCase("kpca_cam", network="", target=10, quick=True),
    *(
        MethodCase(name, quick=name == "layer_cam")
        for name in ("grad_cam", "grad_cam_plus_plus", "xgrad_cam", "hires_cam", "layer_cam", "grad_cam_elementwise")
    ),
    MethodCase("grad_cam", network="resnet18"),
    MethodCase("cam"),
    MethodCase("fem"),
    MethodCase("eigen_cam"),
    MethodCase("eigen_grad_cam", network="resnet18"),
    MethodCase("seg_eigen_cam", network="resnet18"),
    MethodCase("kpca_cam"),
    MethodCase("full_grad", network="resnet18", target=5, quick=True),
    MethodCase("full_grad", target=5),
    MethodCase("guided_backprop", network="resnet18"),
    MethodCase("smooth_grad_cam_plus_plus", network="resnet18", options={"samples": 4, "std": 0.0}, note="4 samples"),
    MethodCase("ablation_cam", network="resnet18", size=64, target=20, note="512 channels", quick=True),
    MethodCase("ablation_cam", network="resnet18", size=224, layer="layer2", target=20, note="layer2, 128 channels"),
    MethodCase("score_cam", network="resnet18", layer="layer1", target=1.3, note="layer1, 64 channels"),
    MethodCase(
        "score_cam",
        network="resnet18",
        layer="layer1",
        target=3,
        options={"autocast": True},
        note="layer1, 64 channels, bf16",
        tolerance=0.1,
    ),
    MethodCase("score_cam", layer="maxpool", target=1.3, note="maxpool, 64 channels"),
    MethodCase(
        "score_cam",
        layer="maxpool",
        target=3,
        options={"autocast": True},
        note="maxpool, 64 channels, bf16",
        tolerance=0.1,
    ),
    MethodCase("is_cam", network="resnet18", size=64, options={"samples": 2}, note="512 channels, 2 steps"),
]


def candidates(case: MethodCase) -> dict[str, Candidate]:
    """camfast first, then every library at hand that has the method."""
    if not case.network:
        return _rules(case)
    model, images = load(ExplainCase(case.network, 1), "cpu")
    images = F.interpolate(images, case.size, mode="bilinear") if images.shape[-1] != case.size else images
    found = {"camfast": _camfast(case, copy.deepcopy(model), images)}
    for package, build in (
        ("pytorch_grad_cam", _pytorch_grad_cam),
        ("torchcam", _torchcam),
        ("captum", _captum),
        ("monai", _monai),
    ):
        if importlib.util.find_spec(package) is None:
            continue
        candidate = build(case, copy.deepcopy(model), images)
        if candidate is not None:
            found[{"monai": "MONAI"}.get(package, package.replace("_", "-"))] = candidate
    return found


def _rules(case: MethodCase) -> dict[str, Candidate]:
    """Activations given, no network."""
    A = _activations()
    op = getattr(ops, case.method)
    found = {"camfast": Candidate(lambda: op(A, 224))}
    if importlib.util.find_spec("pytorch_grad_cam") is not None:
        from pytorch_grad_cam.utils import image, svd_on_activations

        kernel = case.method == "kpca_cam"
        project = svd_on_activations.get_2d_projection_kernel if kernel else svd_on_activations.get_2d_projection

        def theirs() -> Any:
            maps = project(A.numpy())
            return image.scale_cam_image(image.scale_cam_image(maps * (maps > 0), (224, 224)))

        found["pytorch-grad-cam"] = Candidate(theirs)
    return found


def opposite(case: MethodCase) -> Tensor:
    """camfast's heatmap of a component with its other sign, which elsewhere is whatever the decomposition gives."""
    if not case.network:
        raw = ops.eigen_cam(_activations(), normalize=False)
        return reference.resize_normalize(-raw, (224, 224), relu=True)
    model, images = load(ExplainCase(case.network, 1), "cpu")
    raw = camfast.METHODS[case.method](model, case.layer)(images, CLASS, size="map", normalize=False).heatmap
    return reference.resize_normalize(-raw, images.shape[2:], relu=True)


def _activations() -> Tensor:
    rng = torch.Generator().manual_seed(0)
    noise, along = torch.randn(1, 2048, 7, 7, generator=rng), torch.rand(2048, 1, 1, generator=rng)
    return (noise + torch.linspace(-1, 2, 7) * along).clamp(min=0)


def _camfast(case: MethodCase, model: nn.Module, images: Tensor) -> Candidate:
    if case.method == "guided_backprop":
        guided = camfast.GuidedBackprop(model)
        return Candidate(lambda: guided(images, CLASS).attributions, lambda out: min_max(out.sum(1)))
    layers = None if case.method == "full_grad" else case.layer
    explainer = camfast.METHODS[case.method](model, layers, **case.options)
    return Candidate(lambda: explainer(images, CLASS).heatmap)


_GRAD_CAM_NAMES = {
    "grad_cam": "GradCAM",
    "grad_cam_plus_plus": "GradCAMPlusPlus",
    "xgrad_cam": "XGradCAM",
    "hires_cam": "HiResCAM",
    "layer_cam": "LayerCAM",
    "grad_cam_elementwise": "GradCAMElementWise",
    "eigen_cam": "EigenCAM",
    "eigen_grad_cam": "EigenGradCAM",
    "seg_eigen_cam": "SegEigenCAM",
    "kpca_cam": "KPCA_CAM",
    "fem": "FEM",
    "full_grad": "FullGrad",
    "ablation_cam": "AblationCAM",
    "score_cam": "ScoreCAM",
}


def _pytorch_grad_cam(case: MethodCase, model: nn.Module, images: Tensor) -> Candidate | None:
    if case.method not in _GRAD_CAM_NAMES:
        return None
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    layers = [] if case.method == "full_grad" else [model.get_submodule(case.layer)]
    extractor = getattr(pytorch_grad_cam, _GRAD_CAM_NAMES[case.method])(model, layers)

    def call() -> Any:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
            return extractor(images, [ClassifierOutputTarget(CLASS)])

    return Candidate(call)


# Name, and what differs; "" for the same formula.
_TORCHCAM_NAMES = {
    "cam": ("CAM", "no ReLU"),
    "grad_cam": ("GradCAM", ""),
    "grad_cam_plus_plus": ("GradCAMpp", "another formula: sum of g^2 relu(g)"),
    "smooth_grad_cam_plus_plus": ("SmoothGradCAMpp", ""),
    "xgrad_cam": ("XGradCAM", ""),
    "layer_cam": ("LayerCAM", ""),
    "score_cam": ("ScoreCAM", "masks scaled before the resize, without aligned corners"),
    "is_cam": ("ISCAM", ""),
}


def _torchcam(case: MethodCase, model: nn.Module, images: Tensor) -> Candidate | None:
    if case.method not in _TORCHCAM_NAMES:
        return None
    from torchcam import methods

    name, note = _TORCHCAM_NAMES[case.method]
    options: dict[str, Any] = {}
    if case.method in ("is_cam", "smooth_grad_cam_plus_plus"):
        options["num_samples"] = case.options["samples"]
    if case.method == "smooth_grad_cam_plus_plus":
        options["std"] = 1e-12  # a normal distribution of no width is refused
    extractor = getattr(methods, name)(model, case.layer, **options)

    def call() -> Tensor:
        scores = model(images)
        low = extractor([CLASS], scores)[0] if scores.requires_grad else extractor([CLASS])[0]
        return F.interpolate(low.unsqueeze(1), images.shape[2:], mode="bilinear").squeeze(1)

    return Candidate(call, exact=not note, note=note)


def _captum(case: MethodCase, model: nn.Module, images: Tensor) -> Candidate | None:
    from captum import attr

    if case.method == "grad_cam":
        extractor = attr.LayerGradCam(model, model.get_submodule(case.layer))

        def call() -> Tensor:
            low = extractor.attribute(images, CLASS, relu_attributions=True)
            return attr.LayerAttribution.interpolate(low, tuple(images.shape[2:]), "bilinear").squeeze(1)

        return Candidate(call)
    if case.method == "guided_backprop":
        guided = attr.GuidedBackprop(model)
        return Candidate(lambda: guided.attribute(images, CLASS), lambda out: min_max(out.sum(1)))
    return None


def _monai(case: MethodCase, model: nn.Module, images: Tensor) -> Candidate | None:
    names = {"cam": "CAM", "grad_cam": "GradCAM", "grad_cam_plus_plus": "GradCAMpp"}
    if case.method not in names:
        return None
    from monai import visualize

    more = {"fc_layers": "fc"} if case.method == "cam" else {}
    extractor = getattr(visualize, names[case.method])(model, target_layers=case.layer, **more)
    note = {"grad_cam_plus_plus": "another formula: exp(score) times g", "cam": "no ReLU"}.get(case.method, "")
    # Its normaliser maps the most important place to 0.
    return Candidate(lambda: extractor(images, CLASS), lambda out: min_max(1 - out.squeeze(1)), not note, note)
