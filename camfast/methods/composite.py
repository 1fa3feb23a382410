"""Methods made of another method: a contrast between classes, and a product over layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from .. import ops
from ..model.graph_tap import GraphTap
from ..model.inputs import Images, Inputs
from ..model.precision import wide
from ..model.tap import Tap
from ..targets import Targets
from .chosen import Chosen
from .explainer import Explainer, Layers, Needs
from .gradient import GradCAM, GradCAMPlusPlus
from .layer_explainer import LayerExplainer, LayerOptions
from .layer_map import LayerMap
from .registry import register

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["FinerCAM", "RefineCAM", "finer_cam", "refine_cam"]


class CompositeOptions(LayerOptions, total=False):
    """Options of every method made of another, as :class:`CompositeExplainer` describes them."""

    base_options: Mapping[str, Any] | None


class CompositeExplainer(LayerExplainer):
    """An explainer whose heatmaps are made of another method's, ``base_method``: a class of :mod:`camfast`.

    ``base_options`` are given to that class besides the model, layers and options of this one.
    """

    needs: ClassVar[Needs] = "methods"

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = None,
        *,
        base_method: type[Explainer],
        base_options: Mapping[str, Any] | None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(model, layers, **options)
        if not (isinstance(base_method, type) and issubclass(base_method, Explainer)):
            raise TypeError(f"base_method must be a class of camfast such as GradCAM, got {base_method!r}")
        given = {} if layers is None else {"layers": layers}
        self._base = base_method(model, **{**given, **options, **(base_options or {})})  # type: ignore[arg-type]

    def prepare(self, images: Images, targets: Targets = None) -> Inputs:
        """Checks the images and settles the layers, which are those of the other method too."""
        inputs = super().prepare(images, targets)
        if isinstance(self._base, LayerExplainer):
            self._base.use_layers_of(self)
        return inputs

    def close(self) -> None:
        """Ends the use of this explainer, and of the other method's."""
        super().close()
        self._base.close()


class OnePassComposite(CompositeExplainer):
    """One whose pass and layer maps are the other method's own."""

    repeats: ClassVar[tuple[str, ...]] = ("graph",)
    _base: LayerExplainer

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = None,
        *,
        base_method: type[Explainer],
        **options: Unpack[CompositeOptions],
    ) -> None:
        super().__init__(model, layers, base_method=base_method, **options)
        if not isinstance(self._base, LayerExplainer):
            raise TypeError(f"base_method must be a class that explains layers, got {base_method.__name__}")
        self.derivative = self._base.derivative

    def tap(self) -> Tap:
        return self._base.tap()

    def graph_tap(self) -> GraphTap:
        return self._base.graph_tap()

    def maps(self, tap: Tap, chosen: Chosen, inputs: Inputs) -> list[LayerMap]:
        return self._base.maps(tap, chosen, inputs)

    def combine(self, maps: Sequence[LayerMap], size: tuple[int, ...], normalize: bool) -> Tensor:
        return self._base.combine(maps, size, normalize)


class FinerCAM(OnePassComposite):
    """Finer-CAM: explains how a class differs from those of the nearest scores (Zhang 2025, https://arxiv.org/abs/2501.11309).

    The score explained is ``sum_k p_k (y_n - alpha * y_k) / (sum_k p_k + 1e-9)``, for class n, the classes k at the
    places ``comparisons`` in the order of nearness of their scores (1 is the nearest), and the softmax probabilities p.

    Args:
        base_method: a class that explains by gradients.
        alpha: strength of the contrast, 0 for none.
        comparisons: places, from 1; those beyond the number of classes are left out.

    Targets must be classes. Raises ``ValueError`` for a model of one class.
    """

    name: ClassVar[str] = "finer_cam"

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = None,
        *,
        base_method: type[Explainer] = GradCAM,
        alpha: float = 1.0,
        comparisons: Sequence[int] = (1, 2, 3),
        **options: Unpack[CompositeOptions],
    ) -> None:
        super().__init__(model, layers, base_method=base_method, **options)
        if not base_method.uses_gradients:
            raise TypeError(f"base_method must be a class that explains by gradients, got {base_method.__name__}")
        if len(comparisons) == 0 or any(not isinstance(place, int) or place < 1 for place in comparisons):
            raise ValueError(f"comparisons must be places from 1, got {comparisons!r}")
        self.alpha, self.comparisons = float(alpha), tuple(comparisons)

    def maps(self, tap: Tap, chosen: Chosen, inputs: Inputs) -> list[LayerMap]:
        if not isinstance(chosen.targets, Tensor):
            raise TypeError("FinerCAM contrasts classes, got target callables")
        ids = chosen.targets if chosen.targets.ndim == 2 else chosen.targets.unsqueeze(1)
        with torch.enable_grad():
            contrasts = self._contrasts(chosen.scores, ids)  # [N, K]
        # The contrasts take the place of scores: target k of an image is its k-th contrast.
        places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        return super().maps(tap, Chosen(places.reshape(chosen.targets.shape), contrasts), inputs)

    def _contrasts(self, scores: Tensor, ids: Tensor) -> Tensor:
        """``[N, K]`` for the scores ``[N, classes, ...]`` and classes ``[N, K]``."""
        if scores.ndim > 2:
            scores = scores.flatten(2).mean(2)
        places = [place for place in self.comparisons if scores.ndim == 2 and place < scores.shape[1]]
        if not places:
            raise ValueError(
                f"FinerCAM needs scores [N, classes] with a class to compare with, got {list(scores.shape)}"
            )
        own = scores.gather(1, ids).unsqueeze(2)  # [N, K, 1]
        distance = (scores.detach().unsqueeze(1) - own.detach()).abs()
        distance.scatter_(2, ids.unsqueeze(2), -1)  # the class itself comes first, whatever ties there are
        near = distance.argsort(dim=2, stable=True)[:, :, places]  # [N, K, places]
        exact = wide(scores)
        probabilities = exact.softmax(1).unsqueeze(1).expand(-1, ids.shape[1], -1).gather(2, near)
        others = exact.unsqueeze(1).expand(-1, ids.shape[1], -1).gather(2, near)
        differences = own.to(exact.dtype) - self.alpha * others
        return (probabilities * differences).sum(2) / (probabilities.sum(2) + 1e-9)


finer_cam = register(FinerCAM)


class RefineCAM(OnePassComposite):
    """Refine-CAM: the product of the heatmaps of several layers, which takes noise out of the early ones (https://arxiv.org/abs/2605.14641).

    ``base_method`` makes each layer's heatmap, in [0, 1] at the output's size. With ``normalize=False`` their product
    is returned as it is; by default it is scaled to [0, 1].
    """

    name: ClassVar[str] = "refine_cam"

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = None,
        *,
        base_method: type[Explainer] = GradCAMPlusPlus,
        **options: Unpack[CompositeOptions],
    ) -> None:
        super().__init__(model, layers, base_method=base_method, **options)

    def combine(self, maps: Sequence[LayerMap], size: tuple[int, ...], normalize: bool) -> Tensor:
        product = torch.stack([self._base.combine([layer], size, True) for layer in maps]).prod(0)
        return ops.resize_normalize(product, size) if normalize else product


refine_cam = register(RefineCAM)
