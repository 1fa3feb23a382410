"""The loop: a thread decodes, this one explains and draws, a thread encodes; nothing waits that need not."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..pictures.frames import draw
from ..threads import Ahead, Behind
from .decode import Clip, Picture, Sound, VideoError
from .encode import Writer
from .realtime import Realtime, RealtimeResult

__all__ = ["LAYOUTS", "Progress", "Report", "Row", "explain_video"]

LAYOUTS = ("overlay", "side-by-side", "heatmap")

_AHEAD = 8  # pictures that may wait before and behind the network

KEPT = 200
"""Classes of a frame whose scores are kept: any other's is below 0.5 percent."""

Progress = Callable[[int, "int | None"], None]
"""Called after each frame with the number of frames done and of those expected, where that is known."""


@dataclass(frozen=True)
class Row:
    """The best classes of one frame, best first, and those that were explained.

    Attributes:
        frame, seconds: which frame, and when.
        classes, scores: the best classes, and their softmax probabilities.
        explained: rank (from 1) and probability of each class that was explained; empty for targets of one's own.
        others: probabilities of the best :data:`KEPT` classes.
    """

    frame: int
    seconds: float
    classes: list[int]
    scores: list[float]
    explained: dict[int, tuple[int, float]] = field(default_factory=dict)
    others: dict[int, float] = field(default_factory=dict, repr=False)

    def score(self, number: int) -> float:
        """The probability of a class; 0 where it is not among the best :data:`KEPT`, and so below 1 / ``KEPT``."""
        if number in self.explained:
            return self.explained[number][1]
        if number in self.others:
            return self.others[number]
        return dict(zip(self.classes, self.scores, strict=True)).get(number, 0.0)


@dataclass(repr=False)
class Report:
    """What became of a clip; printed, it is a sentence."""

    output: Path | None  # None where nothing could be kept
    frames: int = 0
    seconds: float = 0.0  # the time in the clip that was reached
    elapsed: float = 0.0  # the time it took
    stopped: str = ""  # why it ended early; empty where it did not
    notes: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def __repr__(self) -> str:
        """Such as ``Report(explained.mp4: 250 frames, 10.0 s of the clip in 12.5 s)``."""
        words = f"{self.frames} frames, {self.seconds:.1f} s of the clip in {self.elapsed:.1f} s"
        ended = f"; stopped: {self.stopped}" if self.stopped else ""
        notes = f"; {'; '.join(self.notes)}" if self.notes else ""
        return f"Report({self.output or 'nothing kept'}: {words}{ended}{notes})"


