"""The ops against everything else that does their work, and against the limits of the machine.

    python benchmarks/bench_ops.py                    # CPU, one and two threads
    python benchmarks/bench_ops.py --device cuda
    python benchmarks/bench_ops.py --quick --only grad_cam

"eager" is the fastest of several hand-written versions (`eager.py`), "torch.compile" the same compiled. Each
candidate's output is compared with the reference before anything is timed. Writes a JSON, prints a table, draws a
chart. On CUDA every candidate is timed in up to four ways: ``events`` (queued call after call), ``graph`` (captured
many times in one CUDA graph, inputs rotating so that they come from memory), ``replay`` (a graph of one call, launched
again and again) and ``host`` (what queueing a call costs the processor).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import HostTimer, Result, Timer, measure, progress
from op_cases import BIG, LAST, SQUARE, OpCase, cpu_cases, cuda_cases, quick
from op_peers import Peer, limit, peers_of, reference_result
from report import OURS, RESULTS, losses, metadata, one_line, table, tick, write_json
from torch import Tensor

PYTORCH = ("eager", "torch.compile")


def main() -> int:
    options = _options()
    cases = quick(_all_cases(options.device)) if options.quick else _all_cases(options.device)
    cases = [c for c in cases if all(word in c.label for word in options.only)]
    threads = options.threads if options.device == "cpu" else [torch.get_num_threads()]
    path = options.output or RESULTS / f"ops-{options.device}.json"
    report: dict[str, Any] = {
        "kind": "ops",
        "meta": metadata(options.device),
        "settings": {
            "seconds": options.seconds,
            "quick": options.quick,
            "threads": threads,
            "tensors": "random, seed 0",
        },
        "cases": [],
        "skipped": [],
        "failed": [],
    }
    started = time.monotonic()
    for case, count in progress([(c, t) for c in cases for t in threads], "ops"):
        if options.deadline and time.monotonic() - started > options.deadline:
            report["skipped"].append({**case.describe(), "threads": count, "reason": "out of time"})
            continue
        try:
            with torch.no_grad():
                run = _on_cuda if options.device == "cuda" else _on_cpu
                report["cases"].append(run(case, count, options))
        except Exception as error:  # one broken case must not lose the others; it fails the run at the end
            report["failed"].append({**case.describe(), "threads": count, "reason": one_line(error)})
        write_json(path, report)
    write_json(path, report)
    print(_tables(report))
    print(f"\n{path}")
    if options.chart and report["cases"]:
        _draw(path)
    return 1 if report["failed"] else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, nargs="+", help="CPU thread counts (default 1 2, quick 2)")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="cases whose label holds every WORD")
    parser.add_argument("--quick", action="store_true", help="a handful of cases, shorter samples")
    parser.add_argument("--seconds", type=float, help="time a case (default 4, quick 1)")
    parser.add_argument(
        "--compile", choices=["all", "some", "few", "none"], default="some", help="torch.compile: where"
    )
    parser.add_argument("--deadline", type=float, metavar="SECONDS", help="begin no case after this time")
    parser.add_argument("--output", type=Path, metavar="JSON", help="default benchmarks/results/ops-DEVICE.json")
    parser.add_argument("--no-chart", dest="chart", action="store_false")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a CUDA device, got none")
    options.seconds = options.seconds or (1.0 if options.quick else 4.0)
    options.threads = options.threads or ([2] if options.quick else [1, 2])
    return options


def _all_cases(device: str) -> list[OpCase]:
    return cuda_cases() if device == "cuda" else cpu_cases()


def _compiled_too(case: OpCase, threads: int, options: argparse.Namespace) -> bool:
    """Compiling takes longer than measuring: by default only the cases a reader asks about first."""
    if options.compile in ("all", "none"):
        return options.compile == "all"
    if options.compile == "few":
        return case in (OpCase("grad_cam", LAST, SQUARE), OpCase("grad_cam", BIG, SQUARE))
    plain = case.dtype == "float32" and case.layout == "contiguous" and case.targets == 1
    if options.device == "cuda":
        return plain and (case.op == "grad_cam" or case.bytes_moved < 2 << 20)
    return case.targets <= 5 and (case.op == "grad_cam" or threads > 1)


def _on_cpu(case: OpCase, threads: int, options: argparse.Namespace) -> dict[str, Any]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    _opencv_threads(threads)
    try:
        tensors = case.inputs()
        peers = peers_of(case, "cpu", tensors, _compiled_too(case, threads, options))
        peers, errors, refused = _check(case, peers, tensors)
        timers: dict[str, Timer] = {p.name: HostTimer(_bound(p.call, tensors)) for p in peers}
        least, call = limit(case, tensors)
        timers[least] = HostTimer(call)
        results = measure(timers, seconds=options.seconds)
    finally:
        torch.set_num_threads(before)
    rows = _rows(results, "wall", peers, errors)
    about = {"device": "cpu", "threads": threads, "bytes_moved": case.bytes_moved, "refused": refused}
    return {**case.describe(), **about, "rows": rows}


def _on_cuda(case: OpCase, threads: int, options: argparse.Namespace) -> dict[str, Any]:
    import cuda_timing as ct

    small = case.bytes_moved < 8 << 20
    count = ct.sets_beyond_l2(case.bytes_in, most=24)
    sets = [case.inputs("cuda", seed) for seed in range(count)]
    peers = peers_of(case, "cuda", sets[0], _compiled_too(case, threads, options))
    if case.bytes_moved > 64 << 20:  # other libraries go over the images one by one on the host: seconds a call
        peers = [p for p in peers if p.name == OURS or p.name in PYTORCH]
    peers, errors, refused = _check(case, peers, sets[0])
    nodes = count * max(1, 20 // count)
    empty, empty_name = ct.empty_kernel()
    copy = ct.copy_call(case.bytes_moved)
    large_copy = copy if not small else ct.copy_call(1 << 30)
    modes: dict[str, dict[str, Timer]] = {mode: {} for mode in ("events", "graph", "replay", "host")}
    for peer in peers:
        once = _bound(peer.call, sets[0])
        if not peer.captures:
            modes["events"][peer.name] = HostTimer(once, torch.cuda.synchronize)
            continue
        modes["events"][peer.name] = ct.EventTimer(ct.rotating(peer.call, sets))
        try:
            modes["graph"][peer.name] = ct.GraphTimer(ct.rotating(peer.call, sets), nodes)
            if small:
                modes["replay"][peer.name] = ct.GraphTimer(once, 1)
        except Exception as error:
            refused[f"{peer.name}, captured"] = one_line(error)
            if peer.name == OURS:
                raise
        if small:
            modes["host"][peer.name] = ct.QueueTimer(once)
    modes["graph"]["device copy"] = ct.GraphTimer(copy, max(1, min(nodes, (4 << 30) // case.bytes_moved)))
    if small:
        modes["graph"]["empty kernel"] = ct.GraphTimer(empty, nodes)
        modes["replay"]["empty kernel"] = ct.GraphTimer(empty, 1)
        little = torch.rand(8, device="cuda")
        modes["host"]["torch.relu"] = ct.QueueTimer(lambda: torch.relu(little))
    rows = []
    for mode, timers in modes.items():
        share = options.seconds * len(timers) / sum(map(len, modes.values()))
        results = measure(timers, seconds=share, max_rounds=30)
        rows += _rows(results, mode, peers, errors)
    ceiling = measure({"copy": ct.EventTimer(large_copy)}, seconds=0.1)["copy"].minimum
    return {
        **case.describe(),
        "device": "cuda",
        "bytes_moved": case.bytes_moved,
        "copy_bytes_per_s": ((1 << 30) if small else case.bytes_moved // 8 * 8) / ceiling,
        "input_sets": count,
        "launches": ct.launches(_bound(peers[0].call, sets[0])),
        "empty": empty_name,
        "refused": refused,
        "rows": rows,
    }


def _bound(call: Callable[..., Any], tensors: tuple[Tensor, ...]) -> Callable[[], Any]:
    return lambda: call(*tensors)


def _opencv_threads(count: int) -> None:
    try:
        import cv2
    except ImportError:
        return
    cv2.setNumThreads(count)


def _check(
    case: OpCase, peers: list[Peer], tensors: tuple[Tensor, ...]
) -> tuple[list[Peer], dict[str, float], dict[str, str]]:
    """The peers that do the work, their largest differences from the reference, and why the others do not.

    Raises where camfast is the one that does not.
    """
    expected = reference_result(case, tensors).cpu().double()
    able, errors, refused = [], {}, {}
    for peer in peers:
        try:
            got = peer.call(*tensors)
            if peer.tolerance is not None:
                errors[peer.name] = _difference(peer.result(got).cpu().double(), expected)
                if not errors[peer.name] <= peer.tolerance:  # not: NaN fails too
                    raise ValueError(f"expected at most {peer.tolerance:.2g} off, got {errors[peer.name]:.2g}")
            able.append(peer)
        except Exception as error:
            if peer.name == OURS:
                raise
            refused[peer.name] = one_line(error)
    return able, errors, refused


def _difference(got: Tensor, expected: Tensor) -> float:
    if got.shape != expected.shape:
        raise ValueError(f"expected shape {list(expected.shape)}, got {list(got.shape)}")
    return float((got - expected).abs().max())


def _rows(results: dict[str, Result], mode: str, peers: list[Peer], errors: dict[str, float]) -> list[dict[str, Any]]:
    notes = {p.name: p.note for p in peers if p.note}
    rows = []
    for name, result in results.items():
        row: dict[str, Any] = {"candidate": name, "mode": mode, **result.summary()}
        if OURS in results:
            row["over_camfast"] = result.ratio(results[OURS])
        if name in errors:
            row["max_error"] = errors[name]
        if name in notes:
            row["note"] = notes[name]
        rows.append(row)
    return rows


def _draw(path: Path) -> None:
    try:
        import charts
    except ImportError as missing:
        print(f"no chart drawn: {missing}", file=sys.stderr)
        return
    print(charts.draw(path))


def _tables(report: dict[str, Any]) -> str:
    parts = []
    for mode in ("wall", "events", "graph", "replay", "host"):
        by_case = [(case, [row for row in case["rows"] if row["mode"] == mode]) for case in report["cases"]]
        by_case = [(case, rows) for case, rows in by_case if rows]
        names = list(dict.fromkeys(row["candidate"] for _, rows in by_case for row in rows if row["candidate"] != OURS))
        if by_case:
            share = ["of copy"] if mode == "graph" else []
            lines = [_line(case, {row["candidate"]: row for row in rows}, names, mode) for case, rows in by_case]
            parts.append(
                f"\nThe others' time over camfast's ({mode})\n" + table(["case", OURS, *share, *names, ""], lines)
            )
    for case in report["cases"]:
        parts += [f"refused: {name} on {case['label']} ({reason})" for name, reason in case["refused"].items()]
    for kind in ("skipped", "failed"):
        parts += [f"{kind}: {x['label']} ({x['reason']})" for x in report[kind]]
    return "\n".join(parts)


def _line(case: dict[str, Any], rows: dict[str, Any], names: list[str], mode: str) -> list[str]:
    label = case["label"] + (f" {case['threads']} thr" if case["device"] == "cpu" else "")
    cells = [label, tick(rows[OURS]["median_s"])]
    if mode == "graph":
        cells.append(f"{case['bytes_moved'] / rows[OURS]['median_s'] / case['copy_bytes_per_s']:.0%}")
    cells += [f"{rows[name]['over_camfast']:.2f}" if name in rows else "" for name in names]
    return [*cells, "LOSES" if losses(list(rows.values())) else ""]


if __name__ == "__main__":
    sys.exit(main())
