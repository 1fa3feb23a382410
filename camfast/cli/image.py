"""``camfast image``: photographs are read, explained in batches, and the heat is drawn where the network looked."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import require
from ..methods import METHODS, EigenCAM
from ..methods.explainer import Explainer
from ..pictures import photos
from ..pictures.frames import draw
from ..targets import Targets, TopK
from ..zoo import Network
from .arguments import add_heat, add_network, add_photos, load_network, positive, wanted_targets
from .tables import Number, aligned

__all__ = ["Overlay", "add_arguments", "file_stems", "run", "write_overlays"]


@dataclass(frozen=True)
class Overlay:
    """One overlay that was written."""

    photo: Path
    class_name: str
    score: float  # softmax probability of the class
    file: Path
    milliseconds: float  # for scores and heatmaps of one photograph: a batch's time, shared out evenly


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``camfast image``."""
    add_photos(parser)
    parser.add_argument(
        "-o", "--output", default="overlays", metavar="DIR", help="folder for the overlays (%(default)s)"
    )
    add_network(parser)
    parser.add_argument(
        "--batch-size", type=positive, default=8, metavar="B", help="photographs per pass (%(default)s)"
    )
    add_heat(parser)


def run(options: argparse.Namespace) -> int:
    """Explains the photographs; the exit code is 1 where some could not be done."""
    tqdm = require("tqdm", "vision").tqdm
    folder = Path(options.output).expanduser()
    files, errors = photos.find(options.photos, without=[folder])
    failures = len(errors)
    for error in errors:
        print(f"camfast image: {error}", file=sys.stderr)
    if not files:
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    network = load_network(options)
    explainer = METHODS[options.method](network.model, options.layer)

    rows = []
    results = write_overlays(
        files,
        network,
        explainer,
        folder,
        targets=wanted_targets(options.target, network.class_names),
        colormap=options.colormap,
        alpha=options.alpha,
        batch_size=options.batch_size,
    )
    try:
        for result in tqdm(results, total=len(files), unit="photo", disable=len(files) == 1, file=sys.stderr):
            if isinstance(result, photos.PhotoError):
                tqdm.write(f"camfast image: {result}", file=sys.stderr)
                failures += 1
            else:
                rows += result
    finally:  # also after Ctrl-C: what is done is told
        if rows:
            print(_listing(rows))
            print(f"\n{options.method} of {options.model} at {', '.join(explainer.layers)}")
    return 1 if failures else 0


def write_overlays(
    files: Sequence[Path],
    network: Network,
    explainer: Explainer,
    folder: str | Path,
    *,
    targets: TopK | Sequence[int] | None = None,
    colormap: str = "jet",
    alpha: float = 0.5,
    batch_size: int = 8,
) -> Iterator[list[Overlay] | photos.PhotoError]:
    """Explains the photographs ``files`` and writes each overlay into ``folder``, at the photograph's own resolution.

    Yields, for each file in turn, its overlays (one per target, the targets in their order) or why it could not be read
    or its overlays not written; the others are done all the same. ``explainer`` explains ``network.model``; ``targets``
    are class numbers, ``TopK(k)``, or None for the top class.

    An overlay is called like its photograph, ``<stem>.png``; for several targets ``<stem>-<rank>-<class>.png``.
    Photographs of the same name get their folders' names put before it, and no photograph is ever overwritten.

    Raises ``ValueError`` where layers, targets or the network's scores are not usable, before anything is read.
    """
    folder = Path(folder)
    stems = dict(zip(files, file_stems(files), strict=True))
    taken = {file.resolve() for file in files}
    device = next(network.model.parameters()).device
    # One image ahead of the photographs: finds the layer, meets bad arguments early, and keeps first-call costs out of
    # the times.
    _try(explainer, network, torch.zeros(1, 3, *network.preparation.crop, device=device), targets)

    def load(file: Path) -> tuple[np.ndarray, Tensor] | photos.PhotoError:
        try:
            photo = photos.read(file)
            return photo, network.preparation(photo)
        except photos.PhotoError as error:
            return error
        except ValueError as error:
            return photos.PhotoError(f"cannot use {file}: {error}")

    def write(file: Path, photo: np.ndarray, heat: Tensor, name: Path) -> photos.PhotoError | None:
        try:
            box = network.preparation.box(*photo.shape[:2])
            drawn = draw(torch.from_numpy(photo)[None].to(heat.device), heat[None], box, colormap, alpha)[0]
            photos.write(drawn.cpu().numpy(), name)
        except OSError as error:
            return photos.PhotoError(f"cannot write {name}, the overlay of {file}: {error.strerror or error}")
        return None

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), batch_size):
            batch = files[start : start + batch_size]
            loaded = dict(zip(batch, pool.map(load, batch), strict=True))
            good = {file: entry for file, entry in loaded.items() if isinstance(entry, tuple)}
            results: dict[Path, list[Overlay]] = {}
            failed: dict[Path, photos.PhotoError] = {}
            if good:
                images = torch.stack([image for _, image in good.values()]).to(device)
                heatmaps, classes, scores, milliseconds = _explain(explainer, images, targets)
                jobs = []
                for n, (file, (photo, _)) in enumerate(good.items()):
                    results[file] = []
                    for k, number in enumerate(classes[n].tolist()):
                        class_name = network.class_name(number)
                        rank = f"-{k + 1}-{_slug(class_name)}" if classes.shape[1] > 1 else ""
                        name = _free(folder / f"{stems[file]}{rank}.png", taken)
                        results[file].append(Overlay(file, class_name, scores[n, k].item(), name, milliseconds))
                        jobs.append((file, photo, heatmaps[n, k], name))
                for job, error in zip(jobs, pool.map(lambda job: write(*job), jobs), strict=True):
                    if error is not None:
                        failed[job[0]] = error
            for file, entry in loaded.items():
                yield entry if isinstance(entry, photos.PhotoError) else failed.get(file) or results[file]


