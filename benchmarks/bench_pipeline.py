"""Large maps with and without the pipeline (`csrc/cuda/cam_pipeline.cuh`): values first, then times, and which one won.

    python benchmarks/bench_pipeline.py --device cuda

The pipeline is off until a GPU has shown it to be right and faster; ``CAMFAST_PIPELINE=1`` asks for it. Every result is compared
with the reference and with the usual kernel's; a case whose values differ is not timed and fails the run. Both candidates take
turns in one process, each in a CUDA graph of its own. Without a GPU the processor's kernels run, to try the program.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from harness import HostTimer, Timer, measure
from op_cases import BIG_EARLY, EARLY, SQUARE, OpCase
from op_peers import peers_of, reference_result
from pipeline_model import Gpu, predict
from report import RESULTS, metadata, one_line, table, tick, write_json
from torch import Tensor

import camfast

USUAL, PIPELINE, VARIABLE = "usual", "pipeline", "CAMFAST_PIPELINE"
OPS = ("grad_cam", "hires_cam", "layer_cam", "grad_cam_elementwise")
# Rows that start anywhere in a unit of 16 bytes, few and many channels, one and several dimensions; the last one is the target's.
VALUES = [(2, 7, 33, 33), (1, 64, 36, 32), (3, 5, 4, 9, 31), (1, 1, 1025), (9, 40, 45, 47), (2, 256, 56, 56)]
DTYPES = ("float32", "float16", "bfloat16")
LIMIT = 2e-5  # between the two kernels, of the largest value


def timed_cases() -> list[OpCase]:
    """The targets, most important first: 200 MB and more, then what fits the cache."""
    double = (2 * BIG_EARLY[0], *BIG_EARLY[1:])
    large = [OpCase(op, BIG_EARLY, SQUARE) for op in OPS]
    half = [OpCase(op, double, SQUARE, dtype="bfloat16") for op in OPS[:2]]
    odd = [OpCase(OPS[0], (64, 256, 55, 57), SQUARE), OpCase(OPS[0], (128, 256, 40, 40), SQUARE)]
    return [*large, *half, *odd, OpCase(OPS[0], EARLY, SQUARE), OpCase(OPS[0], (1, 256, 56, 56), SQUARE)]


@contextmanager
def pipeline(wanted: bool) -> Any:
    """The variable while calls are made, or captured, inside."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(int(wanted))
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def values(device: str) -> list[dict[str, Any]]:
    """The largest difference of every case from the reference and from the usual kernel, and whether it is right."""
    found = []
    for shape in VALUES:
        for op in OPS:
            for dtype in DTYPES:
                rng = torch.Generator().manual_seed(0)
                A, G = (torch.randn(shape, generator=rng).to(device, getattr(torch, dtype)) for _ in range(2))
                for size in (None, (19,) * (len(shape) - 2)):
                    found.append({"label": f"{op} {list(shape)} {dtype} to {size}", **_compare(op, A.relu(), G, size)})
    return found


def _compare(op: str, A: Tensor, G: Tensor, size: Any) -> dict[str, Any]:
    ours, reference = getattr(camfast.ops, op), getattr(camfast.reference, op)
    try:
        with pipeline(False):
            usual = ours(A, G, size, False).double()
        with pipeline(True):
            piped = [ours(A, G, size, False).double() for _ in range(3)]
        expected = reference(A.double(), G.double(), size, False)
    except Exception as error:
        return {"right": False, "reason": one_line(error)}
    scale = max(1.0, float(expected.abs().max()))
    apart = float((piped[0] - expected).abs().max()) / scale
    usual_apart = float((piped[0] - usual).abs().max()) / scale
    same = all(torch.equal(piped[0], other) for other in piped[1:])  # from run to run, to the last bit
    return {
        "right": apart <= LIMIT and usual_apart <= LIMIT and same,
        "reference": apart,
        USUAL: usual_apart,
        "same": same,
    }


def kernels(call: Callable[[], Any]) -> list[str] | None:
    """The names of the kernels that a call launches; None where the profiler is refused."""
    try:
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            call()
            torch.cuda.synchronize()
        return [e.name for e in seen.events() if e.device_type == torch.autograd.DeviceType.CUDA] or None
    except Exception:  # profiling needs rights that shared machines often withhold
        return None


