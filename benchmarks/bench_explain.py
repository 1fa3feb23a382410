"""Whole explanations: Grad-CAM by each library over the same network's plain forward pass, in the same run.

    python benchmarks/bench_explain.py                     # CPU, about a quarter of an hour on two cores
    python benchmarks/bench_explain.py --quick
    python benchmarks/bench_explain.py --models resnet50 --batch 1 8 --targets 1 5
    python benchmarks/bench_explain.py --compile           # camfast with compile=True as well, after a minute a case
    python benchmarks/bench_explain.py --device cuda       # and with graph=True

The heatmaps of all libraries are compared before anything is timed. Weights are random: they change neither time nor
memory. Writes a JSON, prints tables, draws a chart.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from explain_cases import NETWORKS, ExplainCase, explainers, load, min_max, repeated
from explain_memory import bytes_needed, peak_in_process, peak_on_cuda
from harness import HostTimer, Timer, measure, progress
from report import OURS, RESULTS, losses, metadata, one_line, table, tick, write_json
from torch import Tensor, nn

# The dearest last: what a run short of time leaves out.
CPU_NETWORKS = ["resnet50", "mobilenet_v3_large", "efficientnet_b0", "convnext_tiny", "vgg16"]
CUDA_NETWORKS = ["resnet50", "efficientnet_b0", "convnext_tiny", "vit_b_16"]
TOLERANCE = {"float32": 1e-3, "float16": 0.3, "bfloat16": 0.6}  # half types: each library rounds at other places


def main() -> int:
    options = _options()
    cases = _cases(options)
    path = options.output or RESULTS / f"explain-{options.device}.json"
    if options.threads:
        torch.set_num_threads(options.threads)
    report: dict[str, Any] = {
        "kind": "explain",
        "meta": metadata(options.device),
        "settings": {"seconds": options.seconds, "quick": options.quick, "weights": "random", "images": "3x224x224"},
        "cases": [],
        "memory": [],
        "skipped": [],
        "failed": [],
    }
    started = time.monotonic()
    spent: dict[tuple[str, int, int, str], float] = {}
    for case in progress(cases, "explanations"):
        # Four times the batch takes about four times as long.
        expected = 4 * spent.get((case.network, case.batch // 4, case.targets, case.dtype), 0.0)
        if options.deadline and time.monotonic() - started + expected > options.deadline:
            report["skipped"].append({"label": case.label, "reason": "out of time"})
            continue
        begun = time.monotonic()
        try:
            _measure(case, options, report)
        except Exception as error:  # one broken case must not lose the others; it fails the run at the end
            report["failed"].append({"label": case.label, "reason": one_line(error)})
        spent[case.network, case.batch, case.targets, case.dtype] = time.monotonic() - begun
        write_json(path, report)
    if options.device == "cpu":
        _measure_memory(options, report)
    write_json(path, report)
    print(_tables(report))
    print(f"\n{path}")
    if options.chart and report["cases"]:
        _draw(path)
    return 1 if report["failed"] else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--models", nargs="+", choices=list(NETWORKS), metavar="NAME", help=", ".join(NETWORKS))
    parser.add_argument("--batch", nargs="+", type=int, metavar="N")
    parser.add_argument("--targets", nargs="+", type=int, metavar="K", help="classes an image")
    parser.add_argument("--dtype", nargs="+", choices=["float32", "float16", "bfloat16"], help="CUDA only")
    parser.add_argument("--memory", nargs="*", metavar="NAME", help="networks whose peak memory is measured (CPU)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--quick", action="store_true", help="two networks, about two minutes")
    parser.add_argument("--compile", action="store_true", help="CPU: camfast with compile=True among the candidates")
    parser.add_argument("--seconds", type=float, help="time a case (default 12, quick 5, CUDA 1.5)")
    parser.add_argument(
        "--deadline", type=float, metavar="SECONDS", help="begin no case after this (default 800; 0: none)"
    )
    parser.add_argument("--output", type=Path, metavar="JSON", help="default benchmarks/results/explain-DEVICE.json")
    parser.add_argument("--no-chart", dest="chart", action="store_false")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a CUDA device, got none")
    if options.seconds is None:
        options.seconds = 1.5 if options.device == "cuda" else 5.0 if options.quick else 12.0
    if options.deadline is None:
        options.deadline = 800.0
    if options.memory is None:
        options.memory = [] if options.quick else ["resnet50", "efficientnet_b0"]
    return options


def _cases(options: argparse.Namespace) -> list[ExplainCase]:
    """What was asked for, or the default: one image, for one and five classes, then wider and wider."""
    cuda = options.device == "cuda"
    dtypes = (options.dtype or ["float32", "float16", "bfloat16"]) if cuda else ["float32"]
    names = options.models or (CUDA_NETWORKS if cuda else CPU_NETWORKS)
    if options.quick and not options.models:
        names = ["resnet50", "mobilenet_v3_large"] if not cuda else ["resnet50", "vit_b_16"]
    default = [1, 32, 256] if cuda else [1, 8, 32]
    batches = options.batch or (default[:2] if options.quick else default)
    if options.targets:
        pairs = [(n, k) for n in batches for k in options.targets]
    else:
        pairs = [(n, k) for n in batches for k in ((1, 5) if n == batches[0] else (1,))]
    return [
        ExplainCase(name, n, k, dtype)
        for n, k in pairs
        for dtype in (dtypes if k == 1 or options.targets else dtypes[:1])
        for name in names
    ]


def _measure(case: ExplainCase, options: argparse.Namespace, report: dict[str, Any]) -> None:
    cuda = options.device == "cuda"
    model, images = load(case, options.device)
    calls = {"forward": _forward(model, images), **explainers(case, model, images)}
    synchronize = torch.cuda.synchronize if cuda else None
    refused: dict[str, str] = {}
    try:
        if cuda or options.compile:
            calls |= repeated(case, model, images, **({"graph": True} if cuda else {"compile": True}))
    except ValueError as error:
        refused[f"{OURS}, {'graph' if cuda else 'compile'}=True"] = one_line(error)
    errors = _check(case, calls, refused)
    timers: dict[str, Timer] = {name: HostTimer(call, synchronize) for name, call in calls.items()}
    results = {"wall": measure(timers, seconds=options.seconds, min_rounds=2)}
    if cuda:
        from cuda_timing import EventTimer

        graphs = _graphs({name: calls[name] for name in ("forward", OURS)}, refused)
        graphs |= {name: EventTimer(call) for name, call in calls.items() if name.startswith(f"{OURS}, ")}
        results["graph"] = measure(graphs, seconds=options.seconds / 2)
    rows = []
    for mode, measured in results.items():
        for name, result in measured.items():
            row = {"candidate": name, "mode": mode, **result.summary()}
            row["over_forward"] = result.ratio(measured["forward"]) if "forward" in measured else None
            if OURS in measured:
                row["over_camfast"] = result.ratio(measured[OURS])
            if name in errors:
                row["max_difference"] = errors[name]
            rows.append(row)
    report["cases"].append(
        {
            "label": case.label,
            "network": case.network,
            "batch": case.batch,
            "targets": case.targets,
            "dtype": case.dtype,
            "budget": case.budget if case.budget < float("inf") else None,
            "refused": refused,
            "rows": rows,
        }
    )
    if cuda:
        peaks = {name: peak_on_cuda(call, model) for name, call in calls.items()}
        report["memory"].append({"label": case.label, "needed": bytes_needed(case, model, images), "peaks": peaks})


def _forward(model: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    def forward() -> Tensor:
        with torch.inference_mode():
            return model(images)

    return forward


def _check(case: ExplainCase, calls: dict[str, Callable[[], Any]], refused: dict[str, str]) -> dict[str, float]:
    """Each library's largest difference from camfast's heatmaps; raises where it is more than rounding explains.

    A library that cannot do the case at all leaves ``calls``, and says why in ``refused``.
    """
    ours = min_max(calls[OURS]())
    if not (ours.flatten(1).amax(1) > 0.5).any():
        raise ValueError(
            "expected a heatmap with something in it, got constant ones: the comparison would mean nothing"
        )
    errors = {}
    for name in [name for name in calls if name not in ("forward", OURS)]:
        try:
            theirs = min_max(calls[name]())
        except Exception as error:  # bf16, for one
            refused[name] = one_line(error)
            del calls[name]
            continue
        errors[name] = float((theirs - ours).abs().max())
        if not errors[name] <= TOLERANCE[case.dtype]:
            raise ValueError(f"{name}: expected the heatmaps of camfast, got a difference of {errors[name]:.2g}")
    return errors


def _graphs(calls: dict[str, Callable[[], Any]], refused: dict[str, str]) -> dict[str, Timer]:
    """Each call captured in a CUDA graph; the reasons of those that cannot be go to ``refused``."""
    from cuda_timing import GraphTimer

    timers: dict[str, Timer] = {}
    for name, call in calls.items():
        try:
            timers[name] = GraphTimer(call, 1)
        except Exception as error:
            refused[f"{name}, captured"] = one_line(error)
            torch.cuda.synchronize()
    return timers


def _measure_memory(options: argparse.Namespace, report: dict[str, Any]) -> None:
    """Peak resident memory at batch 8, each candidate in its own process."""
    for name in progress(options.memory, "memory"):
        case = ExplainCase(name, 8)
        try:
            model, images = load(case, "cpu")
            candidates = ["forward", *explainers(case, model, images)]
            peaks = {c: peak_in_process(case, c, torch.get_num_threads()) for c in candidates}
            needed = bytes_needed(case, model, images)
            report["memory"].append({"label": case.label, "needed": needed, "peaks": peaks})
        except Exception as error:
            report["failed"].append({"label": f"memory of {case.label}", "reason": one_line(error)})


def _draw(path: Path) -> None:
    try:
        import charts
    except ImportError as missing:
        print(f"no chart drawn: {missing}", file=sys.stderr)
        return
    print(charts.draw(path))


def _tables(report: dict[str, Any]) -> str:
    parts = []
    for mode in ("wall", "graph"):
        lines = []
        names = list(dict.fromkeys(row["candidate"] for case in report["cases"] for row in case["rows"]))
        names = [name for name in names if name not in ("forward", OURS)]
        for case in report["cases"]:
            rows = {row["candidate"]: row for row in case["rows"] if row["mode"] == mode}
            if "forward" not in rows or OURS not in rows:
                continue
            budget = case["budget"]
            ours = rows[OURS]["over_forward"]
            verdict = "" if budget is None else "met" if ours <= budget else "MISSED"
            cells = [case["label"], tick(rows["forward"]["median_s"]), f"{ours:.3f}"]
            cells += [f"{budget:.2f}" if budget else "", verdict]
            cells += [f"{rows[name]['over_forward']:.2f}" if name in rows else "" for name in names]
            lines.append([*cells, "LOSES" if losses(list(rows.values())) else ""])
        if lines:
            header = ["case", "forward", OURS, "budget", "", *names, ""]
            parts.append(f"\nGrad-CAM, time over the plain forward's ({mode})\n" + table(header, lines))
    if report["memory"]:
        names = list(dict.fromkeys(name for m in report["memory"] for name in m["peaks"]))
        lines = []
        for m in report["memory"]:
            forward = m["peaks"].get("forward")
            extra = [
                "" if forward is None or m["peaks"].get(name) is None else _mb(m["peaks"][name] - forward)
                for name in names
                if name != "forward"
            ]
            lines.append([m["label"], _mb(forward), _mb(m["needed"]), *extra])
        header = ["case", "forward", "A + G + out", *[n for n in names if n != "forward"]]
        parts.append("\nPeak memory: the forward's, and what each adds to it (MB)\n" + table(header, lines))
    for case in report["cases"]:
        parts += [f"refused: {name} on {case['label']} ({reason})" for name, reason in case["refused"].items()]
    for kind in ("skipped", "failed"):
        parts += [f"{kind}: {x['label']} ({x['reason']})" for x in report[kind]]
    return "\n".join(parts)


def _mb(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:.1f}"


if __name__ == "__main__":
    sys.exit(main())
