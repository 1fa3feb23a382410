"""What the CUDA kernels must reach, held against what a run measured.

Every target takes the worst case of its kind, names it, and counts as missed when any case missed. Cases that a run did
not reach are not judged: the table of skipped cases names them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from report import GRADIENT_OPS

__all__ = ["targets"]

LARGE = 200_000_000  # bytes moved
MARGIN = 2 << 20  # bytes of scores, alignment and workspace that memory targets leave alone

Row = dict[str, Any]


def targets(report: Row) -> list[Row]:
    """One entry a target that the report has figures for: what, target, value, met, and the worst case."""
    found: list[Row | None] = []
    if report.get("ops") and any(case.get("device") == "cuda" for case in report["ops"]["cases"]):
        found += _ops(report["ops"]["cases"])
    if report.get("explain") and report.get("devices"):
        found += _explain(report["explain"])
    if report.get("realtime") and report.get("devices"):
        found += _realtime(report["realtime"]["cases"])
    return [target for target in found if target is not None]


def _ops(cases: list[Row]) -> list[Row | None]:
    found = []
    large = [c for c in cases if c["op"] in GRADIENT_OPS and c["bytes_moved"] >= LARGE]
    for dtype, layout in dict.fromkeys((c["dtype"], c["layout"]) for c in large):
        chosen = [c for c in large if (c["dtype"], c["layout"]) == (dtype, layout)]
        found.append(_least(f"gradient ops, 200 MB and more, {dtype} {layout}: of copy", 0.90, _shares(chosen)))
    for height, name in ((1080, "1080p"), (2160, "4K")):
        frames = [c for c in cases if c["op"] == "overlay" and c["size"][0] == height]
        found.append(_least(f"overlay on {name} frames: of copy", 0.85, _shares(frames)))
    sums = [c for c in cases if c["op"] not in ("eigen_cam", "kpca_cam")]  # no one-pass sums over channels
    small = [c for c in sums if c["shape"] == [1, 2048, 7, 7] and c["targets"] == 1 and c["size"] == [224, 224]]
    found.append(
        _most("[1,2048,7,7] to 224, graph replay over an empty kernel's", 2.0, _over(small, "replay", "empty kernel"))
    )
    found.append(_most("Python call of an op over torch.relu's", 2.0, _over(small, "host", "torch.relu")))
    launched = [(c["label"], c["launches"]) for c in sums if c.get("launches")]
    found.append(_most("launches a call", 1, launched))
    return found


def _shares(cases: list[Row]) -> list[tuple[str, float]]:
    """Each case's bytes a second over the copy's."""
    found = []
    for case in cases:
        ours = _row(case, "camfast", "graph")
        if ours:
            found.append((case["label"], case["bytes_moved"] / ours["median_s"] / case["copy_bytes_per_s"]))
    return found


def _over(cases: list[Row], mode: str, yardstick: str) -> list[tuple[str, float]]:
    """Each case's time over that of a yardstick timed in the same mode."""
    found = []
    for case in cases:
        ours, other = _row(case, "camfast", mode), _row(case, yardstick, mode)
        if ours and other:
            found.append((case["label"], ours["median_s"] / other["median_s"]))
    return found


def _explain(explain: Row) -> list[Row | None]:
    found = []
    judged = [c for c in explain["cases"] if c["budget"] is not None and c["batch"] in (1, 32) and c["targets"] == 1]
    for mode, name in (("wall", "eager"), ("graph", "CUDA graph")):
        for batch in (1, 32):
            ratios = [
                (c["label"], row["over_forward"])
                for c in judged
                if c["batch"] == batch and (row := _row(c, "camfast", mode)) and row["over_forward"]
            ]
            found.append(_most(f"Grad-CAM over the plain forward, {name}, batch {batch}", 1.05, ratios))
    for batch in (1, 32):
        peers = [
            (c["label"], row["over_camfast"])
            for c in explain["cases"]
            if c["batch"] == batch and c["network"] == "resnet50" and (row := _row(c, "pytorch-grad-cam", "wall"))
        ]
        found.append(_least(f"pytorch-grad-cam over camfast, ResNet-50, batch {batch}", 10.0, peers))
    over = [
        (m["label"], (m["peaks"]["camfast"] - m["peaks"]["forward"]) / (m["needed"] + MARGIN))
        for m in explain["memory"]
    ]
    found.append(_most("memory added to the forward's, over A + G + output", 1.0, over))
    return found


def _realtime(cases: list[Row]) -> list[Row | None]:
    judged = [
        (f"{c['model']} {c['dtype']}", c["rows"]) for c in cases if c["model"] == "resnet50" and c["dtype"] == "float16"
    ]
    call, stream, peer = "call, on the device", "stream, on the device", "pytorch-grad-cam"
    return [
        _least("Realtime, 1080p, frames a second", 1000.0, [(name, r[stream]["frames_per_s"]) for name, r in judged]),
        _most(
            "Realtime, the slowest of 100 calls over the median",
            1.5,
            [(name, r[call]["p99_over_median"]) for name, r in judged],
        ),
        _least(
            "pytorch-grad-cam's loop over Realtime's",
            30.0,
            [(name, r[peer]["median_ms"] / r[call]["median_ms"]) for name, r in judged if peer in r],
        ),
    ]


def _row(case: Row, candidate: str, mode: str) -> Row | None:
    return next((r for r in case["rows"] if r["candidate"] == candidate and r["mode"] == mode), None)


def _least(what: str, target: float, values: Iterable[tuple[str, float]]) -> Row | None:
    values = list(values)
    if not values:
        return None
    case, value = min(values, key=lambda pair: pair[1])
    return {"what": what, "target": f">= {target:g}", "value": f"{value:.3g}", "met": value >= target, "case": case}


def _most(what: str, target: float, values: Iterable[tuple[str, float]]) -> Row | None:
    values = list(values)
    if not values:
        return None
    case, value = max(values, key=lambda pair: pair[1])
    return {"what": what, "target": f"<= {target:g}", "value": f"{value:.3g}", "met": value <= target, "case": case}
