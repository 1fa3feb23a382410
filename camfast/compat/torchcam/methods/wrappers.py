"""Extractors around another: maps of layers multiplied, and what sets a class apart from others."""

from __future__ import annotations

import math
import operator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ._gradients import GradCAM, GradCAMpp, LayerCAM
from .core import _CAM, OutputTarget, _check_cams, _resized, _shared_shape

__all__ = ["FinerCAM", "RefineCAM", "_CAMWrapper"]

Self = TypeVar("Self", bound="_CAMWrapper")


def _handed_on(name: str, meaning: str) -> Any:
    """A method that calls ``base_cam``'s of the same name."""

    def method(self: _CAMWrapper) -> Any:
        return getattr(self.base_cam, name)()

    method.__name__, method.__doc__ = name, meaning
    return method


class _CAMWrapper:
    """Hands everything about hooks on to ``base_cam``."""

    model = property(operator.attrgetter("base_cam.model"), doc="The model explained.")
    target_names = property(operator.attrgetter("base_cam.target_names"), doc="Names of the layers.")

    enable_hooks = _handed_on("enable_hooks", "Record passes.")
    disable_hooks = _handed_on("disable_hooks", "Let passes go by.")
    reset_hooks = _handed_on("reset_hooks", "Forget what was recorded.")
    remove_hooks = _handed_on("remove_hooks", "Take the hooks off the model.")
    _hooks_off = _handed_on("_hooks_off", "Let passes inside ``with`` go by.")

    def __init__(self, base_cam: _CAM) -> None:
        self.base_cam = base_cam

    def __enter__(self: Self) -> Self:
        self.base_cam.__enter__()
        return self

    def __exit__(self, exct_type: Any, exce_value: Any, traceback: Any) -> None:
        self.base_cam.__exit__(exct_type, exce_value, traceback)


class RefineCAM(_CAMWrapper):
    """RefineCAM (2026, https://arxiv.org/abs/2605.14641): the product of several layers' maps, scaled to [0, 1] again."""

    def __init__(
        self,
        model: nn.Module,
        target_layer: list[nn.Module | str],
        input_shape: tuple[int, ...] = (3, 224, 224),
        *,
        base_method: type[_CAM] = GradCAMpp,
        **base_kwargs: Any,
    ) -> None:
        if not isinstance(target_layer, list) or len(target_layer) < 2:
            raise ValueError(f"RefineCAM requires at least two target layers, in a list, got {target_layer!r}")
        if not isinstance(base_method, type) or not issubclass(base_method, _CAM):
            raise TypeError(f"base_method must be a CAM extractor class, got {base_method!r}")
        super().__init__(base_method(model, target_layer, input_shape=input_shape, **base_kwargs))

    def __call__(
        self,
        class_idx: int | list[int] | None = None,
        scores: Any = None,
        normalized: bool = True,
        target_shape: tuple[int, ...] | None = None,
        *,
        targets: OutputTarget | list[OutputTarget] | None = None,
        **kwargs: Any,
    ) -> list[Tensor]:
        """One map ``[N, *target_shape]``, the largest layer's shape where none is asked for."""
        maps = self.base_cam(class_idx, scores, targets=targets, **kwargs)
        return [self.fuse_cams(maps, target_shape, normalized)]

    def compute_cams(
        self,
        class_idx: int | list[int] | None = None,
        scores: Any = None,
        normalized: bool = True,
        target_shape: tuple[int, ...] | None = None,
        *,
        targets: OutputTarget | list[OutputTarget] | None = None,
        **kwargs: Any,
    ) -> list[Tensor]:
        """The same without checks."""
        maps = self.base_cam.compute_cams(class_idx, scores, targets=targets, **kwargs)
        return [self.fuse_cams(maps, target_shape, normalized)]

    @staticmethod
    @torch.no_grad()
    def fuse_cams(cams: list[Tensor], target_shape: tuple[int, ...] | None = None, normalized: bool = True) -> Tensor:
        """Each map scaled to [0, 1] and resized, then their product."""
        _check_cams(cams)
        shape = _shared_shape(cams, target_shape)
        product = torch.stack([_resized(_CAM._normalize(cam.clone()), shape) for cam in cams]).prod(0)
        return _CAM._normalize(product) if normalized else product

    def __repr__(self) -> str:
        return f"RefineCAM(base_method={type(self.base_cam).__name__}, target_layer={self.target_names})"


