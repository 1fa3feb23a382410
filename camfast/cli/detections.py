"""Photographs in, pictures of a detector's boxes out: read ahead, explained one by one, drawn and written beside the next."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..detection import DetectionExplainer, Detections
from ..ops.colormaps import ALPHA, COLORMAP
from ..pictures import photos
from ..pictures.text import legend
from ..video.realtime.boxes import Found, hottest, painted
from .arrays import save_arrays
from .names import free, mirrored, slug

__all__ = ["Drawn", "Explained", "Style", "write_detections"]

HEAT = 480  # pixels of the longer side of the heat, which is drawn on photographs of any size


@dataclass(frozen=True)
class Drawn:
    """A box that was found and drawn."""

    class_name: str
    number: int
    score: float
    corners: list[float]  # x0, y0, x1, y1 in pixels of the photograph
    file: Path | None  # the picture of it alone


@dataclass(frozen=True)
class Explained:
    """What was found in a photograph."""

    photo: Path
    boxes: list[Drawn]  # the surest first
    file: Path  # the picture of all boxes
    milliseconds: float  # for boxes and heat
    maps: Path | None = None  # the file of arrays


@dataclass(frozen=True)
class Style:
    """How pictures look, and what is written."""

    colormap: str = COLORMAP
    alpha: float = ALPHA
    suffix: str = ".jpg"
    each: bool = False  # a picture of each box alone too
    maps: bool = False  # boxes and heat as arrays too


def write_detections(
    files: Sequence[Path],
    explainer: DetectionExplainer,
    folder: str | Path,
    wanted: dict[str, Any],
    *,
    places: Sequence[str | Path] = (),
    style: Style | None = None,
) -> Iterator[Explained | photos.PhotoError]:
    """Explains the boxes in the photographs ``files`` and writes pictures of them into ``folder``.

    Yields, for each file in turn, what was found, or why it could not be read or its picture not be written; the others are
    done all the same. ``wanted`` are arguments of the explainer's call: classes, min_score, top. A picture is called like its
    photograph and lies in the same subfolder of the one of ``places`` it was found in; that of a box alone
    ``<name>-<rank>-<class>``. No photograph is ever overwritten. With ``style.maps`` the arrays are written beside, ``<name>.npz``.
    """
    style = style or Style()
    names = dict(zip(files, mirrored(files, places), strict=True))
    taken = {photos.real(file) for file in files}
    with ThreadPoolExecutor() as pool:
        waiting: deque[photos.PhotoError | Future[Explained | photos.PhotoError]] = deque()
        for file, photo in _read(files, pool):
            if isinstance(photo, photos.PhotoError):
                waiting.append(photo)
            else:
                known = bool(explainer.layers)
                result, milliseconds = _timed(explainer, photo, wanted)
                if explainer.layers and not known:  # the search for layers is no part of a photograph's time
                    result, milliseconds = _timed(explainer, photo, wanted)
                stem = Path(folder) / names[file]
                paths = [free(stem.with_name(stem.name + style.suffix), taken)]
                if style.each:
                    for rank, name in enumerate(result.names[0], 1):
                        paths.append(free(stem.with_name(f"{stem.name}-{rank}-{slug(name)}{style.suffix}"), taken))
                maps = free(stem.with_name(f"{stem.name}.npz"), taken) if style.maps else None
                given = file, photo, result, paths, maps, milliseconds, style, wanted["min_score"]
                waiting.append(pool.submit(_written, *given))
            if len(waiting) > 2:  # drawn and written while the next ones are explained
                yield _done(waiting.popleft())
        while waiting:
            yield _done(waiting.popleft())


def _read(files: Sequence[Path], pool: ThreadPoolExecutor) -> Iterator[tuple[Path, np.ndarray | photos.PhotoError]]:
    """The photographs, read while those before them are explained."""

    def read(file: Path) -> np.ndarray | photos.PhotoError:
        try:
            return photos.read(file)
        except photos.PhotoError as error:
            return error

    ahead: deque[tuple[Path, Future[np.ndarray | photos.PhotoError]]] = deque()
    for file in files:
        ahead.append((file, pool.submit(read, file)))
        if len(ahead) > 2:
            first, reading = ahead.popleft()
            yield first, reading.result()
    for file, reading in ahead:
        yield file, reading.result()


def _timed(explainer: DetectionExplainer, photo: np.ndarray, wanted: dict[str, Any]) -> tuple[Detections, float]:
    """Boxes and heat of a photograph, and the milliseconds they took."""
    scale = min(1.0, HEAT / max(photo.shape[:2]))
    size = max(1, round(photo.shape[0] * scale)), max(1, round(photo.shape[1] * scale))
    start = time.perf_counter()
    result = explainer(photo, **wanted, size=size)
    if result.boxes[0].is_cuda:
        torch.cuda.synchronize(result.boxes[0].device)
    return result, (time.perf_counter() - start) * 1000


def _written(
    file: Path,
    photo: np.ndarray,
    result: Detections,
    paths: Sequence[Path],
    maps: Path | None,
    milliseconds: float,
    style: Style,
    min_score: float,
) -> Explained | photos.PhotoError:
    """Draws and writes the pictures of one photograph, and its arrays."""
    frame = torch.from_numpy(photo)
    boxes, labels, scores = result.boxes[0].float().cpu(), result.labels[0].cpu(), result.scores[0].float().cpu()
    names = dict(zip(labels.tolist(), result.names[0], strict=True))

    def picture(which: list[int]) -> Tensor:
        if not which:
            return legend(frame.clone(), [(f"no box of {min_score:.0%} or more", float("nan"))])
        found = Found(boxes[which], labels[which], scores[which])
        heat = hottest(result.heatmaps[0][which].float().cpu(), found.boxes, *photo.shape[:2])
        return painted(frame, heat, found, names.__getitem__, style.colormap, style.alpha)

    shown = [list(range(len(boxes))), *([k] for k in range(len(paths) - 1))]
    path = paths[0]
    try:
        for path, which in zip(paths, shown, strict=True):
            photos.write(picture(which).numpy(), path)
        if maps is not None:
            path = maps
            _save(result, maps)
    except OSError as error:
        return photos.PhotoError(f"cannot write {path}, of {file}: {error.strerror or error}")
    drawn = [
        Drawn(name, int(label), float(score), [float(corner) for corner in box], paths[k + 1] if style.each else None)
        for k, (name, label, score, box) in enumerate(zip(result.names[0], labels, scores, boxes, strict=True))
    ]
    return Explained(file, drawn, paths[0], milliseconds, maps)


def _save(result: Detections, path: Path) -> None:
    """Boxes and heat of one photograph; the heat covers it, at the size at which it was made."""
    masks = {} if result.masks is None else {"masks": result.masks[0].cpu().numpy()}
    save_arrays(
        path,
        heatmaps=result.heatmaps[0].float().cpu().numpy(),
        boxes=result.boxes[0].float().cpu().numpy(),
        labels=result.labels[0].cpu().numpy(),
        names=np.array(result.names[0], dtype=np.str_),
        scores=result.scores[0].float().cpu().numpy(),
        layers=np.array(result.layers, dtype=np.str_),
        **masks,
    )


def _done(one: photos.PhotoError | Future[Explained | photos.PhotoError]) -> Explained | photos.PhotoError:
    return one if isinstance(one, photos.PhotoError) else one.result()
