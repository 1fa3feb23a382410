"""Interrupts, at every line of the library that a call comes to: nothing may be left on the model or in the process.

Each line of code is interrupted the first time that a call comes to it, and the last time; those of ``contextlib`` too. Where a
lock is given back Python has no such moment: the lines that take one are interrupted before they do.
``pytest -s tests/model/test_interrupts_everywhere.py`` prints the counts.
"""

from __future__ import annotations

import contextlib
import linecache
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils.checkpoint as checkpoints
from models import Boxes, SmallNet, TokenNet, images
from torch import Tensor, nn

import camfast
from camfast.compat.captum.attr import GuidedBackprop, GuidedGradCam, LayerGradCam
from camfast.compat.monai.visualize import GradCAM as MonaiGradCAM
from camfast.compat.pytorch_grad_cam import AblationCAM as PeerAblationCAM
from camfast.compat.pytorch_grad_cam import GradCAM as PeerGradCAM
from camfast.compat.pytorch_grad_cam import GuidedBackpropReLUModel
from camfast.compat.torchcam.methods import LayerCAM, ScoreCAM, SmoothGradCAMpp
from camfast.compat.torchcam.methods._utils import locate_candidate_layer
from camfast.features.layer_tree import layer_rows
from camfast.model import untouched
from camfast.model.regions import _NAME

OURS = str(Path(camfast.__file__).parent)
Place = tuple[str, int]


def places(run: Callable[[], Any]) -> Counter[Place]:
    """How often ``run`` comes to each line of the library."""
    found: Counter[Place] = Counter()
    traced(run, lambda place: found.update([place]))
    return found


