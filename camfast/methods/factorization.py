"""Deep Feature Factorization: what concepts a layer tells apart, where each is, and which class it speaks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from .. import ops
from ..model.inputs import Images
from ..model.outputs import scores_of
from ..model.precision import wide_dtype
from ..model.restored import thread_kept
from ..ops import reference
from ..targets import Targets, listed_names
from . import nmf
from .chosen import Chosen, choose
from .differentiable import check_differentiable
from .explainer import Layers, Size
from .explanation import Explanation
from .layer_map import LayerMap, LayerMaps
from .ranges import Normalize, check_normalize
from .registry import register
from .scoring import HeadExplainer, ScoringOptions, counted

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["DeepFeatureFactorization", "Factorization", "deep_feature_factorization", "factors"]


@dataclass(repr=False, eq=False)
class Factorization(Explanation):
    """An explanation by concepts: K of them, the same for all images of the call.

    ``heatmap`` is ``[N, K, *size]``, where each concept is in each image; ``concepts`` are their feature vectors
    ``[K, C]`` and ``concept_scores`` ``[K, classes]`` the model's scores for them. ``targets`` is ``[N, K]``, for each
    concept the class of its highest score, so that pictures and labels name it.
    """

    concepts: Tensor | None = None
    concept_scores: Tensor | None = None


class DeepFeatureFactorization(HeadExplainer):
    """Deep Feature Factorization: a non-negative factorisation of the activations into concepts and their places (Collins 2018, https://arxiv.org/abs/1806.10206).

    As in pytorch-grad-cam: the activations of all images, less each channel's minimum, are one matrix; each concept's
    map is scaled to [0, 1] and resized. The factors are found on the images' device, from the same start every time.

    A concept's scores are those of the layer's head for a map that is this concept everywhere: for global pooling and a
    linear layer, the linear layer's. ``classifier``, a callable ``[K, C] -> [K, classes]``, may give them instead.

    Args:
        components: the number of concepts.
        classifier: scores of the concepts' vectors; None uses the model's own head.

    One layer, and no targets. Returns a :class:`Factorization`. NaN counts as each channel's minimum; an image with Inf
    gets a heatmap of NaN and no part in the concepts.
    """

    name: ClassVar[str] = "deep_feature_factorization"
    smoothing: ClassVar[tuple[str, ...]] = ()  # each call has concepts of its own

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = None,
        *,
        components: int = 5,
        classifier: Callable[[Tensor], Tensor] | None = None,
        **options: Unpack[ScoringOptions],
    ) -> None:
        super().__init__(model, layers, **options)
        if len(self._names) > 1:
            raise ValueError(f"DeepFeatureFactorization explains one layer, got {', '.join(self._names)}")
        if classifier is not None and not callable(classifier):
            raise TypeError(f"classifier must be a callable [K, C] -> [K, classes], got {type(classifier).__name__}")
        self.components = counted(components, "components") or 1
        self.classifier = classifier

    @thread_kept
    def __call__(
        self,
        images: Images,
        targets: Targets = None,
        size: Size = None,
        normalize: Normalize = True,
        *,
        differentiable: bool = False,
    ) -> Factorization:
        """Concepts and heatmaps of ``images``; arguments as in :meth:`camfast.Explainer.__call__`, without targets."""
        check_normalize(normalize)
        if differentiable:
            check_differentiable(self)
        return self.explain(images, targets, size, normalize)

    def explain(self, images: Images, targets: Targets, size: Size, normalize: Normalize) -> Factorization:
        """The call itself; the maps are not negative with ``normalize=False`` either."""
        if targets is not None:
            raise ValueError("DeepFeatureFactorization finds concepts, not targets; expected targets=None, got others")
        inputs = self.prepare(images)
        with self.tap() as tap:
            scores = scores_of(self.run(tap, inputs), inputs.batch).detach()
            (A,) = tap.activations
            grid = self.to_grid(A, inputs, self._names[0])(A)
            concepts, places = factors(grid, self.components)
            with torch.no_grad():
                concept_scores = self._scores(concepts.to(grid.dtype), inputs)
        classes = choose(None, concept_scores).targets.expand(inputs.batch, -1)  # type: ignore[union-attr]
        found = LayerMaps(
            inputs,
            Chosen(classes, scores, class_names=listed_names(self.class_names)),
            [LayerMap(_scaled_then_resized, grid, places)],
        )
        plain = self.result(found, size, normalize)
        return Factorization(**vars(plain), concepts=concepts, concept_scores=concept_scores)

    def _scores(self, concepts: Tensor, inputs: Any) -> Tensor:
        """``[K, classes]``."""
        if self.classifier is not None:
            found: Any = self.classifier(concepts)
            if not isinstance(found, Tensor) or found.ndim < 1 or len(found) != len(concepts):
                got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
                raise ValueError(f"classifier must return a row of scores a concept, [{len(concepts)}, ...], got {got}")
            return found.detach()
        replay, view = self.replay(0, 0, inputs)
        copies = replay.repeated(len(concepts))
        grid = view(copies)
        grid.copy_(concepts.reshape(*concepts.shape, *(1,) * (grid.ndim - 2)).expand_as(grid))
        return replay(copies)


deep_feature_factorization = register(DeepFeatureFactorization)


def factors(grid: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """Concepts ``[K, C]`` and their maps ``[N, K, *map]`` of activations ``[N, C, *map]``; fp32, or fp64 for fp64."""
    # Rounding in fp32 would be carried from step to step; some devices have no fp64.
    exact = torch.float32 if grid.device.type == "mps" else torch.float64
    columns = grid.to(exact).flatten(2)
    known = ~columns.isinf().flatten(1).any(1)
    columns = columns[known]
    matrix = columns.transpose(0, 1).flatten(1)  # [C, N * S]
    matrix = torch.where(matrix.isnan(), 0, matrix)
    floor = matrix.amin(1, keepdim=True) if matrix.numel() else matrix.new_zeros(matrix.shape[0], 1)
    shape = (grid.shape[0], components, *grid.shape[2:])
    places = torch.full(shape, torch.nan, dtype=exact, device=grid.device)
    if not matrix.numel():
        return matrix.new_full((components, matrix.shape[0]), torch.nan), places
    W, H = nmf.factorize(matrix - floor, components)
    places[known] = H.unflatten(1, (len(columns), *grid.shape[2:])).transpose(0, 1)
    dtype = wide_dtype(grid)
    return (W + floor).t().to(dtype), places.to(dtype)


def _scaled_then_resized(activations: Tensor, maps: Tensor, size: Any, normalize: bool) -> Tensor:
    """The maps of concepts, scaled at the layer's resolution alone, as pytorch-grad-cam does."""
    rank = activations.ndim - 2
    scaled = reference.min_max(maps, rank) if normalize else maps
    return ops.resize_normalize(scaled, tuple(maps.shape[-rank:]) if size is None else size, normalize=False)