def file_stems(files: Sequence[Path]) -> list[str]:
    """A name for each of ``files``, no two alike: its stem, where others have the same one after its folders' names.

    Twins in one folder are told apart by what they are: ``cat-jpg`` and ``cat-png``. Names that differ in case alone
    count as alike, as they do on some file systems.
    """
    parts = [(*file.resolve().parent.parts[1:], file.stem) for file in files]
    depths = [1] * len(files)
    while True:
        stems = ["-".join(part[-depth:]) for part, depth in zip(parts, depths, strict=True)]
        counts = Counter(stem.casefold() for stem in stems)
        short = [i for i, stem in enumerate(stems) if counts[stem.casefold()] > 1 and depths[i] < len(parts[i])]
        if not short:
            break
        for i in short:
            depths[i] += 1
    counts = Counter(stem.casefold() for stem in stems)
    for i, stem in enumerate(stems):
        if counts[stem.casefold()] > 1 and files[i].suffix:
            stems[i] = f"{stem}-{files[i].suffix[1:].casefold()}"
    seen: set[str] = set()
    for i, stem in enumerate(stems):  # cat.jpg and cat.JPG
        number = 2
        while stems[i].casefold() in seen:
            stems[i], number = f"{stem}-{number}", number + 1
        seen.add(stems[i].casefold())
    return stems


def _listing(rows: Sequence[Overlay]) -> str:
    head = ["photo", "class", "score", "ms", "file"]
    cells = []
    for row in rows:
        score, milliseconds = Number(f"{row.score:.3f}"), Number(f"{row.milliseconds:.1f}")
        cells.append([row.photo, row.class_name, score, milliseconds, row.file])
    return aligned(head, cells)


def _try(explainer: Explainer, network: Network, image: Tensor, targets: TopK | Sequence[int] | None) -> None:
    """A call ahead; of methods that take many passes only the search for layers, and another method's for the rest."""
    if explainer.needs in ("activations", "gradients"):
        _explain(explainer, image, targets)
        return
    explainer.prepare(image)
    with EigenCAM(network.model) as quick:
        _explain(quick, image, targets)


def _explain(
    explainer: Explainer, images: Tensor, targets: TopK | Sequence[int] | None
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Heatmaps ``[N, K, h, w]``, classes and softmax scores ``[N, K]``, and milliseconds per image."""
    wanted: Targets = targets
    if targets is not None and not isinstance(targets, TopK):
        wanted = torch.tensor(targets, device=images.device).expand(len(images), -1)  # [N, K]
    start = time.perf_counter()
    try:
        result = explainer(images, wanted)
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"expected {len(images)} photographs to fit into memory: give a smaller --batch-size"
        ) from error
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    milliseconds = (time.perf_counter() - start) * 1000 / len(images)
    if result.scores.ndim != 2 or not isinstance(result.targets, Tensor):
        raise ValueError(f"expected a classifier, scores [N, classes], got {list(result.scores.shape)}")
    classes = result.targets if result.targets.ndim == 2 else result.targets[:, None]
    heatmaps = result.heatmap if result.targets.ndim == 2 else result.heatmap[:, None]
    scores = result.scores.float().softmax(1).gather(1, classes)
    return heatmaps.float(), classes.cpu(), scores.cpu(), milliseconds


def _free(path: Path, taken: set[Path]) -> Path:
    """``path``, or one like it, that is none of ``taken``; it is put among them."""
    number, free = 2, path
    while free.resolve() in taken:
        free, number = path.with_name(f"{path.stem}-{number}.png"), number + 1
    taken.add(free.resolve())
    return free


def _slug(name: str) -> str:
    return re.sub(r"[^0-9a-z]+", "-", name.casefold()).strip("-") or "class"
