"""SESS, by camfast's engine, over any method of this package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ... import methods
from ...methods import Explainer, Explanation
from ...methods.chosen import Chosen
from ...model.inputs import Inputs
from ...model.untouched import quiet
from .grad_cam import GradCAM
from .utils.model_targets import ClassifierOutputTarget

__all__ = ["SESS", "sliding_window", "window_starts"]


class SESS:
    """:class:`camfast.SESS` with pytorch-grad-cam's interface. ``kwargs`` are those of ``base_method``.

    A subclass may override its steps.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
        base_method: Any = GradCAM,
        scales: Sequence[int] | None = None,
        num_scales: int = 12,
        scale_step_ratio: float = 2 / 7,
        window_size: int | None = None,
        step_size: int | None = None,
        pre_filter_ratio: float = 0.0,
        theta: float = 0.0,
        pool: str = "mean",
        smooth: bool = True,
        use_softmax_scores: bool = True,
        batch_size: int = 32,
        **kwargs: Any,
    ) -> None:
        if pool not in ("mean", "max"):
            raise ValueError(f"pool must be 'mean' or 'max', got {pool!r}")
        if not 0 <= pre_filter_ratio < 1:
            raise ValueError(f"pre_filter_ratio must be from 0 to below 1, got {pre_filter_ratio!r}")
        if num_scales < 1:
            raise ValueError(f"num_scales must be at least 1, got {num_scales!r}")
        self.base_cam = base_method(model, target_layers, reshape_transform, **kwargs)
        self.model = self.base_cam.model
        self.device = self.base_cam.device
        self.scales = scales
        self.num_scales = num_scales
        self.scale_step_ratio = scale_step_ratio
        self.window_size = window_size
        self.step_size = step_size
        self.pre_filter_ratio = pre_filter_ratio
        self.theta = theta
        self.pool = pool
        self.smooth = smooth
        self.use_softmax_scores = use_softmax_scores
        self.batch_size = batch_size

    def __call__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        return self.forward(*args, **kwargs)

    def forward(self, input_tensor: Tensor, targets: Any = None, eigen_smooth: bool = False) -> np.ndarray:
        """Maps ``[N, H, W]`` from 0 to 1."""
        each = [None] * len(input_tensor) if targets is None else list(targets)
        if len(each) != len(input_tensor):
            raise ValueError(f"targets must be one an image, {len(input_tensor)}, got {len(each)}")
        maps = [
            self.forward_single_image(image[None], target, eigen_smooth)
            for image, target in zip(input_tensor, each, strict=True)
        ]
        return np.asarray(maps, np.float32)

    def forward_single_image(self, input_tensor: Tensor, target: Any, eigen_smooth: bool = False) -> np.ndarray:
        """The map ``[H, W]`` of one image ``[1, C, H, W]``."""
        input_tensor = input_tensor.to(self.device)
        target = self.get_target(input_tensor) if target is None else target
        heatmap = _EngineWithSteps(self, eigen_smooth)(input_tensor, [target]).heatmap
        return heatmap[0].float().cpu().numpy()

    def get_scales(self, window_size: int) -> list[int]:
        """Lengths of the shorter side, the image's at each scale."""
        return list(_Engine(self).scales_for(window_size))

    def collect_patches(
        self, input_tensor: Tensor, window_size: int, step_size: int
    ) -> tuple[list[Tensor], list[tuple[int, int, int, int]]]:
        """Windows of the image at all scales, and for each ``(x, y, scaled width, scaled height)``."""
        engine = _Engine(self)
        engine.scales = self.get_scales(window_size)
        return engine.patches(input_tensor, window_size, step_size)

    def get_target(self, input_tensor: Tensor) -> Any:
        """The class of the highest score."""
        with quiet(self.model), torch.no_grad():
            return ClassifierOutputTarget(int(self.model(input_tensor)[0].argmax()))

    def get_scores(self, patches: Sequence[Tensor], target: Any) -> np.ndarray:
        """What the target makes of each window, not negative: ``[windows]``."""
        chosen = Chosen([target], patches[0].new_zeros(1, 1))
        return _Engine(self).window_scores(list(patches), Inputs.of(patches[0]), chosen, 0).cpu().numpy()

    def paste_cam(
        self, cam: np.ndarray, coordinates: tuple[int, int, int, int], target_size: tuple[int, int]
    ) -> np.ndarray:
        """A window's map in its place: ``[H, W]``, the ``target_size``."""
        return _Engine(self).pasted(torch.from_numpy(cam), coordinates, target_size).numpy()

    def __enter__(self) -> SESS:
        return self

    def __exit__(self, exc_type: Any, exc_value: Any, exc_tb: Any) -> bool | None:
        return self.base_cam.__exit__(exc_type, exc_value, exc_tb)

    def __del__(self) -> None:
        if "base_cam" in self.__dict__:
            self.base_cam.activations_and_grads.release()


