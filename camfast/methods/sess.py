"""SESS: another method's maps of patches at many scales, weighed by their scores and pasted back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..model.inputs import Images, Inputs
from ..model.precision import wide
from ..model.untouched import quiet
from ..targets import Targets
from .chosen import Chosen, choose, scores_for
from .composite import CompositeExplainer, CompositeOptions
from .differentiable import check_differentiable
from .explainer import Explainer, Layers
from .explanation import Explanation
from .gradient import GradCAM
from .layer_map import LayerMaps, SummedMap
from .registry import register
from .scoring import counted

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["SESS", "sess"]

_BLUR_SIDE, _BLUR_SIGMA = 11, 5.0

Place = tuple[int, int, int, int]  # left, top, and the width and height of the scaled image


class SESS(CompositeExplainer):
    """SESS: maps of patches from the image at growing scales, each times its score, averaged where they lie (Tursun 2022, https://arxiv.org/abs/2207.01769).

    Finds small and repeated objects that one pass over the whole image misses. As in pytorch-grad-cam: the image is
    resized to ``num_scales`` scales, its shorter side growing from ``window_size`` by ``scale_step_ratio`` of it; windows
    slide over each in steps of ``step_size``; a window's map by ``base_method`` is multiplied by its score over that of
    the best window; a pixel's value is the mean over the windows that cover it; a Gaussian blur of 11 pixels (standard
    deviation 5) and min-max end it. Where no window is dropped, its score comes from the pass that makes its map.

    Args:
        base_method: a class that makes the maps, with the layers and options of this one and ``base_options``.
        scales: lengths of the shorter side, instead of ``num_scales`` and ``scale_step_ratio``.
        window_size: side of a window; None takes the shorter side of the image.
        step_size: None takes the window's side. At the border a window is moved back into the image.
        pre_filter_ratio: share of the windows, those of the least scores, that is left out.
        theta: values not above it take no part in the mean.
        pool: ``"mean"`` or ``"max"`` over the windows.
        smooth: blur the result.
        use_softmax: a target's score is taken from the softmax of the scores (a callable is given these), else from the
            scores themselves. Negative ones count as 0.
        batch_size: windows a pass.

    Images must be pictures ``[N, C, H, W]``. ``size="map"`` is that of the images. Raises ``ValueError`` for a scale
    below the window.
    """

    name: ClassVar[str] = "sess"
    smoothing: ClassVar[tuple[str, ...]] = ("eigen_smooth",)  # of the base method, which may have aug_smooth too

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = None,
        *,
        base_method: type[Explainer] = GradCAM,
        scales: Sequence[int] | None = None,
        num_scales: int = 12,
        scale_step_ratio: float = 2 / 7,
        window_size: int | None = None,
        step_size: int | None = None,
        pre_filter_ratio: float = 0.0,
        theta: float = 0.0,
        pool: Literal["mean", "max"] = "mean",
        smooth: bool = True,
        use_softmax: bool = True,
        batch_size: int = 32,
        **options: Unpack[CompositeOptions],
    ) -> None:
        super().__init__(model, layers, base_method=base_method, **options)
        if pool not in ("mean", "max"):
            raise ValueError(f"pool must be 'mean' or 'max', got {pool!r}")
        if not 0 <= pre_filter_ratio < 1:
            raise ValueError(f"pre_filter_ratio must be from 0 to below 1, got {pre_filter_ratio!r}")
        if scales is not None and (len(scales) == 0 or any(not isinstance(s, int) or s < 1 for s in scales)):
            raise ValueError(f"scales must be positive ints, got {scales!r}")
        if not scale_step_ratio >= 0:
            raise ValueError(f"scale_step_ratio must not be negative, got {scale_step_ratio!r}")
        self.scales = scales
        self.num_scales = counted(num_scales, "num_scales") or 1
        self.scale_step_ratio = scale_step_ratio
        self.window_size = counted(window_size, "window_size")
        self.step_size = counted(step_size, "step_size")
        self.pre_filter_ratio = pre_filter_ratio
        self.theta = theta
        self.pool = pool
        self.smooth = smooth
        self.use_softmax = use_softmax
        self.batch_size = counted(batch_size, "batch_size") or 1

    def layer_maps(self, images: Images, targets: Targets = None, *, differentiable: bool = False) -> LayerMaps:
        """One map for all layers, of the images' size; it is not negative."""
        if differentiable:
            check_differentiable(self)
        inputs = self.prepare(images)
        if inputs.image.ndim != 4:
            raise ValueError(f"SESS explains pictures [N, C, H, W], got images {list(inputs.image.shape)}")
        with quiet(self.model, self.eval_mode), torch.no_grad():
            cut = inputs.cut()
            output = self.model(*cut.args, **cut.kwargs)
            scores = scores_for(targets, output, inputs.batch)
        chosen = choose(targets, scores, self.class_names, output, self.classes(inputs))
        maps = torch.stack([self._enhanced(inputs.one(i), chosen, i) for i in range(inputs.batch)])  # [N, (K,) H, W]
        return LayerMaps(inputs, chosen, [SummedMap.of(inputs.image, maps)])

    def _enhanced(self, inputs: Inputs, chosen: Chosen, index: int) -> Tensor:
        """``[H, W]``, or ``[K, H, W]``, of image ``index`` of the call, the only one of ``inputs``."""
        if chosen.per_image is not None and self.pre_filter_ratio > 0:  # each target drops windows of its own
            each = [chosen.column(k) for k in range(chosen.per_image)]
            return torch.stack([self._enhanced(inputs, one, index) for one in each])
        image = inputs.image.detach()
        height, width = image.shape[2:]
        side = self.window_size or min(height, width)
        patches, places = self.patches(image, side, self.step_size or side)
        kept = list(range(len(patches)))
        if self.pre_filter_ratio > 0:
            weights = self.window_scores(patches, inputs, chosen, index)
            order = weights.argsort()[int(len(patches) * self.pre_filter_ratio) :]
            kept = order.tolist()
        found, weighed = [], []
        for start in range(0, len(kept), self.batch_size):
            batch = inputs.with_image(torch.cat([patches[i] for i in kept[start : start + self.batch_size]]))
            result = self._base(batch, _repeated(chosen, index, batch.batch))  # type: ignore[arg-type]
            found.append(result.heatmap)
            weighed.append(self.weights(batch, result, chosen, index))
        weights = torch.cat(weighed)  # [windows, (K)]
        best = weights.amax(0)
        weights = torch.where(best > 0, weights / best, 1)
        heat = torch.cat(found) * weights[..., None, None]
        total = heat.new_zeros(*heat.shape[1:-2], height, width)
        count = torch.zeros_like(total)
        for own, i in zip(heat, kept, strict=True):
            pasted = self.pasted(own, places[i], (height, width))
            if self.pool == "max":
                total = torch.maximum(total, pasted)
            else:
                above = ~(pasted <= self.theta)  # NaN stays
                total += torch.where(above, pasted, 0)
                count += above
        if self.pool == "mean":
            total = torch.where(count > 0, total / count, 0)
        return _blurred(total) if self.smooth else total

    def scales_for(self, side: int) -> Sequence[int]:
        """Lengths of the image's shorter side, for windows of ``side``."""
        growth = round(side * self.scale_step_ratio)
        return self.scales if self.scales is not None else [side + growth * i for i in range(self.num_scales)]

    def patches(self, image: Tensor, side: int, step: int) -> tuple[list[Tensor], list[Place]]:
        """Windows ``[N, C, side, side]`` of images ``[N, C, H, W]`` at all scales, and where each lies."""
        shorter = min(image.shape[2:])
        patches, places = [], []
        for scale in self.scales_for(side):
            if scale < side:
                raise ValueError(f"every scale must be at least the window's side, {side}, got {scale}")
            height, width = (scale if n == shorter else int(scale * n / shorter) for n in image.shape[2:])
            scaled = _rescaled(image, (height, width))
            for top in self.starts(height, step, side):
                for left in self.starts(width, step, side):
                    patches.append(scaled[:, :, top : top + side, left : left + side])
                    places.append((left, top, width, height))
        return patches, places

    def starts(self, length: int, step: int, side: int) -> list[int]:
        """Where windows start along one side; the last one is moved back into the image."""
        inside = range(0, max(length - side, 0), step)
        return [*inside, max(length - side, 0)]

    def pasted(self, heat: Tensor, place: Place, size: tuple[int, int]) -> Tensor:
        """A window's map ``[..., h, w]`` where it lies in the scaled image, resized to the image itself."""
        left, top, width, height = place
        scaled = heat.new_zeros(*heat.shape[:-2], height, width)
        scaled[..., top : top + heat.shape[-2], left : left + heat.shape[-1]] = heat
        return ops.resize_normalize(scaled, size, normalize=False)

    def weights(self, windows: Inputs, result: Explanation, chosen: Chosen, index: int) -> Tensor:
        """Of windows that have been explained, as :meth:`window_scores` gives them, without a further pass."""
        return self._weights(result.scores, windows.batch, chosen, index)

    def window_scores(self, patches: list[Tensor], inputs: Inputs, chosen: Chosen, index: int) -> Tensor:
        """Scores of windows ``[1, C, side, side]`` of image ``index``: ``[windows]``, or ``[windows, K]``."""
        found = []
        with quiet(self.model, self.eval_mode), torch.no_grad():
            for start in range(0, len(patches), self.batch_size):
                call = inputs.with_image(torch.cat(patches[start : start + self.batch_size])).cut()
                output = self.model(*call.args, **call.kwargs)
                found.append(self._weights(output, call.batch, chosen, index))
        return torch.cat(found)

    def _weights(self, output: Any, windows: int, chosen: Chosen, index: int) -> Tensor:
        """Of windows of image ``index``, ``[windows]`` or ``[windows, K]``, not negative."""
        if self.use_softmax:
            output = chosen.softmax(output, windows, callables=True)
        return chosen.values(index, output, windows).clamp(min=0)


