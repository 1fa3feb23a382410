"""How faithful maps are: average drop and increase in confidence, deletion and insertion."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ...metrics.curves import curves, heat_ranks
from ...ops import resize_normalize
from .methods._utils import _model_eval
from .methods.core import OutputTarget, _resolve_targets, _target_scores

__all__ = ["ClassificationMetric", "DeletionInsertionMetric"]


class _CAMExtractor(Protocol):
    """What the metrics need of an extractor."""

    @property
    def model(self) -> torch.nn.Module: ...

    def __call__(
        self,
        class_idx: int | list[int] | None = None,
        scores: Any = None,
        normalized: bool = True,
        *,
        targets: OutputTarget | list[OutputTarget] | None = None,
        **kwargs: Any,
    ) -> list[Tensor]: ...

    def fuse_cams(self, cams: list[Tensor]) -> Tensor: ...

    def _hooks_off(self) -> AbstractContextManager[None]: ...


def _get_scores(cam_extractor: _CAMExtractor, logits_fn: Callable[[Any], Any] | None, input_tensor: Tensor) -> Any:
    output = cam_extractor.model(input_tensor)
    return output if logits_fn is None else logits_fn(output)


def _resolve_class_idx(scores: Tensor, class_idx: int | list[int] | None) -> tuple[int | list[int], Tensor]:
    """The classes as an extractor takes them, and as a tensor ``[N]``."""
    batch, count = scores.shape
    if class_idx is None:
        class_idx = scores.detach().argmax(1).tolist()
    if isinstance(class_idx, int):  # a bool too, as in torchcam
        each = [class_idx] * batch
    elif isinstance(class_idx, list) and all(isinstance(idx, int) and not isinstance(idx, bool) for idx in class_idx):
        each = class_idx
    else:
        raise TypeError(f"class_idx must be an integer, a list of integers, or None, got {class_idx!r}")
    if len(each) != batch:
        raise ValueError(f"per-sample class_idx must match the batch size, {batch}, got {len(each)}")
    if not all(0 <= idx < count for idx in each):
        raise ValueError(f"class_idx is out of range: expected 0 to {count - 1}, got {class_idx}")
    return class_idx, torch.tensor(each, device=scores.device, dtype=torch.long)


def _get_cam(
    cam_extractor: _CAMExtractor,
    scores: Any,
    class_idx: int | list[int] | None,
    targets: OutputTarget | list[OutputTarget] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The fused map ``[N, *map]``, and the classes it explains, if it explains classes."""
    if targets is not None:
        return cam_extractor.fuse_cams(cam_extractor(scores=scores, targets=targets)), None
    class_idx, classes = _resolve_class_idx(scores, class_idx)
    return cam_extractor.fuse_cams(cam_extractor(class_idx, scores)), classes


def _select_scores(scores: Any, target_indices: Tensor | None, targets: list[OutputTarget] | None) -> Tensor:
    """What is explained of each sample, ``[N]``."""
    if targets is not None:
        return _target_scores(scores, targets)
    assert target_indices is not None
    return scores.gather(1, target_indices.unsqueeze(1)).squeeze(1)


def _filter_selection(
    target_indices: Tensor | None, targets: list[OutputTarget] | None, valid: Tensor
) -> tuple[Tensor | None, list[OutputTarget] | None]:
    """Those of the samples that are ``valid``, bool ``[N]``."""
    kept = None if targets is None else [target for target, wanted in zip(targets, valid, strict=True) if wanted]
    return None if target_indices is None else target_indices[valid], kept


def _resize_cam(cam: Tensor, spatial_shape: tuple[int, ...]) -> Tensor:
    if not 1 <= len(spatial_shape) <= 3:
        raise ValueError(f"only 1D, 2D, and 3D spatial inputs are supported, got {len(spatial_shape)} dimensions")
    return resize_normalize(cam, tuple(spatial_shape), normalize=False)


class _Explained(NamedTuple):
    """The samples whose map is known."""

    known: Tensor  # bool [N], of all samples
    images: Tensor
    cam: Tensor  # of the images' size
    scores: Tensor
    classes: Tensor | None
    targets: list[OutputTarget] | None


class _Metric:
    """Mean values over the samples whose maps are known."""

    def __init__(self, cam_extractor: _CAMExtractor, logits_fn: Callable[[Any], Any] | None = None) -> None:
        self.cam_extractor = cam_extractor
        self.logits_fn = logits_fn
        self.reset()

    def reset(self) -> None:
        """Forget all samples."""
        self.total = self.nan_count = 0

    def _score(self, images: Tensor) -> Any:
        return _get_scores(self.cam_extractor, self.logits_fn, images)

    def _explained(
        self, images: Tensor, class_idx: int | list[int] | None, targets: OutputTarget | list[OutputTarget] | None
    ) -> _Explained:
        if class_idx is not None and targets is not None:
            raise ValueError("provide either class_idx or targets, not both")
        output = self._score(images)
        each = None if targets is None else _resolve_targets(targets, images.shape[0])
        cam, classes = _get_cam(self.cam_extractor, output, class_idx, each)
        known = ~cam.isnan().flatten(1).any(1)
        scores = _select_scores(output, classes, each).detach()[known]
        classes, each = _filter_selection(classes, each, known)
        return _Explained(known, images[known], _resize_cam(cam[known], tuple(images.shape[2:])), scores, classes, each)

    def _count(self, known: Tensor) -> None:
        self.total += int(known.sum())
        self.nan_count += int((~known).sum())

    def _check_updated(self) -> None:
        if self.total == 0:
            raise AssertionError("you need to update the metric before getting the summary")


