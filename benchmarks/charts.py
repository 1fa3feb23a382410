"""Draws a result file of the benchmarks as a picture beside it.

    python benchmarks/charts.py benchmarks/results/ops-cpu.json

A row a case, a mark a competitor, placed by its time over camfast's: right of the line camfast is faster, left of it
slower. What is left of the line is drawn in red and its row is named in red: losses are shown, not left out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from report import OURS, YARDSTICKS, losses, tick

__all__ = ["draw"]

COLORS = {
    "eager": "#1b6ca8",
    "torch.compile": "#7b4fa3",
    "pytorch-grad-cam": "#2a9d5c",
    "torchcam": "#b8860b",
    "captum": "#0f8b8d",
    "MONAI": "#d2691e",
    "ultralytics": "#042aff",
    "OpenCV": "#444444",
    "make_grid": "#1b6ca8",
    "batched torch": "#5aa9e6",
    "PyTorch, whole network": "#7b4fa3",
    "PyTorch, head": "#1b6ca8",
}
MARKS = {
    "eager": "o",
    "torch.compile": "s",
    "pytorch-grad-cam": "^",
    "torchcam": "v",
    "captum": "P",
    "MONAI": "d",
    "ultralytics": "D",
    "OpenCV": "X",
}
LOSS = "#c8102e"
TITLES = {
    "explain": "Grad-CAM, whole explanations,",
    "methods": "Methods",
    "grid": "Grids of feature maps",
    "training": "Training steps with a loss on heat",
    "detect": "Heat of sixteen boxes",
}


def draw(path: Path) -> Path:
    """Reads the JSON at ``path`` and writes the PNG of the same name; returns where."""
    report = json.loads(path.read_text())
    rows = _op_rows(report) if report["kind"] == "ops" else _explain_rows(report)
    if not rows:
        raise ValueError(f"{path.name}: expected measured cases, got none")
    picture = path.with_suffix(".png")
    _plot(rows, report, picture)
    return picture


def _op_rows(report: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    rows = []
    for case in report["cases"]:
        modes = {row["mode"] for row in case["rows"]}
        mode = next(m for m in ("wall", "graph", "events") if m in modes)
        threads = case.get("threads")
        label = case["label"] + (f", {threads} thread{'s' * (threads > 1)}" if threads else "")
        # What no graph can hold was timed on the wall clock, and is compared with camfast on the same clock.
        held = {row["candidate"] for row in case["rows"] if row["mode"] == mode}
        extra = [row for row in case["rows"] if row["mode"] == "events" and row["candidate"] not in held]
        rows.append((label, [row for row in case["rows"] if row["mode"] == mode] + extra))
    return rows


def _explain_rows(report: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    return [(case["label"], [row for row in case["rows"] if row["mode"] == "wall"]) for case in report["cases"]]


def _plot(rows: list[tuple[str, list[dict[str, Any]]]], report: dict[str, Any], picture: Path) -> None:
    figure, axes = plt.subplots(figsize=(11, 1.6 + 0.27 * len(rows)), layout="constrained")
    named: set[str] = set()
    for y, (_, candidates) in enumerate(rows):
        axes.axhline(y, color="#e6e6e6", linewidth=0.8, zorder=0)
        for row in candidates:
            name, ratio = row["candidate"], row.get("over_camfast")
            if name == OURS or name.startswith(f"{OURS}, ") or ratio is None:
                continue
            if name in YARDSTICKS:
                if name not in ("torch.relu", "empty kernel"):
                    axes.plot(ratio, y, "|", color="#888888", markersize=9, label=_once(name, named), zorder=2)
                continue
            lost = ratio < 1  # drawn in red here, listed in words at the right
            axes.plot(
                ratio,
                y,
                MARKS.get(name, "o"),
                color=LOSS if lost else COLORS.get(name, "#777777"),
                markersize=8 if lost else 6,
                label=None if lost else _once(name, named),
                zorder=3,
            )
        lost_to = ", ".join(f"{row['candidate']} {row['over_camfast']:.2f}" for row in losses(candidates))
        if lost_to:
            axes.annotate(lost_to, (1.01, y), xycoords=("axes fraction", "data"), fontsize=7, color=LOSS, va="center")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    low, high = axes.get_xlim()
    if high < 10 * low:  # too narrow for powers of ten alone
        axes.xaxis.set_minor_formatter(lambda x, _: f"{x:g}")
    ours = [next((r for r in candidates if r["candidate"] == OURS), None) for _, candidates in rows]
    labels = [f"{label}   ({tick(o['median_s'])})" if o else label for (label, _), o in zip(rows, ours, strict=True)]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    for text, (_, candidates) in zip(axes.get_yticklabels(), rows, strict=True):
        if losses(candidates):
            text.set_color(LOSS)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("time over camfast's in the same run, log scale; red, and named at the right: faster than camfast")
    machine = report["meta"].get("gpu", {}).get("name") or f"{report['meta']['cpu']}, {report['meta']['cores']} cores"
    title = TITLES.get(report["kind"], "Ops")
    axes.set_title(f"{title} on {machine}, torch {report['meta']['versions']['torch']}", fontsize=10)
    figure.legend(fontsize=7, loc="outside lower center", ncols=6, frameon=False)
    figure.savefig(picture, dpi=130)
    plt.close(figure)


def _once(name: str, named: set[str]) -> str | None:
    """The legend's entry, the first time only."""
    if name in named:
        return None
    named.add(name)
    return name


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(draw(Path(argument)))
