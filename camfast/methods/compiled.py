"""An explainer whose network is compiled around the explained layer: the same scores and maps, checked, in less time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import DoubtWarning, reason
from ..model.halves import Split, split
from ..model.inputs import Inputs
from ..model.layers import call_of
from ..targets import Targets
from .explainer import Explainer
from .gradient import GradientExplainer

__all__ = ["compiled"]


def compiled(
    explainer: Explainer,
    images: Tensor,
    quick: bool = False,
    splits: dict[Any, Split] | None = None,
    targets: Targets = None,
) -> GradientExplainer:
    """``explainer`` with its network compiled for ``images``' shape; checked against it on these images and ``targets``.

    ``quick`` leaves ``torch.compile``, which takes a minute, out. ``splits`` keeps what was compiled, for other methods at
    the same layer. Raises ``ValueError`` with the reason where compiling is not possible.
    """
    if not isinstance(explainer, GradientExplainer):
        raise ValueError(f"only methods of one gradient can be compiled, got {explainer.name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DoubtWarning)  # said of the call itself
        expected = explainer(images, targets, size="map")
    if len(explainer.layers) != 1:
        raise ValueError(f"one layer can be compiled, got {len(explainer.layers)}")
    model = explainer.model
    splits = {} if splits is None else splits
    key = (explainer.layers[0], images.shape)
    if key not in splits:
        name, call = call_of(key[0], dict(model.named_modules()))
        if isinstance(call, str):
            raise ValueError(f"one call of a layer can be compiled, got {key[0]}")
        splits[key] = split(model, model.get_submodule(name), images, quick, call)
    halves = splits[key]

    inputs = Inputs.of(images)
    views: list[Callable[[Tensor], Tensor]] = []

    def reshape(tensor: Tensor) -> Tensor:  # as the network itself was read, by the layer's own name, on these images
        if not views:
            views.append(explainer.to_grid(tensor, inputs, explainer.layers[0]))
        return views[0](tensor)

    twin = type(explainer)(
        halves,
        "layer",
        reshape=reshape,
        class_names=explainer.class_names,
        eigen_smooth=explainer.eigen_smooth,
        aug_smooth=explainer.aug_smooth,
    )
    twin._asked = model
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DoubtWarning)
            found = twin(images, targets, size="map")
    except Exception as error:  # the compiler's own
        raise ValueError(f"torch.compile failed: {reason(error)}") from error
    tolerance = 1e-2 if images.dtype == torch.float32 else 1e-1
    scale = float(expected.scores.abs().amax())
    if not torch.allclose(found.scores, expected.scores, rtol=0, atol=tolerance * max(scale, 1e-6), equal_nan=True):
        raise ValueError("the compiled network gave other scores")
    if _same(found.targets, expected.targets) and (found.heatmap - expected.heatmap).abs().amax() > 5 * tolerance:
        raise ValueError("the compiled network gave other heatmaps")
    return twin


def _same(targets: Any, others: Any) -> bool:
    """Whether two passes explained the same; of classes that were the best, rounding may have made others."""
    return not isinstance(targets, Tensor) or torch.equal(targets, others)
