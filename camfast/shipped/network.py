"""``with_heatmap``: a network that returns its scores and the heat that explains them, in plain operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from ..brief import Brief
from ..methods.explainer import Layers
from ..methods.gradient import GradientExplainer
from ..targets import ClassNames, Targets
from .capture import captured, halves, whole
from .choice import Choice, choice_of, columns_of
from .evidence import Evidence, gathered
from .examples import example_of, several
from .formulas import eigen_map, fem_map, finished, gradient_map, mean_map, spots, steps, weighted_map
from .kinds import MEAN, explainer_class, kind_of_method
from .passes import with_gradients, with_positions

__all__ = ["Form", "HeatNetwork", "with_heatmap"]

Form = Literal["closed form", "backward pass", "activations", "positions"]
"""How the heat is made: by the rows of the linear layer behind the pooling, by the written-out backward pass of what
follows the layer, of activations alone, or by what follows the layer once for each position."""

_OF_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"eigen_cam": eigen_map, "fem": fem_map, MEAN: mean_map}
_TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 4e-2}
_MATRIX = 2**16  # numbers; of larger maps the resize is no matrix
TOLERANCE = 1e-4  # of heat in [0, 1], and of scores as a share of the largest, in fp32 and fp64


def with_heatmap(
    model: nn.Module,
    method: str = "grad_cam",
    layers: Layers = None,
    targets: Targets = None,
    size: int | Sequence[int] | Literal["map"] | None = None,
    normalize: bool = True,
    *,
    example: Tensor | None = None,
    class_names: ClassNames | None = None,
    layout: str | None = None,
    dynamic: bool = True,
    gaussian: bool = True,
) -> HeatNetwork:
    """``model`` as a module that returns its scores and the heat that explains them, to be compiled, traced or exported.

    What comes back holds operations of ATen alone: no op of camfast, no hook, and no autograd when it runs. It works under
    ``torch.export``, ``torch.compile(fullgraph=True)`` and ``torch.jit.trace``, and shares its parameters with ``model``,
    which is left as it was. Layers, layouts and the head are found on an example by the evidence that explainers go by,
    and the result is compared with the ordinary explainer's before it is given out.

    Args:
        model: a network of one image tensor that returns scores; it is taken as it is in evaluation mode.
        method: "grad_cam", "cam", "grad_cam_plus_plus", "hires_cam", "layer_cam", "xgrad_cam", "grad_cam_elementwise",
            "recipro_cam", "eigen_cam", "fem", or "activation_mean", the mean of the layer's channels.
        layers: as for explainers; None finds the last layer with a spatial map.
        targets: None for each image's best class, a class or its name for all images, ``TopK(k)``, ``"all"``, or a list of
            a class (or K classes) per image, which fixes the number of images.
        size: of the heatmap: None for the images', "map" for the layer's own, an int or a tuple.
        normalize: heat in [0, 1]; False for the raw map.
        example: images ``[N, C, H, W]`` as the model takes them, of the size that it will be used with. None: random numbers
            of the size that the model names, or of 224 x 224. A photograph is the better evidence.
        class_names: names of the classes, where ``targets`` are names.
        layout: names the dimensions of the layer's output, as for explainers.
        dynamic: any number of images; False for exactly as many as the example has.
        gaussian: of "recipro_cam": keep a Gaussian around each position; False keeps that position alone.

    Returns:
        A module whose ``forward(images)`` gives ``(scores, heatmap)``; heat is ``[N, H, W]``, and ``[N, K, H, W]`` for
        ``TopK``, ``"all"`` and K classes per image. Its ``difference`` says how far it was from the explainer.

    Raises:
        TypeError: for something that is no module, and for targets that run in Python.
        ValueError: for layers and classes that there are not, a method that cannot be shipped (why), a network that is no
            graph of operations or has a fixed number of images, a derivative that cannot be written out, and for heat that
            is not the explainer's.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    kind = kind_of_method(method)
    if not isinstance(normalize, bool):
        raise ValueError(f"normalize of a file must be True or False, got {normalize!r}")
    images = several(example_of(model) if example is None else example, targets, dynamic)
    evidence = gathered(model, method, layers, images, targets, size, class_names, layout, gaussian)
    choice = choice_of(targets, evidence.axis, class_names)
    dynamic = dynamic and choice.batch is None
    graph = captured(evidence.model, evidence.names, evidence.modules, images, dynamic)
    head = evidence.head if len(evidence.names) == 1 else None
    weight, masks = None, None
    form: Form = "activations" if kind == "activations" else "closed form"
    if kind == "activations" or head is not None:
        body = whole(graph, len(evidence.names))
        if form == "closed form":
            weight = _name_of(body, head)
        if kind == "positions":
            masks = spots(evidence.map_size, gaussian)
    elif kind == "positions":
        form = "positions"
        if len(evidence.names) > 1:
            raise ValueError(f"recipro_cam is shipped for one layer, got {len(evidence.names)}")
        body = with_positions(
            halves(graph), evidence.views[0], spots(evidence.map_size, gaussian), choice, evidence.axis
        )
    else:
        form = "backward pass"
        body = with_gradients(halves(graph), len(evidence.names), choice, evidence.axis)
    settings = Settings(method, form, evidence.full_size, normalize, dynamic, weight, masks)
    found = HeatNetwork(body, evidence, choice, settings, images)
    found.rounding = rounding(evidence.raw.heatmap, len(evidence.map_size)) if normalize else 0.0
    found.difference = _checked(found, images, evidence)
    return found