def sliding_window(height: int, width: int, step_size: int, window_size: int) -> list[tuple[int, int]]:
    """The upper left corners ``(x, y)`` of windows over an image; the last ones are moved back into it."""
    columns, rows = window_starts(width, step_size, window_size), window_starts(height, step_size, window_size)
    return [(x, y) for y in rows for x in columns]


def window_starts(length: int, step_size: int, window_size: int) -> list[int]:
    """Where windows start along one side; with steps wider than a window the border may be left out."""
    starts = [min(start, max(length - window_size, 0)) for start in range(0, length, step_size)]
    return list(dict.fromkeys(starts))


class _Engine(methods.SESS):
    """The engine's method, with the original's windows."""

    def __init__(self, adapter: SESS, eigen_smooth: bool = False) -> None:
        super().__init__(
            adapter.model,
            base_method=_Base,
            base_options={"cam": adapter.base_cam, "eigen_smooth": eigen_smooth},
            scales=adapter.scales,
            num_scales=adapter.num_scales,
            scale_step_ratio=adapter.scale_step_ratio,
            window_size=adapter.window_size,
            step_size=adapter.step_size,
            pre_filter_ratio=adapter.pre_filter_ratio,
            theta=adapter.theta,
            pool=adapter.pool,  # type: ignore[arg-type]
            smooth=adapter.smooth,
            use_softmax=adapter.use_softmax_scores,
            batch_size=adapter.batch_size,
        )
        self.adapter = adapter

    def prepare(self, images: Any, targets: Any = None) -> Inputs:
        return Inputs.of(images)  # the adapted method knows its layers

    def starts(self, length: int, step: int, side: int) -> list[int]:
        return window_starts(length, step, side)


class _EngineWithSteps(_Engine):
    """The same, with the steps that a subclass of the adapter has overridden; the adapter's own come from ``_Engine``."""

    def _overridden(self, *steps: str) -> bool:
        return any(getattr(type(self.adapter), step) is not getattr(SESS, step) for step in steps)

    def patches(self, image: Tensor, side: int, step: int) -> tuple[list[Tensor], list[tuple[int, int, int, int]]]:
        if not self._overridden("get_scales", "collect_patches"):
            return super().patches(image, side, step)
        return self.adapter.collect_patches(image, side, step)

    def pasted(self, heat: Tensor, place: tuple[int, int, int, int], size: tuple[int, int]) -> Tensor:
        if not self._overridden("paste_cam"):
            return super().pasted(heat, place, size)
        return torch.from_numpy(self.adapter.paste_cam(heat.cpu().numpy(), place, size)).to(heat)

    def window_scores(self, patches: list[Tensor], inputs: Inputs, chosen: Chosen, index: int) -> Tensor:
        if not self._overridden("get_scores"):
            return super().window_scores(patches, inputs, chosen, index)
        return torch.as_tensor(self.adapter.get_scores(patches, chosen.targets[index])).to(inputs.image.device)

    def weights(self, windows: Inputs, result: Explanation, chosen: Chosen, index: int) -> Tensor:
        if not self._overridden("get_scores"):
            return super().weights(windows, result, chosen, index)
        return self.window_scores(list(windows.image.split(1)), windows, chosen, index)


class _Base(Explainer):
    """A method of this package as one of the engine's."""

    name: ClassVar[str] = "adapted"

    def __init__(self, model: nn.Module, *, cam: Any, eigen_smooth: bool = False, **options: Any) -> None:
        super().__init__(model)
        self.cam, self.cam_smooth = cam, eigen_smooth

    def __call__(  # type: ignore[override]
        self, images: Any, targets: Any = None, size: Any = None, normalize: Any = True
    ) -> Explanation:
        inputs = Inputs.of(images)
        heatmap = self.cam(inputs.image, targets, eigen_smooth=self.cam_smooth)
        return Explanation(
            heatmap=torch.from_numpy(heatmap).to(inputs.image.device),
            scores=self.cam.outputs,
            targets=targets,
            layers=[],
            method=self.name,
        )
