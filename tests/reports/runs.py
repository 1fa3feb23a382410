"""Data set runs by hand: shards as camfast.explain_dataset writes them, without a network."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from camfast.dataset import schema

NAMES = ["tabby", "espresso", "rocket"]


def row(path: str, index: int, prediction: int, label: int | None = None, **other: Any) -> dict[str, Any]:
    """A row about ``prediction``; ``names``, ``heat`` ``[h, w]`` and any column may be given."""
    names = other.pop("names", NAMES)
    heat = np.asarray(other.pop("heat", np.eye(7)), "<f2")
    target = other.pop("target", prediction)
    values = {
        "path": path,
        "index": index,
        "label": label,
        "label_name": None if label is None else names[label],
        "prediction": prediction,
        "prediction_name": names[prediction],
        "probability": 0.75,
        "top_classes": [prediction],
        "top_scores": [0.75],
        "target": target,
        "target_name": names[target],
        "target_score": 4.5,
        "target_probability": 0.75,
        "role": "prediction" if target == prediction else "label",
        "map": heat.tobytes(),
        "map_height": heat.shape[0],
        "map_width": heat.shape[1],
        "layer": "features.8",
        "method": "grad_cam",
        "version": "1.0",
        "height": 64,
        "width": 96,
        "crop": [16.0, 0.0, 80.0, 64.0],
    }
    return {**values, **other}


def both(path: str, index: int, prediction: int, label: int, **other: Any) -> list[dict[str, Any]]:
    """The rows of an image that was taken for something else: the heat of both classes, mirrored."""
    heat = np.asarray(other.pop("heat", np.eye(7)))
    first = row(path, index, prediction, label, heat=heat, **other)
    return [first, row(path, index, prediction, label, heat=heat[:, ::-1], target=label, **other)]


def write_run(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    shards: int = 1,
    unreadable: Sequence[tuple[str, str]] = (),
    settings: dict[str, Any] | None = None,
) -> Path:
    """The run's folder with ``rows`` in ``shards`` files."""
    (folder / "shards").mkdir(parents=True)
    for number in range(shards):
        table = pa.Table.from_pylist(list(rows[number::shards]), schema())
        pq.write_table(table, folder / f"shards/part-0000-{number:06d}.parquet")
    (folder / "run.json").write_text(json.dumps({"model": "small", "class_names": NAMES, **(settings or {})}))
    with open(folder / "unreadable.csv", "w", encoding="utf-8", newline="") as text:
        csv.writer(text, lineterminator="\n").writerows([("path", "reason"), *unreadable])
    return folder
