"""What is known of a network before it is shipped, found on an example: its layers, their layouts, its head, its heat."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..brief import Brief
from ..methods import CAM, Explanation, GradCAM, ReciproCAM
from ..methods.explainer import Layers
from ..methods.layer_explainer import LayerExplainer
from ..methods.linear_head import is_pooled, last_linear
from ..model.class_axis import ClassAxis
from ..targets import ClassNames, Targets
from .kinds import explainer_class

__all__ = ["Evidence", "Head", "gathered"]


@dataclass
class Head:
    """A linear layer on pooled activations: ``scores = weight @ mean(activation(A)) + bias``."""

    weight: nn.Parameter  # [classes, C], or [classes, C, 1, 1]
    relu: bool = False  # whether activations go through a ReLU before the pooling


@dataclass(repr=False)
class Evidence(Brief):
    """What one explained batch told.

    Attributes:
        names: of the layers, and their modules.
        modules: the layers.
        views: of each layer's output as ``[N, C, *map]``, for tensors of its shape but for the batch.
        model: the network itself, out of its wrappers.
        map_size: of the first layer.
        axis: of the classes in the scores.
        head: the head, where it is pooling and a linear layer of parameters; else None.
        expected: what the ordinary explainer made of the batch: heat with and without a range of its own.
        raw: the same, not normalised.
        full_size: of the heat.
    """

    model: nn.Module
    names: list[str]
    modules: list[nn.Module]
    views: list[Callable[[Tensor], Tensor]]
    map_size: tuple[int, ...]
    axis: ClassAxis
    head: Head | None
    expected: Explanation
    raw: Explanation
    full_size: tuple[int, ...]


def gathered(
    model: nn.Module,
    method: str,
    layers: Layers,
    images: Tensor,
    targets: Targets,
    size: Any,
    class_names: ClassNames | None,
    layout: str | None,
    gaussian: bool = True,
) -> Evidence:
    """Explains ``images`` by the ordinary explainer and looks at what it found.

    Raises what the explainer raises, and ``ValueError`` for scores that a file cannot choose classes from.
    """
    cls: Any = explainer_class(method)
    if not gaussian and not issubclass(cls, ReciproCAM):
        raise ValueError(f"gaussian= is of recipro_cam alone, got gaussian=False for {method}")
    own = {} if gaussian else {"gaussian": False}
    with cls(model, layers, class_names=class_names, layout=layout, **own) as explainer:
        assert isinstance(explainer, LayerExplainer)
        found = explainer.layer_maps(images, targets)
        expected = explainer.result(found, size, True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            raw = explainer.result(found, size, False)
        if found.shared > 1 or found.instances is not None:
            raise ValueError(
                "a file holds one map per image, got a network that brings several frames or instances together"
            )
        axis = found.chosen.axis
        if axis is None:
            raise TypeError("targets of a file must be classes, TopK or 'all', got callables, which run in Python")
        if axis.start or axis.nothing:
            raise ValueError("a file explains a classifier's scores, got scores with boxes among them")
        explainer_model = explainer.model
        names, modules = list(explainer._names), list(explainer._modules)
        inputs = found.inputs
        if explainer.uses_gradients:
            tapping: LayerExplainer = explainer
        else:
            tapping = GradCAM(model, names, layout=layout)
        head, views = _looked_at(tapping, explainer, inputs)
        if isinstance(explainer, CAM):
            (found_head,) = explainer._heads[:1]
            if found_head.after is not None:
                raise ValueError(
                    "CAM is shipped for a linear layer on pooled activations, got class maps that are pooled; take grad_cam"
                )
            head = Head(found_head.layer.get_parameter("weight"), found_head.activation is torch.relu)  # type: ignore[arg-type]
    map_size = found.maps[0].size
    return Evidence(
        model=explainer_model,
        names=names,
        modules=modules,
        views=views,
        map_size=map_size,
        axis=axis,
        head=head,
        expected=expected,
        raw=raw,
        full_size=tuple(expected.heatmap.shape[-len(map_size) :]),
    )


def _looked_at(
    tapping: LayerExplainer, explainer: LayerExplainer, inputs: Any
) -> tuple[Head | None, list[Callable[[Tensor], Tensor]]]:
    """The head that the graph of a pass shows, and the views of the layers' outputs."""
    with tapping.tap() as tap:
        try:
            output = tapping.run(tap, inputs)
        except ValueError:
            if tapping is explainer:
                raise
            tap.graph = False  # no gradient reaches the layer, which its method does not need
            output = tapping.run(tap, inputs)
        activations = tap.activations
        views = [explainer.to_grid(A, inputs, name) for A, name in zip(activations, explainer.layers, strict=True)]
        leaf = tap.leaf
        if (
            not tap.graph
            or leaf is None
            or views[0](leaf).shape != leaf.shape
            or views[0](leaf).stride() != leaf.stride()
        ):
            return None, views
        scores = tapping.scores(None, output, inputs)
        linear = last_linear(scores)
        if linear is None or not is_pooled(linear, leaf):
            return None, views
        for parameter in explainer.model.parameters():
            if parameter.data_ptr() == linear.weight.data_ptr() and parameter.numel() == linear.weight.numel():
                return Head(parameter), views
    return None, views
