"""The same beside the libraries whose scripts the adapters run: where the peer works, the adapter gives its number."""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import io
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, nn

from .blocks import calls_of
from .choices import Choices
from .networks import Network
from .plain import modules_named
from .questions import layers_with_maps
from .verdicts import Verdict

__all__ = ["PEERS", "beside"]


def _grad_cam(package: str, method: str, model: nn.Module, name: str, inputs: list[Any], c: int) -> Any:
    cam = getattr(importlib.import_module(package), method)
    target = importlib.import_module(f"{package}.utils.model_targets").ClassifierOutputTarget
    with cam(model=model, target_layers=[model.get_submodule(name)]) as explainer:
        return explainer(input_tensor=inputs[0], targets=[target(c)] * len(inputs[0]))


def _torchcam(package: str, method: str, model: nn.Module, name: str, inputs: list[Any], c: int) -> Any:
    cam = getattr(importlib.import_module(f"{package}.methods"), method)
    with cam(model, target_layer=name) as extractor:
        return extractor(c, model(*inputs))


def _captum(package: str, method: str, model: nn.Module, name: str, inputs: list[Any], c: int) -> Any:
    cam = getattr(importlib.import_module(f"{package}.attr"), method)(model, model.get_submodule(name))
    return cam.attribute(tuple(inputs) if len(inputs) > 1 else inputs[0], target=c)


def _monai(package: str, method: str, model: nn.Module, name: str, inputs: list[Any], c: int) -> Any:
    cam = getattr(importlib.import_module(f"{package}.visualize"), method)
    return cam(nn_module=model, target_layers=name)(inputs[0][:1], class_idx=c)


PEERS: dict[str, tuple[str, list[str], Callable[..., Any]]] = {
    "pytorch_grad_cam": ("camfast.compat.pytorch_grad_cam", ["GradCAM", "HiResCAM", "LayerCAM"], _grad_cam),
    "torchcam": ("camfast.compat.torchcam", ["GradCAM", "LayerCAM"], _torchcam),
    "captum": ("camfast.compat.captum", ["LayerGradCam"], _captum),
    "monai": ("camfast.compat.monai", ["GradCAM"], _monai),
}
"""By the library's name: the adapter's, its methods, and the script that both run."""


def beside(choose: Choices, network: Network) -> tuple[str, Verdict] | None:
    """Runs one script on a library and on its adapter; None where there is nothing to compare."""
    peer = choose("peer", list(PEERS))
    adapter, methods, script = PEERS[peer]
    method = choose("peer.method", methods)
    scores = network.outputs[0]
    names = [n for n in layers_with_maps(network) if n and _as_it_is(network, n)]
    fits = network.call == "arguments" and scores.field is None and scores.order == "NK"
    alone = len(network.inputs) == 1 or peer == "captum"
    # pytorch-grad-cam's activations are overwritten by what works in place after the layer.
    in_place = any(getattr(module, "inplace", False) for module in network.model.modules())
    if in_place or not (fits and alone and names) or importlib.util.find_spec(peer) is None:
        return None
    name = choose("peer.layer", names[::-1])
    c = choose("peer.class", range(scores.classes))
    what = f"{peer}.{method}, layer {name!r}, class {c}"
    arguments = (method, network.model, name, list(network.inputs.values()), c)
    try:
        theirs = _numbers(script, peer, *arguments)
    except Exception:
        return None
    try:
        ours = _numbers(script, adapter, *arguments)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1].filename
        if isinstance(error, (ValueError, TypeError)) and "camfast" in place and "\n" not in str(error):
            return what, Verdict("refused", f"{peer}: {error}"[:160])
        return what, Verdict(f"adapter: {type(error).__name__}", f"{peer}: {str(error)[:160]}")
    if len(ours) != len(theirs) or any(a.shape != b.shape for a, b in zip(ours, theirs, strict=True)):
        return what, Verdict(
            f"adapter of {peer}: another shape", f"{[a.shape for a in ours]}, {[b.shape for b in theirs]}"
        )
    off = max(_difference(a, b) for a, b in zip(ours, theirs, strict=True))
    if off >= 2e-3 and off < 4 * _rounding(script, peer, arguments, theirs):
        return None  # the peer's own numbers are nothing but rounding
    return what, Verdict("right") if off < 2e-3 else Verdict(f"adapter of {peer}: other numbers", f"off by {off:.3g}")


def _rounding(script: Callable[..., Any], peer: str, arguments: tuple[Any, ...], theirs: list[np.ndarray]) -> float:
    """How far the peer's numbers are from those it computes in double precision."""
    method, model, name, inputs, c = arguments
    doubled = [v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for v in inputs]
    try:
        exact = _numbers(script, peer, method, copy.deepcopy(model).double(), name, doubled, c)
    except Exception:
        return 0.0
    return max(_difference(a, b) for a, b in zip(theirs, exact, strict=True))


def _as_it_is(network: Network, name: str) -> bool:
    """Whether peers, which take activations as they come, read the layer rightly."""
    calls = calls_of(modules_named(network.model, name))
    picture = next(iter(network.pictures.values()))
    in_order = picture.layout == "NC*" and len(calls) == 1 and calls[0].axes.layout == "NC*"
    return in_order and len(calls[0].axes.map) == len(picture.size)


def _numbers(script: Callable[..., Any], package: str, method: str, model: nn.Module, *rest: Any) -> list[np.ndarray]:
    """What the script gives, on a copy of the model: peers leave traces."""
    inputs = [v.detach().clone() if isinstance(v, Tensor) else v for v in rest[1]]
    quiet = contextlib.redirect_stdout(io.StringIO())
    with warnings.catch_warnings(), quiet, contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        found = script(package, method, copy.deepcopy(model), rest[0], inputs, rest[2])
    found = found if isinstance(found, (list, tuple)) else [found]
    arrays = [np.asarray(t.detach() if isinstance(t, Tensor) else t, dtype=np.float64) for t in found]
    if not all(np.isfinite(a).all() and np.abs(a).max() > 0 for a in arrays):
        raise ValueError("nothing to compare")  # a blank or broken map of the peer's
    return arrays


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())
