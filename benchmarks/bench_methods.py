"""Every method against the same method of pytorch-grad-cam, torchcam, captum and MONAI, where they have it.

    python benchmarks/bench_methods.py                     # CPU, about 15 minutes on two cores
    python benchmarks/bench_methods.py --quick
    python benchmarks/bench_methods.py --only score_cam bf16

One network, one image, one class, one run; heatmaps are compared before anything is timed. Writes a JSON, prints a
table, draws a chart. Peak memory is that of a process of its own for each candidate.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from explain_cases import min_max
from harness import HostTimer, Timer, measure, progress
from method_cases import CASES, Candidate, MethodCase, candidates, opposite
from report import OURS, RESULTS, losses, metadata, one_line, table, tick, write_json
from torch import Tensor

PEER = "pytorch-grad-cam"  # whom the targets name


def main() -> int:
    options = _options()
    if options.peak:
        return _print_peak(*options.peak)
    path = options.output or RESULTS / "methods-cpu.json"
    chosen = [c for c in CASES if all(word in c.label for word in options.only) and (c.quick or not options.quick)]
    if options.threads:
        torch.set_num_threads(options.threads)
    report: dict[str, Any] = {
        "kind": "methods",
        "meta": metadata("cpu"),
        "settings": {"seconds": options.seconds, "quick": options.quick, "weights": "random", "images": "random"},
        "cases": [],
        "skipped": [],
        "failed": [],
    }
    started = time.monotonic()
    for case in progress(chosen, "methods"):
        if options.deadline and time.monotonic() - started > options.deadline:
            report["skipped"].append({"label": case.label, "reason": "out of time"})
            continue
        try:
            report["cases"].append(_measure(case, options))
        except Exception as error:  # one broken case must not lose the others; it fails the run at the end
            report["failed"].append({"label": case.label, "reason": one_line(error)})
        write_json(path, report)
    write_json(path, report)
    print(_tables(report))
    print(f"\n{path}")
    if options.chart and report["cases"]:
        _draw(path)
    return 1 if report["failed"] else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="cases whose label holds every WORD")
    parser.add_argument("--quick", action="store_true", help="a handful of cases, no memory")
    parser.add_argument("--seconds", type=float, help="time a case (default 12, quick 4)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave peak memory out")
    parser.add_argument("--deadline", type=float, metavar="SECONDS", default=1500.0, help="begin no case after this")
    parser.add_argument("--output", type=Path, metavar="JSON", help="default benchmarks/results/methods-cpu.json")
    parser.add_argument("--no-chart", dest="chart", action="store_false")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)  # label and candidate: what the processes are asked
    options = parser.parse_args()
    options.seconds = options.seconds or (4.0 if options.quick else 12.0)
    options.memory = options.memory and not options.quick
    return options


def _measure(case: MethodCase, options: argparse.Namespace) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = candidates(case)
        refused: dict[str, str] = {}
        errors = _check(case, found, refused)
        timers: dict[str, Timer] = {name: HostTimer(candidate.call) for name, candidate in found.items()}
        results = measure(timers, seconds=options.seconds, min_rounds=3, max_rounds=40)
    rows = []
    for name, result in results.items():
        row: dict[str, Any] = {"candidate": name, "mode": "wall", **result.summary()}
        ratios = result.ratios(results[OURS])
        row["over_camfast"] = result.ratio(results[OURS])
        row["over_camfast_range"] = [min(ratios), max(ratios)] if ratios else None
        if name in errors:
            row["max_difference"] = errors[name]
        if found[name].note:
            row["note"] = found[name].note
        if options.memory:
            row["peak_bytes"] = _peak(case, name)
        rows.append(row)
    return {"label": case.label, "method": case.method, "target": case.target, "refused": refused, "rows": rows}


def _check(case: MethodCase, found: dict[str, Candidate], refused: dict[str, str]) -> dict[str, float]:
    """Each library's largest difference from camfast's heatmap; raises where it is more than rounding explains.

    A library that cannot do the case leaves ``found``, and says why in ``refused``.
    """
    ours = found[OURS].result(found[OURS].call())
    if not float(ours.max()) > 0.5:
        raise ValueError("expected a heatmap with something in it, got a constant one")
    errors = {}
    for name in [name for name in found if name != OURS]:
        try:
            theirs = found[name].result(found[name].call())
        except Exception as error:
            refused[name] = one_line(error)
            del found[name]
            continue
        if not found[name].exact:
            continue
        errors[name] = _difference(case, ours, theirs)
        if not errors[name] <= case.tolerance:
            raise ValueError(f"{name}: expected camfast's heatmap, got a difference of {errors[name]:.2g}")
    return errors


def _difference(case: MethodCase, ours: Tensor, theirs: Tensor) -> float:
    if theirs.shape != ours.shape:
        raise ValueError(f"expected shape {list(ours.shape)}, got {list(theirs.shape)}")
    own = float((theirs - ours).abs().max())
    if own <= case.tolerance:
        return own
    if case.method in ("eigen_cam", "eigen_grad_cam"):  # the sign there is what LAPACK gives
        own = min(own, float((theirs - min_max(opposite(case))).abs().max()))
    return own


def _peak(case: MethodCase, candidate: str) -> int | None:
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
    print(json.dumps(peak_here(candidates(case)[candidate].call, torch.nn.Module())))
    return 0


def _draw(path: Path) -> None:
    try:
        import charts
    except ImportError as missing:
        print(f"no chart drawn: {missing}", file=sys.stderr)
        return
    print(charts.draw(path))


def _tables(report: dict[str, Any]) -> str:
    names = list(dict.fromkeys(r["candidate"] for case in report["cases"] for r in case["rows"]))
    names = [name for name in names if name != OURS]
    lines, memory = [], []
    for case in report["cases"]:
        rows = {row["candidate"]: row for row in case["rows"]}
        verdict = ""
        if case["target"] is not None and PEER in rows:
            verdict = "met" if rows[PEER]["over_camfast"] >= case["target"] else "MISSED"
        target = f"{case['target']:g}" if case["target"] else ""
        cells = [case["label"], tick(rows[OURS]["median_s"]), target, verdict]
        cells += [
            f"{rows[n]['over_camfast']:.2f}{'*' if rows[n].get('note') else ''}" if n in rows else "" for n in names
        ]
        lines.append([*cells, "LOSES" if losses(case["rows"]) else ""])
        if rows[OURS].get("peak_bytes") is not None:
            peaks = [rows.get(n, {}).get("peak_bytes") for n in (OURS, *names)]
            memory.append([case["label"], *("" if p is None else f"{p / 1e6:.1f}" for p in peaks)])
    parts = [
        "\nThe others' time over camfast's; the target is for "
        + PEER
        + "; * another formula\n"
        + table(["case", OURS, "target", "", *names, ""], lines)
    ]
    if memory:
        parts.append("\nPeak memory of a call (MB)\n" + table(["case", OURS, *names], memory))
    for case in report["cases"]:
        parts += [f"refused: {name} on {case['label']} ({reason})" for name, reason in case["refused"].items()]
    for kind in ("skipped", "failed"):
        parts += [f"{kind}: {x['label']} ({x['reason']})" for x in report[kind]]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
