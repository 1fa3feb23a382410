"""``differentiable=True``: scores and heat of a training step's own pass, with a graph to the model's parameters."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..model.inputs import Images, Inputs
from ..model.tap import Tap
from ..targets import Targets
from .chosen import choose
from .layer_map import LayerMaps
from .reading import kind_of

if TYPE_CHECKING:
    from .explainer import Explainer
    from .layer_explainer import LayerExplainer

__all__ = ["check_differentiable", "maps_with_graph"]


def check_differentiable(explainer: Explainer) -> None:
    """Raises ``ValueError`` where heat of ``explainer`` has no derivative, or where nothing would record it."""
    name = type(explainer).__name__
    if not explainer.derivative:
        raise ValueError(
            f"differentiable=True needs a method with a derivative, got {name}; use GradCAM, HiResCAM or LayerCAM, or CAM "
            "where pooling and a linear layer follow"
        )
    if explainer.eigen_smooth:
        raise ValueError(
            f"differentiable=True needs sums of channels, got {name} with eigen_smooth, whose component has no derivative; "
            "leave it out"
        )
    if explainer.aug_smooth:
        raise ValueError(
            f"differentiable=True takes the training step's one pass, got {name} with aug_smooth, which takes six; "
            "leave it out"
        )
    if torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
        raise ValueError(
            "differentiable=True needs a graph, got a call under no_grad() or inference_mode(); leave differentiable out "
            "where nothing is trained"
        )


def maps_with_graph(explainer: LayerExplainer, images: Images, targets: Targets) -> LayerMaps:
    """The layers' maps, the scores and all that the model returned, in one ordinary pass of the model as it is.

    Inside a step that ``torch.compile`` traces it runs eagerly, between the parts before and after.
    """
    check_differentiable(explainer)
    if "torch._dynamo" in sys.modules:
        return torch.compiler.disable(_maps)(explainer, images, targets)
    return _maps(explainer, images, targets)


def _maps(explainer: LayerExplainer, images: Images, targets: Targets) -> LayerMaps:
    inputs = _known(explainer, Inputs.of(images, explainer.model), targets)
    with explainer.graph_tap() as tap:
        output = explainer.run(tap, inputs)
        own = tap.own_output
        scores = explainer.scores(targets, own, inputs)
        _check_numbers(scores)
        chosen = choose(targets, scores, explainer.class_names, own, explainer.classes(inputs))
        maps = explainer.maps(tap, chosen, inputs)
        if output is not own:
            scores = explainer.scores(targets, output, inputs)
    return LayerMaps(inputs, chosen, maps, scores, output)


def _known(explainer: LayerExplainer, inputs: Inputs, targets: Targets) -> Inputs:
    """The inputs, prepared, once everything is known that other passes must tell: layers, layouts, axes, heads.

    At the first call for images of a shape these passes run before the step's own, without a graph, in evaluation mode,
    and leave neither buffers nor random numbers changed.
    """
    key = (kind_of(targets), *(tuple(tensor.shape) for tensor in [inputs.image, *inputs.beside()]))
    known = key in explainer._differentiated
    if known and explainer._all_calls is None:  # else a pass counts the calls
        return explainer.prepare(inputs, targets)
    devices = [inputs.image.device] if inputs.image.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad():
        inputs = explainer.prepare(inputs, targets)
        if known:
            return inputs
        with Tap(
            explainer.model, explainer._modules, names=explainer._names, graph=False, quirks=explainer._quirks
        ) as tap:
            output: Any = explainer.run(tap, inputs)
            scores = explainer.scores(targets, output, inputs)
            chosen = choose(targets, scores, explainer.class_names, output, explainer.classes(inputs))
            if explainer.uses_gradients:
                explainer.grids(tap, inputs)
            else:
                explainer.maps(tap, chosen, inputs)
        explainer._doubt_calls(inputs)
    explainer._differentiated[key] = True
    return inputs


def _check_numbers(scores: Tensor) -> None:
    """Raises ``ValueError`` that names the images whose scores are NaN. On a device it waits for the pass."""
    if scores.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return
    unknown = scores.detach().isnan().reshape(len(scores), -1).any(1)
    if not unknown.any():
        return
    rows = unknown.nonzero().flatten().tolist()
    if len(rows) == len(scores):
        which = f"every image of {len(scores)}: the weights may be NaN too"
    else:
        which = (
            ("image " if len(rows) == 1 else "images ")
            + ", ".join(map(str, rows[:10]))
            + ("" if len(rows) <= 10 else ", ...")
        )
        which += f" of {len(scores)}: look for NaN in it"
    raise ValueError(f"expected scores that are numbers, got NaN for {which}")
