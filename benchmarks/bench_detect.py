"""Why the sixteen best boxes of a picture are there, against ultralytics' own heatmap and pytorch-grad-cam's recipe.

    python benchmarks/bench_detect.py                     # CPU, about 6 minutes on two cores
    python benchmarks/bench_detect.py --quick
    python benchmarks/bench_detect.py --only yolo26n

One picture, sixteen boxes, one run; the map of ultralytics is compared with ours before anything is timed. Candidates take
turns, the plain forward with them. Writes a JSON, prints a table, draws a chart. Peak memory is that of a process of its
own for each candidate.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from detect_cases import BOXES, CASES, LEAST, DetectCase, Missing, by_their_rule, candidates, load, their_map
from harness import HostTimer, Timer, measure, progress
from report import OURS, RESULTS, losses, metadata, one_line, table, tick, write_json

import camfast

TOLERANCE = 1e-4  # between our map and ultralytics', both in [0, 1]
LEAD = 4.0  # times as long as ours that the others are to take


def main() -> int:
    options = _options()
    if options.peak:
        return _print_peak(*options.peak)
    path = options.output or RESULTS / "detect-cpu.json"
    if options.threads:
        torch.set_num_threads(options.threads)
    chosen = [c for c in CASES if all(word in c.label for word in options.only) and (c.quick or not options.quick)]
    report: dict[str, Any] = {
        "kind": "detect",
        "meta": metadata("cpu"),
        "settings": {"seconds": options.seconds, "boxes": options.boxes, "quick": options.quick},
        "cases": [],
        "skipped": [],
        "failed": [],
    }
    for case in progress(chosen, "detectors"):
        try:
            report["cases"].append(_measure(case, options))
        except Missing as error:
            report["skipped"].append({"label": case.label, "reason": f"needs {error}"})
        except Exception as error:  # one broken case must not lose the others; it fails the run at the end
            report["failed"].append({"label": case.label, "reason": one_line(error)})
        write_json(path, report)
    print(_tables(report))
    print(f"\n{path}")
    if options.chart and report["cases"]:
        import charts

        print(charts.draw(path))
    return 1 if report["failed"] else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="cases whose label holds every WORD")
    parser.add_argument("--quick", action="store_true", help="YOLO26n alone, no memory")
    parser.add_argument("--boxes", type=int, default=BOXES, metavar="N", help="boxes to explain (%(default)s)")
    parser.add_argument("--seconds", type=float, default=40.0, help="time a case (%(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave peak memory out")
    parser.add_argument("--output", type=Path, metavar="JSON", help="default benchmarks/results/detect-cpu.json")
    parser.add_argument("--no-chart", dest="chart", action="store_false")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)  # label and candidate: what the processes are asked
    options = parser.parse_args()
    options.memory = options.memory and not options.quick
    return options


def _measure(case: DetectCase, options: argparse.Namespace) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, images = load(case)
        found = candidates(case, model, images, options.boxes)
        refused: dict[str, str] = {}
        for name in list(found):
            try:
                found[name]()
            except Exception as error:  # of another library: that it cannot do the case is a result
                if name in (OURS, "forward"):
                    raise
                refused[name] = one_line(error)
                del found[name]
        difference = _difference(model, images, options.boxes) if "ultralytics" in found else None
        timers: dict[str, Timer] = {name: HostTimer(call) for name, call in found.items()}
        results = measure(timers, seconds=options.seconds, min_rounds=3, max_rounds=60)
    rows = []
    for name, result in results.items():
        row: dict[str, Any] = {"candidate": name, "mode": "wall", **result.summary()}
        row["over_camfast"] = result.ratio(results[OURS])
        row["over_forward"] = result.ratio(results["forward"])
        if options.memory:
            row["peak_bytes"] = _peak(case, name)
        rows.append(row)
    layers = camfast.DetectionExplainer(model)
    layers(images, min_score=LEAST, top=1)
    return {
        "label": case.label,
        "budget": case.budget,
        "layers": layers.layers,
        "difference_from_ultralytics": difference,
        "refused": refused,
        "rows": rows,
    }


def _difference(model: torch.nn.Module, images: torch.Tensor, boxes: int) -> float:
    """The largest difference from ultralytics' map, by its rule; raises where it is more than rounding explains."""
    theirs = their_map(model, images, boxes)
    ours = by_their_rule(model)(images, min_score=LEAST, top=boxes).heatmaps[0].amax(0)
    difference = float((ours - theirs).abs().max())
    if not difference <= TOLERANCE:
        raise ValueError(f"ultralytics: expected camfast's map, got a difference of {difference:.2g}")
    return difference


def _peak(case: DetectCase, candidate: str) -> int | None:
    """Bytes of resident memory that a call takes at its peak, measured in a process of its own; None if unreadable."""
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    paths = os.pathsep.join(p for p in sys.path if p and Path(p).is_dir())
    done = subprocess.run(
        [sys.executable, __file__, "--peak", case.label, candidate],
        capture_output=True,
        text=True,
        env={**os.environ, **settings, "PYTHONPATH": paths},
        check=False,
    )
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 and done.stdout else None


def _print_peak(label: str, candidate: str) -> int:
    from explain_memory import peak_here

    case = next(c for c in CASES if c.label == label)
    model, images = load(case)
    print(json.dumps(peak_here(candidates(case, model, images)[candidate], model)))
    return 0


def _tables(report: dict[str, Any]) -> str:
    others = ("ultralytics", "pytorch-grad-cam")
    lines, memory = [], []
    for case in report["cases"]:
        rows = {row["candidate"]: row for row in case["rows"]}
        ours, budget = rows[OURS], case["budget"]
        verdict = "" if budget is None else "met" if ours["over_forward"] <= budget else "MISSED"
        times = [tick(rows["forward"]["median_s"]), f"{ours['over_forward']:.2f}x", f"{budget or ''}", verdict]
        ratios = [f"{rows[name]['over_camfast']:.1f}x" if name in rows else "" for name in others]
        lead = min((rows[name]["over_camfast"] for name in others if name in rows), default=LEAD)
        lines.append(
            [case["label"], *times, *ratios, "LOSES" if losses(case["rows"]) else "" if lead >= LEAD else "below"]
        )
        if "peak_bytes" in ours:
            peaks = [rows.get(name, {}).get("peak_bytes") for name in ("forward", OURS, *others)]
            memory.append([case["label"], *("" if p is None else f"{p / 1e6:.0f}" for p in peaks)])
    head = [
        f"{report['settings']['boxes']} boxes of",
        "forward",
        OURS,
        "budget",
        "",
        *(f"{name}, over ours" for name in others),
        "",
    ]
    parts = ["\n" + table(head, lines)]
    if memory:
        parts.append("\nPeak memory of a call (MB)\n" + table(["", "forward", OURS, *others], memory))
    for case in report["cases"]:
        if case["difference_from_ultralytics"] is not None:
            parts.append(f"{case['label']}: {case['difference_from_ultralytics']:.1g} from ultralytics' map")
        parts += [f"{case['label']}: {name} cannot ({why})" for name, why in case["refused"].items()]
    parts += [f"skipped: {x['label']} ({x['reason']})" for x in report["skipped"]]
    return "\n".join(parts + [f"failed: {x['label']} ({x['reason']})" for x in report["failed"]])


if __name__ == "__main__":
    sys.exit(main())