class FinerCAM(_CAMWrapper):
    """Finer-CAM (Zhang 2025, https://arxiv.org/abs/2501.11309): the score minus ``gamma`` times the mean of similar classes'.

    Args:
        base_method: GradCAM, GradCAMpp or LayerCAM.
        num_references: how many classes of the nearest scores are compared with, where none are named.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str] | None = None,
        input_shape: tuple[int, ...] = (3, 224, 224),
        *,
        base_method: type[GradCAM] | type[GradCAMpp] | type[LayerCAM] = GradCAM,
        gamma: float = 0.6,
        num_references: int = 3,
        **base_kwargs: Any,
    ) -> None:
        if base_method not in (GradCAM, GradCAMpp, LayerCAM):
            raise TypeError(f"base_method must be GradCAM, GradCAMpp, or LayerCAM, got {base_method!r}")
        if isinstance(gamma, bool) or not isinstance(gamma, (int, float)):
            raise TypeError(f"gamma must be a real number, got {gamma!r}")
        if not math.isfinite(gamma) or gamma < 0:
            raise ValueError(f"gamma must be finite and non-negative, got {gamma!r}")
        if not _is_int(num_references):
            raise TypeError(f"num_references must be an integer, got {num_references!r}")
        if num_references < 1:
            raise ValueError(f"num_references must be positive, got {num_references}")
        self.gamma, self.num_references = float(gamma), num_references
        super().__init__(base_method(model, target_layer, input_shape=input_shape, **base_kwargs))

    def __call__(
        self,
        class_idx: int | list[int],
        scores: Tensor | None = None,
        comparison_idx: int | list[int] | list[list[int]] | None = None,
        normalized: bool = True,
        **kwargs: Any,
    ) -> list[Tensor]:
        """Maps ``[N, *map]`` of each layer; ``comparison_idx`` names the classes to compare with, of all or each sample."""
        contrast = self._contrast(class_idx, scores, comparison_idx, kwargs)
        return self.base_cam([0] * len(contrast), contrast, normalized, **kwargs)

    def compute_cams(
        self,
        class_idx: int | list[int],
        scores: Tensor | None = None,
        comparison_idx: int | list[int] | list[list[int]] | None = None,
        normalized: bool = True,
        **kwargs: Any,
    ) -> list[Tensor]:
        """The same without the base's checks."""
        contrast = self._contrast(class_idx, scores, comparison_idx, kwargs)
        return self.base_cam.compute_cams([0] * len(contrast), contrast, normalized, **kwargs)

    def fuse_cams(self, cams: list[Tensor], target_shape: tuple[int, ...] | None = None) -> Tensor:
        """As the base does."""
        return self.base_cam.fuse_cams(cams, target_shape)

    def _contrast(self, class_idx: Any, scores: Any, comparison_idx: Any, options: dict[str, Any]) -> Tensor:
        """What is explained, ``[N, 1]``: the only class of these scores."""
        if options.get("targets") is not None:
            raise ValueError("FinerCAM does not support arbitrary output targets")
        return self._contrastive_scores(class_idx, scores, comparison_idx)

    def _contrastive_scores(self, class_idx: Any, scores: Any, comparison_idx: Any) -> Tensor:
        if scores is None:
            raise ValueError("model output scores is required to compute FinerCAM")
        if not isinstance(scores, Tensor):
            raise TypeError(f"scores must be a tensor, got {type(scores).__name__}")
        if scores.ndim != 2 or not len(scores):
            raise ValueError(f"scores must have shape (batch_size, num_classes), got {list(scores.shape)}")
        if scores.shape[1] < 2:
            raise ValueError("FinerCAM requires at least one comparison class, got scores of one class")
        classes, own = self._target_indices(class_idx, scores)
        others = self._reference_indices(comparison_idx, scores, classes, own)
        return scores.gather(1, own) - self.gamma * scores.gather(1, others).mean(1, keepdim=True)

    @staticmethod
    def _target_indices(class_idx: Any, scores: Tensor) -> tuple[list[int], Tensor]:
        """One class a sample, as a list and as a tensor ``[N, 1]``."""
        classes = _classes(class_idx, scores)
        return classes, torch.tensor(classes, device=scores.device).view(-1, 1)

    @staticmethod
    def _explicit_reference_rows(comparison_idx: Any, batch_size: int) -> list[list[int]]:
        """A row of classes for each sample, all of one length."""
        return _rows(comparison_idx, batch_size)

    def _reference_indices(
        self, comparison_idx: Any, scores: Tensor, targets: list[int], target_indices: Tensor
    ) -> Tensor:
        """The classes to compare with, ``[N, R]``."""
        if comparison_idx is None:
            fixed = scores.detach()
            distance = (fixed - fixed.gather(1, target_indices)).abs().scatter(1, target_indices, math.inf)
            return distance.topk(min(self.num_references, scores.shape[1] - 1), largest=False).indices
        rows = self._explicit_reference_rows(comparison_idx, len(scores))
        _check_rows(rows, targets, scores.shape[1])
        return torch.tensor(rows, device=scores.device)

    def __repr__(self) -> str:
        return (
            f"FinerCAM(base_method={type(self.base_cam).__name__}, target_layer={self.target_names}, "
            f"gamma={self.gamma}, num_references={self.num_references})"
        )


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _classes(class_idx: Any, scores: Tensor) -> list[int]:
    """One class a sample."""
    batch, count = scores.shape
    classes = [class_idx] * batch if _is_int(class_idx) else class_idx
    if not isinstance(classes, list):
        raise TypeError(f"class_idx must be an integer or a list of integers, got {type(class_idx).__name__}")
    if len(classes) != batch:
        raise ValueError(
            f"expected batch size and length of `class_idx` to be the same, got {batch} and {len(classes)}"
        )
    if not all(map(_is_int, classes)):
        raise TypeError(f"class_idx must contain integers, got {classes}")
    if not all(0 <= idx < count for idx in classes):
        raise ValueError(f"class_idx contains an out-of-range index: expected less than {count}, got {classes}")
    return classes