sess = register(SESS)


def _rescaled(image: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(image.shape[2:]) == size:
        return image
    return F.interpolate(wide(image), size, mode="bilinear", antialias=True).to(image.dtype)


def _repeated(chosen: Chosen, index: int, count: int) -> Any:
    """The targets of one image for ``count`` of its windows."""
    own = chosen.targets[index]
    return own.expand(count, *own.shape) if isinstance(own, Tensor) else [own] * count


def _blurred(maps: Tensor) -> Tensor:
    """Gaussian blur of ``[..., H, W]``; the border mirrors the pixels inside it, the outermost one not repeated."""
    places = torch.arange(_BLUR_SIDE, dtype=torch.float64) - _BLUR_SIDE // 2
    kernel = (-(places**2) / (2 * _BLUR_SIGMA**2)).exp()
    kernel = (kernel / kernel.sum()).to(maps)
    for dim in (-1, -2):
        n = maps.shape[dim]
        index = torch.arange(-(_BLUR_SIDE // 2), n + _BLUR_SIDE // 2, device=maps.device)
        period = max(2 * n - 2, 1)
        index = index.remainder(period)
        index = torch.minimum(index, period - index).clamp(0, n - 1)
        windows = maps.index_select(dim, index).unfold(dim, _BLUR_SIDE, 1)
        maps = windows @ kernel
    return maps
