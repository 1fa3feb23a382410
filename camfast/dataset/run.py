"""A data set explained from the beginning to the end, however often it is interrupted."""

from __future__ import annotations

import contextlib
import csv
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import zoo
from ..brief import Brief
from ..errors import closest, or_rather, require
from ..methods import METHODS
from ..methods.explainer import Layers
from ..model.untouched import quiet
from ..pictures.preparation import Preparation
from ..targets import ClassNames, TopK, find_class, listed_names
from .decode import Prepare, batches, collate, loaded, samples_of, usual_workers
from .files import Files
from .items import Listed, Source, Streamed, Unreadable
from .labels import Folders, Truth
from .rows import Job, Rows, Step, Wanted, inputs_of
from .settings import alone, found_layer, settle, stable, weights_digest
from .shards import Writer, done_keys
from .sources import open_source
from .tars import Tars
from .torch_data import OfDataset

__all__ = ["DatasetRun", "explain_dataset"]

Work = Iterator[tuple[Rows, list[Unreadable]]]
"""The rows of some pictures, and those that could not be read."""

TRIED = 20  # pictures to find out by how many classes the network has


@dataclass(repr=False)
class DatasetRun(Brief):
    """What a start did: :func:`explain_dataset` returns it.

    Attributes:
        out: the folder of the shards.
        images: pictures explained by this start.
        before: pictures that were done already.
        rows: rows written by this start, one per picture and target.
        unreadable: pictures that could not be read; ``unreadable.csv`` says why.
        labelled: of ``images`` those whose true class is known.
        right: of those the ones that were predicted right.
        blank: of ``rows`` those whose map is 0 everywhere, since nothing at the layer speaks for the target.
        layer: what was explained; None where nothing was.
        seconds: how long it took.
    """

    out: Path
    images: int = 0
    before: int = 0
    rows: int = 0
    unreadable: int = 0
    labelled: int = 0
    right: int = 0
    blank: int = 0
    layer: str | None = None
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Pictures a second."""
        return self.images / self.seconds if self.seconds else 0.0


def explain_dataset(
    model: nn.Module | zoo.Network | str,
    source: Any,
    out: str | os.PathLike[str],
    *,
    method: str = "grad_cam",
    layers: Layers = None,
    targets: Any = "prediction and label",
    preparation: Preparation | Callable[[Any], Tensor] | None = None,
    class_names: ClassNames | None = None,
    folders: Folders = "auto",
    path_column: str = "path",
    label_column: str | None = None,
    batch: int | None = None,
    workers: int | None = None,
    shard: int = 512,
    progress: bool = True,
    ray: bool | str = False,
    actors: int | None = None,
    **options: Any,
) -> DatasetRun:
    """Explains every picture of ``source`` and writes scores and low-resolution maps to ``out`` as Parquet shards.

    Killed at any moment and started again with the same arguments it goes on: shards appear whole or not at all, what they
    hold is not done again. What cannot be read is listed in ``unreadable.csv``, tried again at the next start, and stops
    nothing.

    Args:
        model: a classifier; a :class:`camfast.zoo.Network`, which brings its preparation and class names; or the name of
            one for :func:`camfast.zoo.load`, on a GPU where there is one.
        source: a folder (its subfolders are classes, as for torchvision's ImageFolder), a list of files, folders and
            patterns, a CSV or Parquet table of paths, WebDataset shards (``"photos-{000..099}.tar"``), a ``Dataset`` or a
            ``DataLoader`` in a fixed order, of PIL images or of prepared tensors ``[C, H, W]``.
        out: the folder of the results: ``shards/part-*.parquet``, ``run.json``, ``unreadable.csv``.
        method: a name in :data:`camfast.METHODS`.
        layers: as for :class:`camfast.GradCAM`.
        targets: "prediction and label" (the label where it is known and differs), "prediction", ``TopK(k)``, or classes by
            number or name; one pass for all of them.
        preparation: from a photograph to the model's input: a ``Preparation``, or a callable from a PIL image to a float
            tensor, such as torchvision's transforms. Not needed for a ``Network`` and for prepared tensors.
        class_names: names of the model's classes.
        folders: how a source's own classes become the model's: "auto" by their names, or else in their order where there
            are as many; "classes" in their order; "ignore": no labels.
        path_column: of a table.
        label_column: of a table: class numbers or names ("label", where there is such a column).
        batch: pictures per pass (16 on the CPU, 64 on a GPU).
        workers: processes that decode, 0 for none (half of the processors, at most 8); on Ray threads of each actor.
        shard: pictures per shard; a shard is also written after a minute of work.
        progress: whether a bar tells the rate and the time left.
        ray: True runs on a Ray of this machine (or the one that runs already), an address on that cluster.
        actors: on Ray: how many hold the model (one per GPU, or one per four processors).
        options: of the method, such as ``aug_smooth=True``.

    Returns:
        A :class:`~camfast.dataset.DatasetRun`: how many pictures were done, before and now, how many were right.

    Raises:
        TypeError: a model or source of a wrong type.
        ValueError: a source without pictures, settings other than those that ``out`` was made with, an unknown method or
            target, a folder that another process writes to. What the model raises passes through, after all that is done
            has been written.
        ImportError: without PyArrow, with the extra that brings it.
    """
    start = time.perf_counter()
    require("pyarrow", "dataset")
    folder = Path(out).expanduser()
    pictures = open_source(source, path_column, label_column, [folder])
    for name, count, least in (
        ("batch", batch, 1),
        ("workers", workers, 0),
        ("shard", shard, 1),
        ("actors", actors, 1),
    ):
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < least):
            raise ValueError(f"{name} must be a whole number of at least {least}, got {count!r}")
    network = _network(model, preparation, class_names)
    prepare = Prepare(network.preparation)
    _check_pictures(pictures, prepare)
    names, classes = network.class_names, network.classes
    if pictures.names is not None and folders != "ignore" and (classes is None or names is None):
        classes = classes or _count_classes(network.model, pictures, prepare)
        if names is None and classes == len(pictures.names):
            names = pictures.names
    wanted = _wanted(targets, names)
    job = Job(
        network.model,
        _method(method),
        layers,
        {"class_names": names, **options},
        wanted,
        prepare,
        Truth(pictures, names, classes, folders),
        names,
    )
    step = job.step()  # meets wrong layers and options before anything is written
    on_gpu = any(tensor.is_cuda for tensor in network.model.parameters())
    size = batch or (64 if on_gpu else 16)
    with alone(folder):
        settle(folder, _settings(job, network.name, layers, pictures, folders))
        writer = Writer(folder, shard)
        done = done_keys(folder, "path" if pictures.by_path else "index")
        report = DatasetRun(folder, before=len(done))
        pending = None
        if isinstance(pictures, Listed):
            pending = [n for n in range(len(pictures)) if pictures.key(pictures.item(n)) not in done]
        if ray:
            from .on_ray import on_ray

            work = on_ray(job, pictures, pending, done, ray, actors, size, workers)
        else:
            hands = usual_workers() if workers is None else workers
            work = _here(step, pictures, prepare, size, hands, pending, done)
        total = None if pending is None else len(pending) + len(done)
        _collect(work, writer, report, total, progress)
    report.seconds = time.perf_counter() - start
    return report


def _here(
    step: Step, source: Source, prepare: Prepare, size: int, workers: int, pending: Sequence[int] | None, done: set[Any]
) -> Work:
    """The work in this process, with others that decode."""
    for batch in batches(source, prepare, size, workers, pending, done):
        yield step(batch), batch.unreadable


def _collect(work: Work, writer: Writer, report: DatasetRun, total: int | None, progress: bool) -> None:
    """Writes what comes, behind a bar; what is done is written whatever happens."""
    tqdm = require("tqdm", "vision").tqdm
    bar = tqdm(total=total, initial=report.before, unit="photo", file=sys.stderr, disable=not progress)
    with open(report.out / "unreadable.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "reason"])
        file.flush()
        try:
            for rows, unreadable in work:
                if rows and report.layer is None:
                    report.layer = rows[0]["layer"]
                    found_layer(report.out, rows[0]["layer"], (rows[0]["map_height"], rows[0]["map_width"]))
                writer.add(rows)
                first = {row["index"]: row for row in rows}.values()
                report.images += len(first)
                report.rows += len(rows)
                labelled = [row for row in first if row["label"] is not None]
                report.labelled += len(labelled)
                report.right += sum(row["label"] == row["prediction"] for row in labelled)
                report.blank += sum(not any(row["map"]) for row in rows)
                report.unreadable += len(unreadable)
                for error in unreadable:
                    table.writerow([error.path, error.reason])
                file.flush()
                bar.update(len(first) + len(unreadable))
        finally:
            try:
                writer.flush()
            finally:
                bar.close()  # before anything is said of what could not be written


@dataclass
class _Network:
    """What of the model is known."""

    name: str
    model: nn.Module
    preparation: Any
    classes: int | None
    class_names: Sequence[str] | None


def _network(model: Any, preparation: Any, class_names: ClassNames | None) -> _Network:
    if isinstance(model, str):
        model = zoo.load(model, device="cuda" if torch.cuda.is_available() else "cpu")
    names = listed_names(class_names)
    if isinstance(model, zoo.Network):
        own = model.class_names if names is None else names
        return _Network(model.name, model.model, preparation or model.preparation, model.classes, own)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, a Network or a name, got {type(model).__name__}")
    return _Network(type(model).__name__, model, preparation, None if names is None else len(names), names)


def _method(name: str) -> str:
    if name not in METHODS:
        raise ValueError(f"expected a method of camfast, got {name!r}{or_rather(closest(name, METHODS), METHODS)}")
    return name


def _wanted(targets: Any, names: Sequence[str] | None) -> Wanted:
    """What ``targets`` mean. Raises ``TypeError`` for what is no class."""
    if targets is None:
        return "prediction and label"
    if isinstance(targets, TopK) or (isinstance(targets, str) and targets in ("prediction and label", "prediction")):
        return targets  # type: ignore[return-value]
    each = list(targets) if isinstance(targets, (list, tuple)) else [targets]
    wrong = [target for target in each if isinstance(target, bool) or not isinstance(target, (str, int))]
    if wrong or not each:
        got = type(wrong[0]).__name__ if wrong else "an empty list"
        raise TypeError(f'targets must be "prediction and label", "prediction", TopK or classes, got {got}')
    return list(dict.fromkeys(find_class(target, names) if isinstance(target, str) else target for target in each))


def _settings(job: Job, name: str, layers: Layers, source: Source, folders: str) -> dict[str, Any]:
    """What rows depend on."""
    preparation = job.prepare.preparation
    asked = [layers] if layers is None or isinstance(layers, (str, nn.Module)) else list(layers)
    return {
        "model": name,
        "weights": weights_digest(job.model),
        "method": job.method,
        "layers": None if layers is None else [each if isinstance(each, str) else stable(each) for each in asked],
        "options": {key: stable(value) for key, value in job.options.items() if key != "class_names"},
        "targets": stable(job.targets),
        "preparation": stable(preparation),
        "size": list(preparation.crop) if isinstance(preparation, Preparation) else None,
        "class_names": None if job.class_names is None else list(job.class_names),
        "folders": folders,
        "source": f"{source.kind} {source.place}".strip(),
    }


def _check_pictures(source: Source, prepare: Prepare) -> None:
    """Raises ``ValueError`` where photographs cannot become the model's input."""
    if prepare.preparation is not None:
        return
    first: Any = None
    if isinstance(source, OfDataset):
        with contextlib.suppress(Exception):  # one that cannot be read is listed later, as any other
            first = source.load(0)[1]
    if isinstance(source, (Files, Tars)) or not (first is None or isinstance(first, Tensor)):
        raise ValueError(
            "expected preparation= for photographs, a Preparation or a callable from a PIL image to a tensor, got none; "
            "camfast.zoo.load gives a network with its own"
        )


def _count_classes(model: nn.Module, source: Source, prepare: Prepare) -> int | None:
    """How many classes the scores have, by the first picture that can be read; None where none can."""
    if isinstance(source, Listed):
        samples = (loaded(source, n, prepare) for n in range(min(TRIED, len(source))))
    else:
        assert isinstance(source, Streamed)
        samples = (sample for sample, _ in zip(samples_of(source, 0, prepare, ()), range(TRIED), strict=False))
    sample = next((sample for sample in samples if not isinstance(sample, Unreadable)), None)
    if sample is None:
        return None
    images = collate([sample]).groups[0][0]
    with quiet(model, True), torch.inference_mode():
        scores = model(inputs_of(model, prepare, images))
    return scores.shape[1] if isinstance(scores, Tensor) and scores.ndim == 2 else None
