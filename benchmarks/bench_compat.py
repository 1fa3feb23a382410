"""One user's script on pytorch-grad-cam and on camfast's adapter: its import line is all that differs.

    python benchmarks/bench_compat.py             # CPU, about 5 minutes on two cores
    python benchmarks/bench_compat.py --quick

ResNet-50 and ViT-B/16, batch 1 and 8. Heatmaps are compared before anything is timed. Writes a JSON and prints a table.
Peak memory is that of a process of its own for each library.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from explain_cases import NETWORKS, ExplainCase, load
from harness import HostTimer, measure, progress
from report import OURS, RESULTS, metadata, one_line, table, tick, write_json

PEER = "pytorch-grad-cam"
PACKAGES = {PEER: "pytorch_grad_cam", OURS: "camfast.compat.pytorch_grad_cam"}
SCRIPT = """
from {package} import {method}
from {package}.utils.model_targets import ClassifierOutputTarget

def vit_reshape_transform(tensor, height=14, width=14):
    result = tensor[:, 1:, :].reshape(tensor.size(0), height, width, tensor.size(2))
    return result.transpose(2, 3).transpose(1, 2)

def explain():
    with {method}(model=model, target_layers=target_layers, reshape_transform={reshape}) as cam:
        return cam(input_tensor=input_tensor, targets=[ClassifierOutputTarget(281)] * len(input_tensor))
"""
CASES = [ExplainCase(network, batch) for network in ("resnet50", "vit_b_16") for batch in (1, 8)]
TOLERANCE = 1e-4


def main() -> int:
    options = _options()
    if options.peak:
        network, batch, library = options.peak
        return _print_peak(ExplainCase(network, int(batch)), library, options.method)
    if options.threads:
        torch.set_num_threads(options.threads)
    report: dict[str, Any] = {
        "kind": "compat",
        "meta": metadata("cpu"),
        "settings": {"method": options.method, "seconds": options.seconds, "weights": "random", "images": "random"},
        "cases": [],
        "failed": [],
    }
    path = options.output or RESULTS / "compat-cpu.json"
    for case in progress([c for c in CASES if c.batch == 1 or not options.quick], "compat"):
        try:
            report["cases"].append(_measure(case, options))
        except Exception as error:  # one broken case must not lose the others; it fails the run at the end
            report["failed"].append({"label": case.label, "reason": one_line(error)})
        write_json(path, report)
    print(_table(report))
    print(f"\n{path}")
    return 1 if report["failed"] else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="batch 1 alone, no memory")
    parser.add_argument("--method", default="GradCAM", help="a class of pytorch-grad-cam (%(default)s)")
    parser.add_argument("--seconds", type=float, default=40.0, help="time a case (%(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--output", type=Path, metavar="JSON", help="default benchmarks/results/compat-cpu.json")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)  # network, batch, library: what processes are asked
    return parser.parse_args()


def scripts(case: ExplainCase, method: str) -> tuple[torch.nn.Module, dict[str, Callable[[], np.ndarray]]]:
    """The network, and each library's ``explain()`` of the same script, on a network of its own."""
    found = {}
    for library, package in PACKAGES.items():
        model, images = load(case, "cpu")
        layer = model.get_submodule(NETWORKS[case.network].layer)
        space: dict[str, Any] = {"model": model, "target_layers": [layer], "input_tensor": images}
        reshape = "vit_reshape_transform" if NETWORKS[case.network].tokens else None
        exec(SCRIPT.format(package=package, method=method, reshape=reshape), space)
        found[library] = space["explain"]
    return model, found


def _measure(case: ExplainCase, options: argparse.Namespace) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, calls = scripts(case, options.method)
        difference = float(np.abs(calls[OURS]() - calls[PEER]()).max())
        if not difference <= TOLERANCE:
            raise ValueError(f"expected equal heatmaps, got a difference of {difference:.2g}")
        _, images = load(case, "cpu")

        def forward() -> Any:
            with torch.inference_mode():
                return model(images)

        timers = {name: HostTimer(call) for name, call in {**calls, "forward": forward}.items()}
        results = measure(timers, seconds=options.seconds, min_rounds=3, max_rounds=40)
    rows = []
    for name, result in results.items():
        row = {"candidate": name, "mode": "wall", **result.summary()}
        row["over_camfast"] = result.ratio(results[OURS])
        row["over_forward"] = result.ratio(results["forward"])
        if name in calls and not options.quick:
            row["peak_bytes"] = _peak(case, name, options.method)
        rows.append(row)
    return {"label": case.label, "max_difference": difference, "rows": rows}


def _peak(case: ExplainCase, library: str, method: str) -> int | None:
    """Bytes of resident memory that the script takes at its peak, in a process of its own; None if unreadable."""
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    paths = os.pathsep.join(p for p in sys.path if p and Path(p).is_dir())
    done = subprocess.run(
        [sys.executable, __file__, "--method", method, "--peak", case.network, str(case.batch), library],
        capture_output=True,
        text=True,
        env={**os.environ, **settings, "PYTHONPATH": paths},
        check=False,
    )
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 and done.stdout else None


def _print_peak(case: ExplainCase, library: str, method: str) -> int:
    from explain_memory import peak_here

    _, calls = scripts(case, method)
    print(json.dumps(peak_here(calls[library], torch.nn.Module())))
    return 0


def _table(report: dict[str, Any]) -> str:
    lines = []
    for case in report["cases"]:
        rows = {row["candidate"]: row for row in case["rows"]}
        ours, theirs = rows[OURS], rows[PEER]
        peaks = ["" if r.get("peak_bytes") is None else f"{r['peak_bytes'] / 1e6:.0f}" for r in (ours, theirs)]
        cells = [tick(rows[name]["median_s"]) for name in ("forward", OURS, PEER)]
        ratios = [f"{ours['over_forward']:.2f}", f"{theirs['over_camfast']:.2f}"]
        lines.append([case["label"], *cells, *ratios, *peaks, f"{case['max_difference']:.1e}"])
    head = ["case", "forward", OURS, PEER, "over forward", "times faster", "MB", f"{PEER} MB", "difference"]
    failed = [f"{case['label']} FAILED: {case['reason']}" for case in report["failed"]]
    return "\n".join([table(head, lines), *failed])


if __name__ == "__main__":
    raise SystemExit(main())
