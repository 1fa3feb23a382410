"""A training step with a loss on heat over the plain step, by camfast, by hand in PyTorch, and by pytorch-grad-cam.

    python benchmarks/bench_training.py                    # CPU, about 20 minutes on two cores
    python benchmarks/bench_training.py --quick
    python benchmarks/bench_training.py --models resnet50 --batch 8
    python benchmarks/bench_training.py --models resnet18 --batch 2 --soak 2000    # memory over 2,000 steps

Losses and the gradients of every parameter are compared before anything is timed. A step is everything: the pass, the heat,
the backward pass, the optimiser. Writes a JSON, prints tables, draws a chart. Peak memory is that of a process of its own
for each candidate.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import HostTimer, Timer, measure, progress
from report import OURS, RESULTS, losses, metadata, one_line, table, tick, write_json
from torch import Tensor, nn
from training_cases import NETWORKS, PLAIN, Loss, TrainingCase, candidates, gradients

TOLERANCE = 1e-3  # of a parameter's gradient, relative to its largest value; sums in fp32 differ by their order


def main() -> int:
    options = _options()
    if options.peak:
        return _print_peak(*options.peak)
    path = options.output or RESULTS / f"training-{options.device}.json"
    cases = [TrainingCase(name, n) for name in options.models for n in options.batch]
    if options.threads:
        torch.set_num_threads(options.threads)
    report: dict[str, Any] = {
        "kind": "training",
        "meta": metadata(options.device),
        "settings": {"seconds": options.seconds, "quick": options.quick, "weights": "random", "images": "3x224x224"},
        "cases": [],
        "soak": [],
        "failed": [],
    }
    for case in progress(cases, "training steps"):
        try:
            if options.soak:
                report["soak"].append({"label": case.label, **_soak(case, options.soak, options.device)})
            else:
                report["cases"].append(_measure(case, options))
        except Exception as error:  # one broken case must not lose the others; it fails the run at the end
            report["failed"].append({"label": case.label, "reason": one_line(error)})
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
    parser.add_argument("--batch", nargs="+", type=int, metavar="N", help="images a step (default 8, CUDA 32)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--quick", action="store_true", help="ResNet-18 and ViT-S, no memory")
    parser.add_argument("--seconds", type=float, help="time a case (default 120, quick 30, CUDA 10)")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave peak memory out")
    parser.add_argument("--soak", type=int, metavar="STEPS", help="no times: camfast's memory over so many steps")
    parser.add_argument("--output", type=Path, metavar="JSON", help="default benchmarks/results/training-DEVICE.json")
    parser.add_argument("--no-chart", dest="chart", action="store_false")
    parser.add_argument(
        "--peak", nargs=3, help=argparse.SUPPRESS
    )  # network, batch and candidate, in a process of its own
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a CUDA device, got none")
    cuda = options.device == "cuda"
    options.models = options.models or (["resnet18", "vit_small_patch16_224"] if options.quick else list(NETWORKS))
    options.batch = options.batch or [32 if cuda else 8]
    options.seconds = options.seconds or (10.0 if cuda else 30.0 if options.quick else 120.0)
    options.memory = options.memory and not options.quick
    return options


def _measure(case: TrainingCase, options: argparse.Namespace) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = candidates(case, options.device)
        refused: dict[str, str] = {}
        errors = _check(found, refused)
        wait = torch.cuda.synchronize if options.device == "cuda" else None
        timers: dict[str, Timer] = {name: HostTimer(_step(*found[name][:2]), wait) for name in found}
        results = measure(timers, seconds=options.seconds, min_rounds=5, max_rounds=40)
        peaks = {name: _peak(case, name, found[name], options) for name in found} if options.memory else {}
    rows = []
    for name, result in results.items():
        row: dict[str, Any] = {"candidate": name, "mode": "wall", **result.summary()}
        row["over_camfast"] = result.ratio(results[OURS])
        row["over_plain"] = result.ratio(results[PLAIN])
        row["note"] = found[name][2]
        if name in errors:
            row["max_difference"] = errors[name]
        if name in peaks:
            row["peak_bytes"] = peaks[name]
        rows.append(row)
    return {
        "label": case.label,
        "budget": case.budget,
        "layer": NETWORKS[case.network].layer,
        "refused": refused,
        "rows": rows,
    }


def _check(found: dict[str, tuple[nn.Module, Loss, str]], refused: dict[str, str]) -> dict[str, float]:
    """Each candidate's largest difference from camfast's gradients, relative to a parameter's largest.

    Raises ``ValueError`` where it is more than rounding explains. A candidate that cannot do the case leaves ``found``,
    and says why in ``refused``.
    """
    _, ours = gradients(*found[OURS][:2])
    errors = {}
    for name in [name for name in found if name not in (OURS, PLAIN)]:
        try:
            _, theirs = gradients(*found[name][:2])
        except Exception as error:
            refused[name] = one_line(error)
            del found[name]
            continue
        if theirs.keys() != ours.keys():
            raise ValueError(f"{name}: expected gradients of the same parameters, got others")
        errors[name] = _difference(ours, theirs)
        if not errors[name] <= TOLERANCE:
            raise ValueError(f"{name}: expected camfast's gradients, got a difference of {errors[name]:.2g}")
    return errors


def _difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest difference of a parameter's gradient over its largest value.

    Gradients below a thousandth of the largest in the network are compared with that: a bias before batch norm has
    rounding alone.
    """
    floor = 1e-3 * max(float(gradient.abs().max()) for gradient in theirs.values())
    each = ((ours[name] - gradient, gradient) for name, gradient in theirs.items())
    return max(float(off.abs().max()) / max(float(gradient.abs().max()), floor) for off, gradient in each)