def traced(run: Callable[[], Any], at: Callable[[Place], Any]) -> None:
    def trace(frame: Any, event: str, argument: Any) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(OURS) and name != contextlib.__file__:
            return None
        if event == "line":
            at((name, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)


def interrupted(run: Callable[[], Any], where: Place, turn: int) -> bool:
    """Runs ``run`` with an interrupt the ``turn``-th time it comes to a line; whether it did."""
    left = turn

    def at(place: Place) -> None:
        nonlocal left
        if place == where:
            left -= 1
            if left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        traced(run, at)
    return left <= 0


def takes_lock(place: Place) -> bool:
    line = linecache.getline(*place).strip()
    return line.startswith("with ") and "lock" in line


def state(model: nn.Module) -> list[Any]:
    """All that a call may not leave changed."""
    found: list[Any] = []
    for module in model.modules():
        own = vars(module)
        found.append({name: list(map(id, own[name].values())) for name in own if name.endswith("_hooks")})
        found.append({name: list(map(id, own[name].values())) for name in ("_modules", "_parameters", "_buffers")})
        found.append((module.training, sorted(own), module.forward == type(module).forward.__get__(module)))
    found.append([(p.requires_grad, p.grad is None) for p in model.parameters()])
    found.append([value.tolist() for value in model.buffers()])
    cuda = torch.backends.cuda
    found.append((cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()))
    found.append((torch.backends.mha.get_fastpath_enabled(), torch.backends.cudnn.enabled, torch.get_num_threads()))
    found.append((torch.is_autocast_cache_enabled(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
    found.append((torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()))
    found.append((torch._dynamo.eval_frame._stance.stance, torch.jit.onednn_fusion_enabled()))
    found.append((checkpoints.CheckpointFunction, getattr(checkpoints, _NAME)))
    found.append((len(untouched._held), len(untouched._running), untouched._fast_path_before))
    return found


def images_of(side: int = 12) -> Tensor:
    return images(1, size=(side, side))


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return SmallNet().train()


def tokens() -> nn.Module:
    torch.manual_seed(0)
    return TokenNet(size=(16, 16), prefix=1).train()


def detect(model: nn.Module) -> Callable[[], Any]:
    explain = camfast.DetectionExplainer(model)
    return lambda: explain(images_of(16), min_score=0.0, top=2)


def explainer(method: str, *layers: str, **options: Any) -> Callable[[nn.Module], Callable[[], Any]]:
    def make(model: nn.Module) -> Callable[[], Any]:
        explain = camfast.METHODS[method](model, *layers, compile=False, **options) if layers else None
        explain = explain or camfast.METHODS[method](model, **options)
        return lambda: explain(images_of(16), 1)

    return make


def training_step(model: nn.Module) -> Callable[[], Any]:
    explain = camfast.GradCAM(model.eval(), "stem")

    def step() -> None:
        explain(images_of(), 1, differentiable=True).heatmap.sum()

    return step


def own_scalar(model: nn.Module) -> Callable[[], Any]:
    model.eval()  # a pass of one's own counts batches

    def run() -> None:
        with camfast.Gradients(model, "stem") as gradients:
            gradients.watch(model(images_of()), "scores")

    return run


def torchcam(method: type, **options: Any) -> Callable[[nn.Module], Callable[[], Any]]:
    def make(model: nn.Module) -> Callable[[], Any]:
        # Its hooks stay until they are taken off, as torchcam's do.
        extractor = method(model.eval(), "stem", input_shape=(3, 12, 12), **options)
        return lambda: extractor(1, model(images_of()))

    return make


SUBJECTS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Callable[[], Any]]]] = {
    "Grad-CAM": (convolutions, explainer("grad_cam")),
    "Grad-CAM, first call": (convolutions, lambda model: lambda: camfast.GradCAM(model)(images_of(), 1)),
    "Grad-CAM of tokens, first call": (tokens, lambda model: lambda: camfast.GradCAM(model)(images_of(16), 1)),
    "Score-CAM": (convolutions, explainer("score_cam", channels=3)),
    "Ablation-CAM": (convolutions, explainer("ablation_cam", channels=3)),
    "FullGrad": (convolutions, explainer("full_grad")),
    "Guided Grad-CAM": (convolutions, explainer("guided_grad_cam")),
    "a loss over heat": (convolutions, training_step),
    "FeatureMaps": (convolutions, lambda model: lambda: camfast.FeatureMaps(model, reduce="mean")(images_of())),
    "Gradients": (convolutions, lambda model: lambda: camfast.Gradients(model)(images_of())),
    "Gradients around a pass": (convolutions, own_scalar),
    "the layers' table": (convolutions, lambda model: lambda: layer_rows(model, images_of())),
    "a detector": (Boxes, detect),
    "pytorch_grad_cam": (
        convolutions,
        lambda model: (lambda cam: lambda: cam(images_of(), None))(PeerGradCAM(model, [model.stem])),
    ),
    "pytorch_grad_cam's guided backpropagation": (
        convolutions,
        lambda model: lambda: GuidedBackpropReLUModel(model, "cpu")(images_of()),
    ),
    "pytorch_grad_cam's Ablation-CAM": (
        convolutions,
        lambda model: (lambda cam: lambda: cam(images_of(), None, eigen_smooth=True))(
            PeerAblationCAM(model, [model.stem])
        ),
    ),
    "torchcam": (convolutions, torchcam(LayerCAM)),
    "torchcam's Score-CAM": (convolutions, torchcam(ScoreCAM)),
    "torchcam's Smooth Grad-CAM++": (convolutions, torchcam(SmoothGradCAMpp, num_samples=2)),
    "torchcam's default layer": (convolutions, lambda model: lambda: locate_candidate_layer(model, (3, 12, 12))),
    "captum": (convolutions, lambda model: lambda: LayerGradCam(model, model.stem).attribute(images_of(), 1)),
    "captum's guided": (convolutions, lambda model: lambda: GuidedGradCam(model, model.stem).attribute(images_of(), 1)),
    "captum's guided backpropagation": (
        convolutions,
        lambda model: lambda: GuidedBackprop(model).attribute(images_of(), 1),
    ),
    "MONAI": (convolutions, lambda model: lambda: MonaiGradCAM(model, "stem")(images_of())),
}


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.filterwarnings("ignore")
def test_an_interrupt_at_any_line_of_the_library_leaves_nothing(subject):
    make, run_of = SUBJECTS[subject]
    model = make()
    run = run_of(model)
    run(), run()
    lines = places(run)
    before, hits, left = state(model), 0, []
    for place, turns in lines.items():
        for turn in {1} if takes_lock(place) else {1, turns}:
            hits += interrupted(run, place, turn)
            if state(model) != before:
                left.append((*place, turn))
                model = make()
                run = run_of(model)
                run(), run()
                before = state(model)
    print(f"\n{subject}: {hits} interruptions of {len(lines)} lines, {len(left)} left something")
    assert not left and hits > 60
    run()  # and all goes on
