"""Photographs in, explained ones out: read ahead, explained in batches, drawn and written beside the next."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..errors import DoubtWarning
from ..methods import EigenCAM
from ..methods.explainer import Explainer
from ..methods.layer_explainer import LayerExplainer
from ..methods.ranges import Normalize, Scale, in_range
from ..ops.colormaps import ALPHA, COLORMAP
from ..pictures import photos
from ..pictures.explained import Legend, explained
from ..targets import Targets, TopK
from ..zoo import Network
from .arrays import save_arrays
from .names import free, mirrored, slug

__all__ = ["Found", "Overlay", "Style", "write_overlays"]

Classes = TopK | Sequence[int] | None


@dataclass(frozen=True)
class Overlay:
    """One overlay that was written."""

    photo: Path
    rank: int  # from 1
    class_name: str
    class_number: int
    score: float  # softmax probability of the class
    file: Path
    maps: Path | None  # the file of raw maps
    milliseconds: float  # for scores and heatmaps of the photograph; where it shared a pass, of an even share of that
    batch: int  # how many photographs shared the pass
    scale: Scale


@dataclass(frozen=True)
class Style:
    """How overlays look, and what is written."""

    colormap: str = COLORMAP
    alpha: float = ALPHA
    legend: Legend = "corner"
    suffix: str = ".jpg"
    normalize: Normalize = True
    maps: bool = False
    notes: Sequence[str] = ()  # lines of the strip


@dataclass
class Found:
    """What was found in one photograph: of its K classes the names' numbers, the scores, and the heat or the raw maps."""

    file: Path
    photo: np.ndarray | None
    classes: list[int]
    scores: list[float]
    heat: Tensor | None  # [K, h, w] in [0, 1]
    raw: Tensor | None  # [K, h, w], at the layer's resolution
    milliseconds: float
    batch: int
    scale: Scale = field(default="each")


def write_overlays(
    files: Sequence[Path],
    network: Network,
    explainer: Explainer,
    folder: str | Path,
    *,
    targets: Classes = None,
    places: Sequence[str | Path] = (),
    batch_size: int = 1,
    style: Style | None = None,
) -> Iterator[list[Overlay] | photos.PhotoError]:
    """Explains the photographs ``files`` and writes each overlay into ``folder``, at the photograph's own resolution.

    Yields, for each file in turn, its overlays (one per target, the targets in their order) or why it could not be read
    or its overlays not written; the others are done all the same. ``explainer`` explains ``network.model``; ``targets``
    are class numbers, ``TopK(k)``, or None for the top class.

    An overlay is called like its photograph and lies in the same subfolder of the one of ``places`` it was found in; for
    several targets ``<name>-<rank>-<class>``. No photograph is ever overwritten. With ``style.maps`` the raw maps are
    written beside, ``<name>.npz``. Where all maps share a range, all photographs are explained before the first is drawn,
    and read twice.

    Raises ``ValueError`` where layers, targets or the network's scores are not usable, before anything is read.
    """
    style = style or Style()
    work = _Work(network, explainer, targets, style, Path(folder))
    names = dict(zip(files, mirrored(files, places), strict=True))
    taken = {photos.real(file) for file in files}
    with ThreadPoolExecutor() as pool:
        found = work.explained(files, batch_size, pool)
        if style.normalize == "shared":
            found = work.in_one_range(list(found))
        waiting: deque[photos.PhotoError | Future[list[Overlay] | photos.PhotoError]] = deque()
        for one in found:
            if isinstance(one, Found):
                waiting.append(pool.submit(work.written, one, work.places_for(one, names[one.file], taken)))
            else:
                waiting.append(one)
            if len(waiting) > 2:  # drawn and written while the next ones are explained
                yield _done(waiting.popleft())
        while waiting:
            yield _done(waiting.popleft())


