"""One step of a detector: frames -> boxes, and the heat of each -> one picture with both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ...detection import DetectionExplainer
from ...detection.inputs import prepared
from ...detection.keep import overlaps
from ...pictures.frames import Box
from .boxes import Found, hottest, named, painted
from .network import fastest_threads
from .settings import Settings
from .state import Explained, StreamState
from .step import Step

__all__ = ["DetectorStep"]

SAME = 0.5  # of their union: from which shared area on boxes of two frames are of one thing


class DetectorStep(Step):
    """What is done with each frame that a detector explains.

    Its maps are one per frame: everywhere the hottest of the boxes' heat, each within reach of its box. Its targets are a
    :class:`Found` per frame.
    """

    detector: DetectionExplainer | None = None  # of the latest settings; None before the first frame

    def __init__(
        self,
        model: nn.Module,
        prepare: Callable[..., Any] | None,
        *,
        side: int | tuple[int, int] | None,
        what: Literal["score", "quality", "mask"],
        top: int,
        class_names: Sequence[str] | Mapping[int, str] | None,
        options: dict[str, Any],
    ) -> None:
        if isinstance(side, tuple):
            raise ValueError(f"input_size of a detector must be an int, the longer side, got {side}")
        self._fixed: dict[str, Any] = {
            "explain": what,
            "prepare": prepare,
            "image_size": side,
            "class_names": class_names,
            **options,
        }
        names = _listed(DetectionExplainer(model, **self._fixed).names)
        given: dict[str, Any] = {"class_names": names, "options": options}
        super().__init__(model, cast(Any, prepare), channels_last=False, compile=False, graph=False, **given)
        self.top = top
        self._levels: list[str] | None = None  # the layers that were found: those of every method
        self.rows.exclusive = False

    def adopt(self, settings: Settings) -> bool:
        explains = (settings.method, settings.layers)
        if explains == self._explains and self.detector is not None:
            return False
        self.detector, self._explains = self._made(settings), explains
        return True

    @property
    def layers(self) -> list[str]:
        return [] if self.detector is None else self.detector.layers

    def choose_threads(self, frames: Tensor) -> int | None:
        if self.threads == "auto":
            inputs = prepared(frames, self.model, self._fixed["prepare"], self._fixed["image_size"]).inputs.cut()
            images: Any = inputs.args[0] if inputs.args else inputs.image
            self.threads = fastest_threads(self.model, images) if self.device.type == "cpu" else None
        return self.threads

    def choose_layout(self, count: int) -> None:
        """The layout is that of the weights."""

    def box(self, height: int, width: int) -> Box:
        return 0, 0, width, height  # heat lies on the frame, wherever the detector has it in its input

    def __call__(self, frames: Tensor, settings: Settings, state: StreamState) -> tuple[Tensor, Tensor, Tensor, Any]:
        explained = self.explain(frames, settings, state)
        return self.draw(frames, explained, settings), *explained

    def explain(self, frames: Tensor, settings: Settings, state: StreamState) -> Explained:
        assert self.detector is not None
        least = max(settings.min_score - settings.sticky, 0.0)
        result = self.detector(frames, _classes(settings), least, self.top, "map")
        found = [Found(*one) for one in zip(result.boxes, result.labels, result.scores, strict=True)]
        heatmaps = result.heatmaps
        if settings.layers is None:
            self._levels = self.detector.layers or None
        if settings.sticky:
            kept = self._steady(found, settings.min_score, state)
            heatmaps = [heat[keep.to(heat.device)] for heat, keep in zip(heatmaps, kept, strict=True)]
            found = [Found(*(part[keep] for part in one)) for one, keep in zip(found, kept, strict=True)]
        heat = self._maps(heatmaps, found, frames, state)
        if settings.smooth:
            heat = state.smoother(heat, frames.movedim(-1, 1).float() / 255, stretch=False)
        return heat, self._best(found), found

    def attempt(self, frames: Tensor, settings: Settings) -> None:
        self._made(settings)(frames, _classes(settings), settings.min_score, self.top, "map")

    def draw(self, frames: Tensor, explained: Sequence[Any], settings: Settings) -> Tensor:
        heat, _, found = explained
        look = self.class_name, settings.colormap, settings.alpha
        return torch.stack([painted(*one, *look) for one in zip(frames, heat, found, strict=True)])

    def class_name(self, number: int) -> str:
        """The name of a class, or "class 7" where names are not known."""
        return named(self.class_names, number)

    def close(self) -> None:
        super().close()
        self.detector = None

    def _made(self, settings: Settings) -> DetectionExplainer:
        layers = self._levels if settings.layers is None else list(settings.layers)
        return DetectionExplainer(self.model, settings.method, layers, **self._fixed)

    def _steady(self, found: Sequence[Found], min_score: float, state: StreamState) -> list[Tensor]:
        """Which boxes are shown: those of enough score, and those that stand where the frame before had one of their class."""
        before: Found | None = None if state.shown is None else state.shown.targets[-1]
        kept = []
        for one in found:
            keep = one.scores > min_score
            if before is not None and len(before.boxes) and len(one.boxes):
                same = one.labels[:, None] == before.labels.to(one.labels.device)
                near = overlaps(one.boxes.float(), before.boxes.float().to(one.boxes.device)) > SAME
                keep |= (same & near).any(1)
            before = Found(*(part[keep] for part in one))
            kept.append(keep)
        return kept

    def _maps(self, heatmaps: Sequence[Tensor], found: Sequence[Found], frames: Tensor, state: StreamState) -> Tensor:
        """One map per frame, ``[N, h, w]``; of a frame without a box zeros, of the size that the others have."""
        height, width = frames.shape[1:3]
        size = (1, 1) if state.shown is None else tuple(state.shown.heat.shape[1:])
        size = next((tuple(heat.shape[1:]) for heat in heatmaps if len(heat)), size)
        maps = []
        for heat, one in zip(heatmaps, found, strict=True):
            none = torch.zeros(size, device=frames.device)
            maps.append(hottest(heat.float(), one.boxes, height, width) if len(heat) else none)
        return torch.stack(maps)

    def _best(self, found: Sequence[Found]) -> Tensor:
        """Each class's best score in each frame, ``[N, classes]``; 0 for a class without a box."""
        known = 1 if self.class_names is None else len(self.class_names)
        classes = max([known, *(int(one.labels.max()) + 1 for one in found if len(one.labels))])
        rows = torch.zeros(len(found), classes, device=found[0].scores.device)
        for row, one in zip(rows, found, strict=True):
            row.scatter_reduce_(0, one.labels, one.scores.float(), "amax")
        return rows


def _classes(settings: Settings) -> list[int] | None:
    """The classes whose boxes are kept."""
    wanted = settings.targets
    return None if wanted is None else list(wanted) if isinstance(wanted, tuple) else [wanted]


def _listed(names: Mapping[int, str] | None) -> list[str] | None:
    """Names in the order of their numbers; a number without one is called by itself."""
    return None if not names else [names.get(number, f"class {number}") for number in range(max(names) + 1)]