def _rows(comparison_idx: Any, batch: int) -> list[list[int]]:
    if _is_int(comparison_idx):
        return [[comparison_idx]] * batch
    if not isinstance(comparison_idx, list):
        raise TypeError(
            f"comparison_idx must be an integer, a list, or a nested list, got {type(comparison_idx).__name__}"
        )
    if not comparison_idx:
        raise ValueError("comparison_idx cannot be empty")
    if all(map(_is_int, comparison_idx)):
        return [comparison_idx] * batch
    if not all(isinstance(row, list) for row in comparison_idx):
        raise TypeError(f"comparison_idx must contain integers or lists of integers, got {comparison_idx}")
    if len(comparison_idx) != batch:
        raise ValueError(f"per-sample comparison_idx must match the batch size, {batch}, got {len(comparison_idx)}")
    if not all(comparison_idx):
        raise ValueError("comparison_idx rows cannot be empty")
    if len({len(row) for row in comparison_idx}) != 1:
        raise ValueError("per-sample comparison_idx rows must have equal lengths")
    return comparison_idx


def _check_rows(rows: list[list[int]], classes: list[int], count: int) -> None:
    for sample, (own, row) in enumerate(zip(classes, rows, strict=True)):
        if not all(map(_is_int, row)):
            raise TypeError(f"comparison_idx must contain integers, got {row}")
        if not all(0 <= idx < count for idx in row):
            raise ValueError(f"comparison_idx contains an out-of-range index for sample {sample}: {row}")
        if len(set(row)) != len(row):
            raise ValueError(f"comparison_idx contains duplicates for sample {sample}: {row}")
        if own in row:
            raise ValueError(f"comparison_idx contains the target class for sample {sample}: {own}")