@dataclass(repr=False)
class Settings(Brief):
    """How a :class:`HeatNetwork` makes its heat."""

    method: str
    form: Form
    size: tuple[int, ...]
    normalize: bool
    dynamic: bool
    weight: str | None  # the parameter of the closed form, in the body
    masks: Tensor | None  # [S, *map], of the closed form of Recipro-CAM


class HeatNetwork(nn.Module):
    """A network that returns ``(scores, heatmap)``; :func:`with_heatmap` makes it.

    Attributes:
        method: the method's name.
        form: how the heat is made (:data:`Form`).
        layers: names of the layers that are explained.
        choice: the classes that are explained.
        size: of the heatmap.
        dynamic: whether any number of images is taken.
        example: the images that it was made on.
        rounding: how far heat on these may be off by rounding alone.
        difference: how far scores (as a share of the largest) and heat were from the ordinary explainer's on these.
    """

    masks: Tensor | None

    def __init__(
        self, body: fx.GraphModule, evidence: Evidence, choice: Choice, settings: Settings, example: Tensor
    ) -> None:
        super().__init__()
        self.body = body
        self.method = settings.method
        self.form = settings.form
        self.layers = list(evidence.names)
        self.choice = choice
        self.size = settings.size
        self.normalize = settings.normalize
        self.dynamic = settings.dynamic
        self.example = example
        self.difference = (0.0, 0.0)
        self.rounding = 0.0
        self.class_axis = evidence.axis
        self._views = evidence.views
        self._rank = len(evidence.map_size)
        self._map_size = evidence.map_size
        self._relu = evidence.head is not None and evidence.head.relu
        self._weight = settings.weight
        self._shape = tuple(example.shape[1:])
        cls = explainer_class(self.method)
        self._op = cls.op if issubclass(cls, GradientExplainer) else None
        self._uniform = getattr(cls, "uniform", None)
        self.register_buffer("masks", settings.masks, persistent=False)
        sizes = list(zip(self._map_size, self.size, strict=True))
        few = self.normalize and self._map_size != tuple(self.size) and max(n * new for n, new in sizes) <= _MATRIX
        self._matrices = self._rank if few else 0
        for axis, (length, new) in enumerate(sizes[: self._matrices]):
            self.register_buffer(f"steps{axis}", steps(length, new).to(example.device), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores ``[N, ...]`` and heat ``[N, *size]``, or ``[N, K, *size]`` for several classes an image.

        Args:
            images: as the network takes them, of the example's size.

        Raises:
            ValueError: for images of another size.
        """
        if not torch.jit.is_tracing() and tuple(images.shape[1:]) != self._shape:
            raise ValueError(
                f"images must be [N, {', '.join(map(str, self._shape))}], as the example was, got {list(images.shape)}"
            )
        scores, *rest = self.body(images)
        matrices = [self.get_buffer(f"steps{axis}") for axis in range(self._matrices)]
        return scores, finished(self._maps(scores, rest), self._rank, self.size, self.normalize, matrices)

    def _maps(self, scores: Tensor, rest: Sequence[Tensor]) -> list[Tensor]:
        """The raw map of each layer, ``[N, (K,) *map]``."""
        if self.form == "positions":
            return list(rest)
        grids = [view(A) for view, A in zip(self._views, rest, strict=False)]
        if self.form == "activations":
            maps = [_OF_ACTIVATIONS[self.method](A) for A in grids]
            count = self.choice.count(self.class_axis.classes)
            return maps if count is None else [own.unsqueeze(1).repeat_interleave(count, 1) for own in maps]
        if self.form == "backward pass" and self._op is not None:
            gradients = [view(G) for view, G in zip(self._views, rest[len(grids) :], strict=True)]
            if self.choice.several:
                gradients = [G.transpose(0, 1) for G in gradients]
            return [gradient_map(self._op, A, G) for A, G in zip(grids, gradients, strict=True)]
        return [self._closed_form(grids[0].relu() if self._relu else grids[0], columns_of(self.class_axis, scores))]

    def _closed_form(self, A: Tensor, columns: Tensor) -> Tensor:
        """The map of activations ``[N, C, *map]``, by the weight of the linear layer behind their mean."""
        weight = self.body.get_parameter(self._weight or "").flatten(1)
        if self.masks is not None:
            return self._one_position(A, columns, weight, self.masks)
        rows = self.choice.rows(weight, columns)
        if self._op is None:
            return weighted_map(A, rows)
        rows = rows / A.shape[2:].numel()
        if self._uniform is not None:
            return weighted_map(A, rows.relu() if self._uniform == "positive gradient" else rows)
        rows = rows.expand(A.shape[0], *rows.shape[1:])
        gradients = rows[(...,) + (None,) * self._rank].expand(*rows.shape, *A.shape[2:])
        return gradient_map(self._op, A, gradients)

    def _one_position(self, A: Tensor, columns: Tensor, weight: Tensor, masks: Tensor) -> Tensor:
        """Recipro-CAM: the classes' probabilities where one position is kept, whose mean is a product with its mask."""
        flat = A.flatten(2).to(columns)  # [N, C, S]
        kept = flat @ masks.to(columns).flatten(1).t() / flat.shape[2]
        without = columns - flat.mean(2) @ weight.t()  # the bias
        found = (weight @ kept + without.unsqueeze(2)).softmax(1)  # [N, classes, S]
        if self.choice.kind == "one":
            found = found[:, self.choice.number]
        elif self.choice.kind != "all":
            ids = self.choice.ids(columns)
            ids = ids if self.choice.several else ids.unsqueeze(1)
            found = found.gather(1, ids.unsqueeze(2).expand(-1, -1, found.shape[2]))
            found = found if self.choice.several else found.squeeze(1)
        return found.unflatten(-1, self._map_size)

    def extra_repr(self) -> str:
        return f"method={self.method}, layers={self.layers}, form={self.form}, size={list(self.size)}"


def _name_of(body: fx.GraphModule, head: Any) -> str:
    """What ``body`` calls the parameter of the head: the same memory."""
    for name, parameter in body.named_parameters():
        if parameter.data_ptr() == head.weight.data_ptr() and parameter.shape == head.weight.shape:
            return name
    raise ValueError("the linear layer behind the pooling is not in the exported graph")


def _checked(network: HeatNetwork, images: Tensor, evidence: Evidence) -> tuple[float, float]:
    """The differences of scores and heat from what the explainer made of ``images``; raises where they are too large."""
    with torch.no_grad():
        scores, heat = network(images)
    expected = evidence.expected if network.normalize else evidence.raw
    found = (relative(scores, expected.scores), distance(heat, expected.heatmap, network.normalize))
    allowed = _TOLERANCE.get(scores.dtype, TOLERANCE)
    if not found[0] <= allowed or not found[1] <= max(allowed, network.rounding):
        raise ValueError(
            f"the written-out network must give what {network.method} gives, got scores that differ by {found[0]:.1e} and heat "
            f"that differs by {found[1]:.1e} on the example; please report this network"
        )
    return found


def rounding(raw: Tensor, rank: int) -> float:
    """How far heat in [0, 1] may be off by rounding alone, where a raw map ``[..., *size]`` is large but nearly constant."""
    raw = raw.double().flatten(-rank)
    top, low = raw.amax(-1), raw.clamp(min=0).amin(-1)
    span = (top.clamp(min=0) - low).clamp(min=1e-30)
    steps = (raw.abs().amax(-1) / span)[span > 1e-30]
    return 32 * torch.finfo(torch.float32).eps * float(steps.nan_to_num(0, 0, 0).amax()) if steps.numel() else 0.0


def relative(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest expected value; NaN agrees with NaN, infinite where shapes differ."""
    return distance(found, expected, False)


def distance(found: Tensor, expected: Tensor, absolute: bool) -> float:
    """The largest difference, NaN agreeing with NaN: ``absolute``, or as a share of the largest expected value."""
    if found.shape != expected.shape:
        return float("inf")
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    if not bool((found.isnan() == expected.isnan()).all()):
        return float("inf")
    scale = 1.0 if absolute else max(float(expected.nan_to_num(0, 0, 0).abs().amax()), 1e-12)
    return float((found - expected).abs().nan_to_num(0, float("inf")).amax()) / scale