class ClassificationMetric(_Metric):
    """Average drop and increase in confidence, of images times their map (Chattopadhay 2018, section 4).

    Args:
        cam_extractor: makes the maps. logits_fn: what becomes of the model's output before scores are read off.
    """

    def reset(self) -> None:
        """Forget all samples."""
        super().reset()
        self.drop = self.increase = 0.0

    def update(
        self,
        input_tensor: Tensor,
        class_idx: int | list[int] | None = None,
        *,
        targets: OutputTarget | list[OutputTarget] | None = None,
    ) -> None:
        """Take in ``input_tensor`` ``[N, C, *size]``; without classes or targets, each sample's top class."""
        drop = increase = 0.0
        with _model_eval(self.cam_extractor.model):
            found = self._explained(input_tensor, class_idx, targets)
            if found.known.any():
                with self.cam_extractor._hooks_off(), torch.no_grad():
                    masked = self._score(found.images * found.cam.unsqueeze(1))
                    before, after = found.scores, _select_scores(masked, found.classes, found.targets)
                drop = ((before - after).clamp(min=0) / (before + 1e-7)).sum().item()
                increase = (after > before).sum().item()
        self.drop += drop
        self.increase += increase
        self._count(found.known)

    def summary(self) -> dict[str, float]:
        """``avg_drop`` and ``conf_increase``; ``AssertionError`` where nothing was taken in."""
        self._check_updated()
        return {"avg_drop": self.drop / self.total, "conf_increase": self.increase / self.total}


class DeletionInsertionMetric(_Metric):
    """Areas under the score's curves while positions are covered, and shown, the hottest first (Petsiuk 2018).

    Args:
        cam_extractor, logits_fn: as in :class:`ClassificationMetric`.
        steps: how many steps a curve has at most. batch_size: changed images scored at once.
        baseline: what covers a position: a tensor that broadcasts to the input, a callable that makes one of it, or
            None for zeros.
    """

    def __init__(
        self,
        cam_extractor: _CAMExtractor,
        logits_fn: Callable[[Any], Any] | None = None,
        *,
        steps: int = 20,
        baseline: Tensor | Callable[[Tensor], Tensor] | None = None,
        batch_size: int = 32,
    ) -> None:
        for name, value in (("steps", steps), ("batch_size", batch_size)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an integer, got {value!r}")
            if value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
        if baseline is not None and not isinstance(baseline, Tensor) and not callable(baseline):
            raise TypeError(f"baseline must be a tensor, a callable, or None, got {type(baseline).__name__}")
        super().__init__(cam_extractor, logits_fn)
        self.steps, self.baseline, self.batch_size = steps, baseline, batch_size

    def reset(self) -> None:
        """Forget all samples."""
        super().reset()
        self.deletion = self.insertion = 0.0

    def _get_baseline(self, input_tensor: Tensor) -> Tensor:
        if self.baseline is None:
            return torch.zeros_like(input_tensor)
        cover = self.baseline if isinstance(self.baseline, Tensor) else self.baseline(input_tensor)
        if not isinstance(cover, Tensor):
            raise TypeError(f"baseline callable must return a tensor, got {type(cover).__name__}")
        try:
            return cover.detach().to(input_tensor).expand_as(input_tensor)
        except RuntimeError as error:
            raise ValueError(
                f"baseline must be broadcastable to the input shape, {list(input_tensor.shape)}, got {list(cover.shape)}"
            ) from error

    def _compute_curves(
        self,
        input_tensor: Tensor,
        baseline: Tensor,
        ranks: Tensor,
        target_indices: Tensor | None,
        original_scores: Tensor,
        targets: list[OutputTarget] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Shares ``[M]``, deletion and insertion ``[N, M]``; ``ranks`` ``[N, P]`` as ``heat_ranks`` gives them."""

        def score(rows: Tensor, changed: Callable[[Tensor], Tensor]) -> Tensor:
            found = []
            for part in torch.arange(len(rows), device=rows.device).split(self.batch_size):
                own = rows[part]
                classes = None if target_indices is None else target_indices[own]
                wanted = None if targets is None else [targets[i] for i in own]
                found.append(_select_scores(self._score(changed(part)), classes, wanted))
            return torch.cat(found)

        shares, found = curves(score, input_tensor, baseline, ranks, steps=self.steps, own=original_scores)
        return shares, found["deletion"], found["insertion"]

    def update(
        self,
        input_tensor: Tensor,
        class_idx: int | list[int] | None = None,
        *,
        targets: OutputTarget | list[OutputTarget] | None = None,
    ) -> None:
        """As :meth:`ClassificationMetric.update`."""
        deletion = insertion = 0.0
        with _model_eval(self.cam_extractor.model):
            covers = self._get_baseline(input_tensor)
            found = self._explained(input_tensor, class_idx, targets)
            if found.known.any():
                ranks = heat_ranks(found.cam)
                with self.cam_extractor._hooks_off():
                    shares, *both = self._compute_curves(
                        found.images, covers[found.known], ranks, found.classes, found.scores, found.targets
                    )
                deletion, insertion = (torch.trapezoid(scores, shares, dim=1).sum().item() for scores in both)
        self.deletion += deletion
        self.insertion += insertion
        self._count(found.known)

    def summary(self) -> dict[str, float]:
        """``deletion_auc`` and ``insertion_auc``; ``AssertionError`` where nothing was taken in."""
        self._check_updated()
        return {"deletion_auc": self.deletion / self.total, "insertion_auc": self.insertion / self.total}