def explain_video(
    source: str | PathLike[str],
    output: str | PathLike[str],
    engine: Realtime,
    *,
    layout: str = "overlay",
    start: float = 0.0,
    end: float | None = None,
    codec: str | None = None,
    quality: float | None = None,
    classes: int = 3,
    progress: Progress | None = None,
    decoder: str = "cpu",
) -> Report:
    """Explains each frame of the clip ``source`` and writes a clip ``output`` of as many frames, with its times and sound.

    Args:
        engine: :class:`camfast.Realtime`, which has the method, targets, colours and the rest in its settings.
        layout: "overlay": the heat over the frame; "side-by-side": the frame, and right of it the overlay; "heatmap":
            the heat alone.
        start, end: the part, in seconds. Times of the output begin with it.
        codec, quality: see :class:`camfast.video.Writer`.
        classes: how many of the best classes a row of the report holds.
        decoder: "cpu", or a device of FFmpeg's: "cuda" (NVDEC), "qsv", "vaapi", ...

    On Ctrl-C, a clip that breaks off, a full disk or an error of the engine, what was explained so far becomes a valid
    file, and ``stopped`` of the report says why. The threads have ended when this returns.

    Raises :class:`VideoError` where the clip cannot be read or the output not be written at all; ``ValueError`` for an
    unknown layout and parts that are empty; what the engine raises for the first frame.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"expected a layout, {', '.join(LAYOUTS)}, got {layout!r}")
    if Path(source).exists() and Path(output).exists() and Path(source).samefile(output):
        raise VideoError(f"expected an output other than the clip itself, got {output}")
    clip = Clip(source, start, end, decoder=decoder)
    report = Report(None)
    began = time.perf_counter()
    items = Ahead(iter(clip), _AHEAD, "decode")
    output_file: _Output | None = None
    failure: BaseException | None = None
    try:
        early: list[Any] = []  # sound before the first picture
        for item in items:
            if isinstance(item, Sound):
                early.append(item)
                if output_file is not None:
                    output_file.put(early.pop(), None)
                continue
            result = engine(item.pixels)
            picture = _laid_out(item.pixels, result, layout, engine)
            if output_file is None:  # now its size is known, and that the engine works
                output_file = _Output(Writer(output, clip, picture.shape[0], picture.shape[1], codec, quality))
                for sound in early:
                    output_file.put(sound, None)
                early.clear()
            output_file.put(item, picture)
            report.seconds = float((item.pts + max(item.duration, 1)) * clip.time_base)
            if result.explained:
                report.rows.append(_row(report.frames, float(item.pts * clip.time_base), result, classes))
            report.frames += 1
            if progress is not None:
                progress(report.frames, clip.frames)
    except BaseException as error:
        failure = error
    finally:
        items.close()
        clip_notes = clip.notes
    try:
        if output_file is None:
            if failure is not None:
                raise failure
            return report
        output_file.complete(report, failure)
    finally:
        clip.close()
    report.notes = clip_notes + output_file.writer.notes
    report.rows = [row for row in report.rows if row.frame < report.frames]
    report.elapsed = time.perf_counter() - began
    return report


class _Output:
    """The writer in its thread."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self._thread = Behind(self._write, _AHEAD, "encode")

    def put(self, item: Picture | Sound, pixels: np.ndarray | None) -> None:
        self._thread.put((item, pixels))

    def complete(self, report: Report, failure: BaseException | None) -> None:
        """Waits for the encoder, completes the file, or keeps what can be kept of it, and fills in the report.

        Raises ``failure``, or what went wrong in writing, where nothing can be kept.
        """
        broken: BaseException | None = None
        try:
            self._thread.close()
            report.output = self.writer.finish()
            report.frames = self.writer.pictures
        except Exception as error:
            broken = error
            report.frames = self.writer.rescue()
            report.output = self.writer.path if report.frames else None
        cause = broken or failure
        if cause is not None:
            if report.output is None:
                raise cause
            report.stopped = _sentence(cause)

    def _write(self, work: tuple[Picture | Sound, np.ndarray | None]) -> None:
        item, pixels = work
        if isinstance(item, Sound):
            self.writer.sound(item)
        else:
            assert pixels is not None
            self.writer.picture(pixels, item)


def _sentence(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {text}"


def _laid_out(pixels: np.ndarray, result: RealtimeResult, layout: str, engine: Realtime) -> np.ndarray:
    """The picture that is written, ``[H, W, 3]``: for several classes, and side by side, that many times as wide."""
    if layout == "heatmap":
        heat = result.heatmap.cpu()
        heat = heat if heat.ndim == 3 else heat[None]  # [K, h, w]
        black = torch.zeros(1, *pixels.shape, dtype=torch.uint8)
        parts = [draw(black, one[None], result.box, engine.colormap, 1.0)[0].numpy() for one in heat]
    else:
        overlays = result.overlay().cpu().numpy()
        parts = list(overlays) if overlays.ndim == 4 else [overlays]
        if layout == "side-by-side":
            parts.insert(0, pixels)
    return np.concatenate(parts, 1)  # a copy: the engine may use its memory again


def _row(frame: int, seconds: float, result: RealtimeResult, classes: int) -> Row:
    probabilities = result.probabilities()
    best = probabilities.topk(min(max(classes, KEPT), len(probabilities)))
    numbers, scores = best.indices.tolist(), best.values.tolist()
    explained = {}
    for number in result.targets.flatten().tolist() if isinstance(result.targets, Tensor) else []:
        own = probabilities[number]
        explained[number] = (int((probabilities > own).sum()) + 1, float(own))
    if result.found is not None:  # a class without a box has no score
        scores = [score for score in scores if score > 0]
        numbers = numbers[: len(scores)]
    others = dict(zip(numbers[:KEPT], scores, strict=False))
    return Row(frame, seconds, numbers[:classes], scores[:classes], explained, others)