def timed(case: OpCase, device: str, seconds: float) -> dict[str, Any]:
    """Both candidates and PyTorch's best, in turns."""
    op = getattr(camfast.ops, case.op)
    timers: dict[str, Timer] = {}
    about: dict[str, Any] = {**case.describe(), "bytes_moved": case.bytes_moved}
    tensors = case.inputs(device)
    with pipeline(False):
        usual = op(*tensors, case.size)
    with pipeline(True):
        apart = float((op(*tensors, case.size) - usual).abs().max())
    if not apart <= LIMIT:  # not: NaN fails too
        raise ValueError(f"expected at most {LIMIT:.2g} off the usual kernel's heatmap, got {apart:.2g}")
    if device == "cpu":
        for name, wanted in ((USUAL, False), (PIPELINE, True)):
            timers[name] = HostTimer(_with_pipeline(wanted, lambda: op(*tensors, case.size)))
    else:
        import cuda_timing as ct

        sets = [case.inputs("cuda", seed) for seed in range(ct.sets_beyond_l2(case.bytes_in, most=8))]
        nodes = len(sets) * max(1, 8 // len(sets))
        for name, wanted in ((USUAL, False), (PIPELINE, True)):
            with pipeline(wanted):  # a graph keeps the kernel that it was captured with
                timers[name] = ct.GraphTimer(ct.rotating(lambda *tensors: op(*tensors, case.size), sets), nodes)
                if wanted:
                    names = kernels(lambda: op(*sets[0], case.size))
                    about["pipeline_ran"] = None if names is None else any("pipeline" in n for n in names)
        expected = reference_result(case, sets[0]).cpu().double()
        best = [p for p in peers_of(case, "cuda", sets[0], False) if p.name == "eager" and p.captures]
        for peer in best[:1]:
            if float((peer.result(peer.call(*sets[0])).cpu().double() - expected).abs().max()) < 1e-2:
                timers["PyTorch"] = ct.GraphTimer(ct.rotating(peer.call, sets), nodes)
        timers["device copy"] = ct.GraphTimer(ct.copy_call(case.bytes_moved), nodes)
    results = measure(timers, seconds=seconds, max_rounds=30)
    ratio = results[PIPELINE].ratio(results[USUAL])
    rows = {name: result.summary() for name, result in results.items()}
    if device == "cuda" and (gpu := this_gpu(case.bytes_moved / results["device copy"].median)):
        about["predicted"] = predict(case, gpu)
    return {**about, "rows": rows, "ratio": ratio, "winner": winner(ratio)}


def this_gpu(copy: float) -> Gpu | None:
    """For the model, which knows clusters only; ``copy`` in bytes a second."""
    about = torch.cuda.get_device_properties(torch.cuda.current_device())
    if about.major < 9:
        return None
    shared = getattr(about, "shared_memory_per_block_optin", 99 * 1024)
    return Gpu(about.multi_processor_count, copy, shared=shared)


def _with_pipeline(wanted: bool, call: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with pipeline(wanted):
            return call()

    return run


def winner(ratio: float) -> str:
    """Of the pipeline's time over the usual kernel's: within 2 % is a tie."""
    return PIPELINE if ratio < 0.98 else USUAL if ratio > 1.02 else "tie"


def verdict(report: dict[str, Any]) -> str:
    """One sentence: whether the pipeline should be on by default."""
    wrong = [v for v in report["values"] if not v["right"]]
    if wrong:
        return f"the pipeline is WRONG in {len(wrong)} of {len(report['values'])} cases, first {wrong[0]['label']}: leave it off"
    if failed := report.get("failed"):
        return f"{len(failed)} cases failed, first {failed[0]['label']}: leave the pipeline off"
    if any(case.get("pipeline_ran") is False for case in report["cases"]):
        return "the pipeline was asked for and did not run: nothing is compared"
    wins = [case["winner"] for case in report["cases"]]
    if not wins:
        return "nothing was timed"
    large = [case["winner"] for case in report["cases"] if case["bytes_moved"] >= 200_000_000]
    on = bool(large) and all(w == PIPELINE for w in large) and USUAL not in wins
    counted = f"it wins {wins.count(PIPELINE)} of {len(wins)}, loses {wins.count(USUAL)}"
    return (
        f"the pipeline is right in {len(report['values'])} cases; {counted}: {'turn it on' if on else 'leave it off'}"
    )


def tables(report: dict[str, Any]) -> str:
    """The timed cases, and the verdict."""
    lines = []
    for case in report["cases"]:
        rows = case["rows"]
        times = [tick(rows[name]["median_s"]) if name in rows else "" for name in (USUAL, PIPELINE, "PyTorch")]
        share = rows["device copy"]["median_s"] / rows[PIPELINE]["median_s"] if "device copy" in rows else None
        predicted = case.get("predicted")
        cells = [f"{share:.0%}" if share else "", f"{case['ratio']:.2f}", case["winner"]]
        lines.append([case["label"], *times, tick(predicted["all"]) if predicted else "", *cells])
    shown = table(["large maps", USUAL, PIPELINE, "PyTorch", "predicted", "of copy", "ratio", "won"], lines)
    wrong = [f"WRONG {v['label']}: {v}" for v in report["values"] if not v["right"]]
    failed = [f"FAILED {x['label']}: {x['reason']}" for x in report["failed"]]
    return "\n".join([shown, *wrong[:10], *failed, verdict(report)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--seconds", type=float, default=0.4, help="time a case (default 0.4)")
    parser.add_argument("--deadline", type=float, metavar="SECONDS", help="begin no case after this time")
    parser.add_argument("--quick", action="store_true", help="the smallest timed case alone")
    parser.add_argument("--output", type=Path, metavar="JSON")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a CUDA device, got none")
    path = options.output or RESULTS / f"pipeline-{options.device}.json"
    started = time.monotonic()
    report: dict[str, Any] = {
        "kind": "pipeline",
        "meta": metadata(options.device),
        "cases": [],
        "skipped": [],
        "failed": [],
    }
    with torch.no_grad():
        report["values"] = values(options.device)
        write_json(path, report)
        right = all(v["right"] for v in report["values"])
        for case in (timed_cases()[-1:] if options.quick else timed_cases()) if right else []:
            if options.deadline and time.monotonic() - started > options.deadline:
                report["skipped"].append({**case.describe(), "reason": "out of time"})
                continue
            try:
                report["cases"].append(timed(case, options.device, options.seconds))
            except Exception as error:  # one broken case must not lose the others; it fails the run at the end
                report["failed"].append({**case.describe(), "reason": one_line(error)})
            write_json(path, report)
    report["verdict"] = verdict(report)
    write_json(path, report)
    print(tables(report))
    return 0 if right and not report["failed"] else 1


if __name__ == "__main__":
    sys.exit(main())