def _step(model: nn.Module, loss: Loss) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), 1e-5, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    return step


def _peak(
    case: TrainingCase, name: str, candidate: tuple[nn.Module, Loss, str], options: argparse.Namespace
) -> int | None:
    """Bytes that a step takes at its peak, above what was there before; None where the system does not tell."""
    if options.device == "cuda":
        from explain_memory import peak_on_cuda

        return peak_on_cuda(_step(*candidate[:2]), candidate[0])
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    paths = os.pathsep.join(p for p in sys.path if p and Path(p).is_dir())
    done = subprocess.run(
        [sys.executable, __file__, "--peak", case.network, str(case.batch), name],
        capture_output=True,
        text=True,
        env={**os.environ, **settings, "PYTHONPATH": paths},
        check=False,
    )
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 and done.stdout else None


def _print_peak(network: str, batch: str, name: str) -> int:
    from explain_memory import peak_here

    warnings.simplefilter("ignore")
    model, loss, _ = candidates(TrainingCase(network, int(batch)), "cpu")[name]
    step = _step(model, loss)
    step()  # momentum takes its memory at the first
    print(json.dumps(peak_here(step, model)))
    return 0


def _soak(case: TrainingCase, steps: int, device: str) -> dict[str, Any]:
    """Memory held after a tenth of ``steps`` of camfast's, and after all of them."""
    model, loss, _ = candidates(case, device)[OURS]
    step = _step(model, loss)
    held: list[int] = []
    started = time.monotonic()
    for number in range(1, steps + 1):
        step()
        if number % max(steps // 10, 1) == 0:
            held.append(_held(device))
    return {
        "steps": steps,
        "seconds": time.monotonic() - started,
        "held_bytes": held,
        "growth_bytes": held[-1] - held[0],
    }


def _held(device: str) -> int:
    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()
    from explain_memory import _status

    return _status("VmRSS")


def _tables(report: dict[str, Any]) -> str:
    names = list(dict.fromkeys(r["candidate"] for case in report["cases"] for r in case["rows"]))
    names = [name for name in names if name not in (OURS, PLAIN)]
    lines, memory = [], []
    for case in report["cases"]:
        rows = {row["candidate"]: row for row in case["rows"]}
        own = rows[OURS]["over_plain"]
        cells = [case["label"], tick(rows[PLAIN]["median_s"]), f"{own:.3f}", f"{case['budget']:g}"]
        cells += ["met" if own <= case["budget"] else "MISSED"]
        cells += [f"{rows[n]['over_plain']:.2f} ({rows[n]['over_camfast']:.2f})" if n in rows else "" for n in names]
        lines.append([*cells, "LOSES" if losses(case["rows"]) else ""])
        if rows[OURS].get("peak_bytes") is not None:
            peaks = [rows.get(n, {}).get("peak_bytes") for n in (PLAIN, OURS, *names)]
            memory.append([case["label"], *("" if p is None else f"{p / 1e6:.1f}" for p in peaks)])
    parts = []
    if lines:
        header = ["case", PLAIN, OURS, "budget", "", *names, ""]
        parts.append("\nTime over the plain step's; in brackets over camfast's\n" + table(header, lines))
    if memory:
        parts.append("\nPeak memory of a step (MB)\n" + table(["case", PLAIN, OURS, *names], memory))
    for soak in report["soak"]:
        held = " ".join(f"{held / 1e6:.1f}" for held in soak["held_bytes"])
        parts.append(f"{soak['label']}: {soak['steps']} steps, held {held} MB")
    for case in report["cases"]:
        parts += [f"refused: {name} on {case['label']} ({reason})" for name, reason in case["refused"].items()]
    parts += [f"failed: {x['label']} ({x['reason']})" for x in report["failed"]]
    return "\n".join(parts)


def _draw(path: Path) -> None:
    try:
        import charts
    except ImportError as missing:
        print(f"no chart drawn: {missing}", file=sys.stderr)
        return
    print(charts.draw(path))


if __name__ == "__main__":
    sys.exit(main())
