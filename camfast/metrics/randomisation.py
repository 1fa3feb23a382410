"""The sanity check: heat of a network whose layers are randomised, the last ones first, compared with its own.

A method whose maps do not change shows the image, not what the network made of it (Adebayo 2018,
https://arxiv.org/abs/1810.03292).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..brief import Brief
from ..errors import DoubtWarning, closest, or_rather
from ..methods.explainer import Explainer, Layers
from ..methods.explanation import Explanation
from ..methods.layer_explainer import LayerExplainer
from ..methods.registry import METHODS
from ..methods.scoring import counted
from ..model.inputs import Images, Inputs
from ..model.shadow import shadow
from ..model.tap import unwrapped
from ..model.untouched import quiet
from ..targets import Targets
from .heat import planes_of
from .similarity import SIMILARITIES

__all__ = ["LayerRandomisation", "layer_randomisation"]

Order = Literal["cascading", "independent"]


@dataclass(repr=False)
class LayerRandomisation(Brief):
    """Similarity of the heat to that of the trained network.

    Attributes:
        layers: the layer at which each step arrived, from the network's end to its beginning.
        depth: ``[D]``, the share of all layers that were randomised by then (of one alone: how far from the end it is).
        similarity: ``[D, N]`` or ``[D, N, K]``; NaN where a map is constant or not finite.
    """

    layers: list[str]
    depth: Tensor
    similarity: Tensor

    @property
    def curve(self) -> Tensor:
        """The mean over images at each depth, ``[D]``."""
        return self.similarity.flatten(1).nanmean(1)


def layer_randomisation(
    model: nn.Module,
    images: Images,
    method: str | type[Explainer] = "grad_cam",
    targets: Targets = None,
    *,
    layers: Layers = None,
    order: Order = "cascading",
    similarity: Literal["spearman", "pearson", "ssim"] = "spearman",
    steps: int | None = None,
    seed: int = 0,
    **options: Any,
) -> LayerRandomisation:
    """Similarity of heatmaps as layers are randomised: the model parameter randomisation test (Adebayo 2018, section 3).

    A layer is randomised by its own ``reset_parameters()``, as a new one is; parameters of modules without it stay. This is done
    to copies: the model shares what is not changed with them, and keeps its own.

    Args:
        model: the trained model.
        images: as explainers take them.
        method: a method's name, or its class.
        targets: as explainers take them; the trained network's classes are explained in every other.
        layers: explained ones; None: the last one with a spatial map.
        order: ``"cascading"``: all layers from the end up to one; ``"independent"``: each one alone.
        similarity: ``"spearman"``, ``"pearson"`` or ``"ssim"``.
        steps: at so many depths, evenly; None: after every layer.
        seed: of the new parameters; PyTorch's own generators are left as they are.
        options: of the method.

    Returns:
        A :class:`LayerRandomisation`; less similarity is better.

    Raises:
        TypeError: for arguments of a wrong type.
        ValueError: for an unknown method, order or similarity, and for a model none of whose layers can be randomised.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if order not in ("cascading", "independent"):
        raise ValueError(f"order must be 'cascading' or 'independent', got {order!r}")
    if similarity not in SIMILARITIES:
        raise ValueError(f"similarity must be one of {', '.join(SIMILARITIES)}, got {similarity!r}")
    made = _class_of(method)
    base = unwrapped(model)
    explainer = made(base, layers, **options) if layers is not None else made(base, **options)
    own = explainer(images, targets)
    seen = explainer.layers if issubclass(made, LayerExplainer) else layers
    heat, known, many = planes_of(own, Inputs.of(images, base).image)

    names = _in_order(base, images)
    count = len(names) if steps is None else min(counted(steps, "steps") or 1, len(names))
    ends = [round((step + 1) * len(names) / count) for step in range(count)]
    rows = []
    for end in ends:
        random = _randomised(base, names[:end] if order == "cascading" else names[end - 1 : end], seed)
        rows.append(_heat_of(made, random, images, own, seen, options, similarity, heat, known))
    found = torch.stack(rows)
    depth = torch.tensor([end / len(names) for end in ends])
    return LayerRandomisation(
        [names[end - 1] for end in ends], depth, found if many is None else found.unflatten(1, (-1, many))
    )


def _heat_of(
    made: type[Explainer],
    model: nn.Module,
    images: Images,
    own: Explanation,
    layers: Layers,
    options: dict[str, Any],
    similarity: str,
    heat: Tensor,
    known: Tensor,
) -> Tensor:
    """Similarity of ``heat`` to that of a randomised model, ``[P]``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DoubtWarning)  # maps of such a model may be blank
        explainer = made(model, **options) if layers is None else made(model, layers, **options)
        other, finite, _ = planes_of(explainer(images, own.targets), Inputs.of(images, model).image)
    return SIMILARITIES[similarity](heat, other).where(known & finite, torch.nan)


def _class_of(method: str | type[Explainer]) -> type[Explainer]:
    if isinstance(method, type) and issubclass(method, Explainer):
        return method
    if not isinstance(method, str):
        raise TypeError(f"method must be a method's name or class, got {type(method).__name__}")
    if method not in METHODS:
        raise ValueError(f"no method is called {method!r}{or_rather(closest(method, METHODS), METHODS)}")
    return METHODS[method]


def _in_order(model: nn.Module, images: Images) -> list[str]:
    """The layers that can be randomised, as they run in a pass, the last one first."""
    root, _ = shadow(model)
    ran: list[str] = []

    def noting(name: str) -> Callable[..., None]:
        return lambda module, args, output: ran.append(name)

    for name, module in root.named_modules():
        own = next(module.parameters(recurse=False), None)
        if own is not None and callable(getattr(module, "reset_parameters", None)):
            module.register_forward_hook(noting(name))
    one = Inputs.of(images, root).first().cut()
    with quiet(root), torch.no_grad():
        root(*one.args, **one.kwargs)
    found = list(dict.fromkeys(reversed(ran)))
    if not found:
        raise ValueError(f"{type(model).__name__} has no layer with reset_parameters(), so that none can be randomised")
    return found


def _randomised(model: nn.Module, names: Sequence[str], seed: int) -> nn.Module:
    """A model like ``model`` that shares all but the parameters and buffers of its modules ``names``, which are new."""
    root, _ = shadow(model)
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices), torch.no_grad():
        torch.manual_seed(seed)
        for name in names:
            module: Any = root.get_submodule(name)
            for key, parameter in list(module._parameters.items()):
                if parameter is not None:
                    module._parameters[key] = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            for key, buffer in list(module._buffers.items()):
                if buffer is not None:
                    module._buffers[key] = buffer.detach().clone()
            module.reset_parameters()
    return root