class _Work:
    """The steps, for one network, method and style."""

    def __init__(self, network: Network, explainer: Explainer, targets: Classes, style: Style, folder: Path) -> None:
        self.network, self.explainer, self.targets, self.style, self.folder = network, explainer, targets, style, folder
        self.device = next(network.model.parameters()).device
        # One image ahead of the photographs: finds the layer, meets bad arguments early, and keeps first-call costs out
        # of the times. Of methods that take many passes only the search for layers, and another method's for the rest.
        image = torch.zeros(1, 3, *network.preparation.crop, device=self.device)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* blank ", DoubtWarning)  # black, as the image is
            if explainer.needs in ("activations", "gradients"):
                self.maps_of(explainer, image)
            else:
                explainer.prepare(image)
                with EigenCAM(network.model) as quick:
                    self.maps_of(quick, image)

    def explained(
        self, files: Sequence[Path], batch_size: int, pool: ThreadPoolExecutor
    ) -> Iterator[Found | photos.PhotoError]:
        """What is in each of ``files``; photographs are read while those before them are explained."""
        ahead: deque[tuple[Path, Future[tuple[np.ndarray, Tensor] | photos.PhotoError]]] = deque()
        source = iter(files)
        while True:
            while len(ahead) < batch_size + 2 and (file := next(source, None)) is not None:
                ahead.append((file, pool.submit(self.read, file)))
            if not ahead:
                return
            batch = [ahead.popleft() for _ in range(min(batch_size, len(ahead)))]
            loaded = [(file, reading.result()) for file, reading in batch]
            good = [(file, *entry) for file, entry in loaded if not isinstance(entry, photos.PhotoError)]
            results = iter(self.batch(good) if good else [])
            for _, entry in loaded:
                yield entry if isinstance(entry, photos.PhotoError) else next(results)

    def read(self, file: Path) -> tuple[np.ndarray, Tensor] | photos.PhotoError:
        """The photograph, and the network's input made of it."""
        try:
            photo = photos.read(file)
            return photo, self.network.preparation(photo)
        except photos.PhotoError as error:
            return error
        except ValueError as error:
            return photos.PhotoError(f"cannot use {file}: {error}")

    def batch(self, good: Sequence[tuple[Path, np.ndarray, Tensor]]) -> list[Found]:
        """The photographs of one pass."""
        images = torch.stack([image for _, _, image in good]).to(self.device)
        heat, raw, classes, scores, milliseconds = self.maps_of(self.explainer, images)
        keep = self.style.normalize != "shared"  # else they are read again, since all of them need not fit into memory
        return [
            Found(
                file,
                photo if keep else None,
                classes[n].tolist(),
                scores[n].tolist(),
                None if heat is None else heat[n],
                None if raw is None else raw[n],
                milliseconds / len(good),
                len(good),
            )
            for n, (file, photo, _) in enumerate(good)
        ]

    def maps_of(
        self, explainer: Explainer, images: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor, float]:
        """Heat and raw maps ``[N, K, h, w]``, each where it is needed, classes and softmax scores ``[N, K]``, milliseconds."""
        each = self.style.normalize is True
        wanted: Targets = self.targets
        if self.targets is not None and not isinstance(self.targets, TopK):
            wanted = torch.tensor(self.targets, device=images.device).expand(len(images), -1)  # [N, K]
        start = time.perf_counter()
        try:
            if each and self.style.maps and type(explainer).explain is LayerExplainer.explain:
                found = explainer.layer_maps(images, wanted)  # type: ignore[attr-defined]
                result, raw = explainer.result(found), explainer.result(found, "map", False)
            else:
                result = explainer(images, wanted) if each else explainer(images, wanted, "map", False)
                raw = explainer(images, wanted, "map", False) if each and self.style.maps else result
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"expected {len(images)} photographs to fit into memory: give a smaller --batch-size"
            ) from error
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        milliseconds = (time.perf_counter() - start) * 1000
        if result.scores.ndim != 2 or not isinstance(result.targets, Tensor):
            raise ValueError(f"expected a classifier, scores [N, classes], got {list(result.scores.shape)}")
        several = result.targets.ndim == 2
        classes = result.targets if several else result.targets[:, None]
        scores = result.scores.float().softmax(1).gather(1, classes)
        maps = [one.heatmap.float() if several else one.heatmap.float()[:, None] for one in (result, raw)]
        return (
            maps[0] if each else None,
            maps[1].cpu() if self.style.maps or not each else None,
            classes.cpu(),
            scores.cpu(),
            milliseconds,
        )

    def in_one_range(self, found: Sequence[Found | photos.PhotoError]) -> Iterator[Found | photos.PhotoError]:
        """The same with the range that all maps share."""
        raw = [one.raw.flatten() for one in found if isinstance(one, Found) and one.raw is not None]
        _, limits = in_range(torch.cat(raw)[None] if raw else torch.zeros(1, 1), 1, "shared")
        for one in found:
            if isinstance(one, Found):
                one.scale = limits
            yield one

    def places_for(self, found: Found, name: Path, taken: set[Path]) -> list[Path]:
        """Where the overlays go, and behind them the raw maps."""
        several = len(found.classes) > 1
        words = [f"-{k + 1}-{slug(self.network.class_name(c))}" if several else "" for k, c in enumerate(found.classes)]
        files = [free(self.folder / f"{name}{word}{self.style.suffix}", taken) for word in words]
        return [*files, free(self.folder / f"{name}.npz", taken)] if self.style.maps else files

    def written(self, found: Found, places: Sequence[Path]) -> list[Overlay] | photos.PhotoError:
        """Draws and writes the overlays of one photograph, and its maps."""
        photo = found.photo
        if photo is None:
            again = self.read(found.file)
            if isinstance(again, photos.PhotoError):
                return again
            photo = again[0]
        box = self.network.preparation.box(*photo.shape[:2])
        heat, scale = self.heat_of(found)
        maps = places[-1] if self.style.maps else None
        ends = ("least", "greatest") if isinstance(scale, str) else (f"{scale[0]:.3g}", f"{scale[1]:.3g}")
        rows = []
        try:
            for k, (number, score, file) in enumerate(zip(found.classes, found.scores, places, strict=False)):
                name = self.network.class_name(number)
                style = self.style
                look: dict[str, Any] = {"colormap": style.colormap, "alpha": style.alpha, "where": style.legend}
                picture = explained(photo, heat[k], box, name, score, ends=ends, notes=style.notes, **look)
                photos.write(picture, file)
                times = found.milliseconds, found.batch
                rows.append(Overlay(found.file, k + 1, name, number, score, file, maps, *times, scale))
            if maps is not None:
                self.save_maps(found, box, maps)
        except OSError as error:
            reason = error.strerror or error
            return photos.PhotoError(f"cannot write {file}, the overlay of {found.file}: {reason}")
        return rows

    def heat_of(self, found: Found) -> tuple[Tensor, Scale]:
        """``[K, h, w]`` in [0, 1], and what 0 and 1 are."""
        if found.heat is not None:
            return found.heat, "each"
        assert found.raw is not None
        size = self.network.preparation.crop
        raw = ops.resize_normalize(found.raw.to(self.device), size, normalize=False)
        limits = self.style.normalize if isinstance(self.style.normalize, tuple) else found.scale
        assert isinstance(limits, tuple)
        return in_range(raw, 2, limits if limits[0] < limits[1] else (limits[0], limits[0] + 1.0))[0], limits

    def save_maps(self, found: Found, box: tuple[float, ...], path: Path) -> None:
        """The raw maps as a NumPy file, whole or not at all."""
        assert found.raw is not None
        save_arrays(
            path,
            maps=found.raw.numpy(),
            classes=np.array(found.classes),
            class_names=np.array([self.network.class_name(number) for number in found.classes]),
            scores=np.array(found.scores, np.float32),
            box=np.array(box, np.float32),
            layers=np.array(self.explainer.layers),
        )


def _done(
    one: photos.PhotoError | Future[list[Overlay] | photos.PhotoError],
) -> list[Overlay] | photos.PhotoError:
    return one if isinstance(one, photos.PhotoError) else one.result()
