"""An op's time beside a busy process, with threads that spin between operations and with threads that sleep.

    python benchmarks/bench_busy.py            # about a minute

The variable must stand before torch is imported, so that each case is a process of its own. Prints medians and third
quartiles of a Grad-CAM op of [1, 256, 14, 14] to 224 and of PyTorch's addition of the same tensors, and writes a JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from report import RESULTS, metadata, table, tick, write_json

BUSY = """
import sys, torch
torch.set_num_threads(int(sys.argv[1]))
a, b = torch.rand(2, 400_000)
print("ready", flush=True)
while True:
    a + b
"""
PARTS = ("median_s", "q3_s")
HOGS = {"idle": 0, "beside one thread": 1, "beside two threads": 2}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5, help="of each case (%(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS / "busy-cpu.json", metavar="JSON")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(_measured(options.seconds)))
        return 0
    cases = []
    for hog, threads in HOGS.items():
        for policy in ("active", "passive"):
            with _busy(threads):
                command = [sys.executable, __file__, "--measure", "--seconds", str(options.seconds)]
                environment = {**os.environ, "OMP_NUM_THREADS": "2"}
                environment.pop("OMP_WAIT_POLICY", None)
                if policy == "passive":
                    environment["OMP_WAIT_POLICY"] = "PASSIVE"
                done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            cases.append({"label": hog, "threads": policy, **json.loads(done.stdout.splitlines()[-1])})
    write_json(options.output, {"kind": "busy", "meta": metadata(), "cases": cases})
    shown = [
        [case["label"], case["threads"], *(tick(case[op][part]) for op in ("grad_cam", "add") for part in PARTS)]
        for case in cases
    ]
    print(table(["machine", "waiting threads", "grad_cam", "third quartile", "add", "third quartile"], shown))
    return 0


def _measured(seconds: float) -> dict[str, dict[str, float]]:
    import torch

    import camfast

    torch.manual_seed(0)
    A, G = torch.rand(2, 1, 256, 14, 14)
    calls = {"grad_cam": lambda: camfast.ops.grad_cam(A, G, 224), "add": lambda: A + G}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    end = time.monotonic() + seconds
    while time.monotonic() < end:  # in turns
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            samples[name].append(time.perf_counter() - start)
    quartiles = {name: np.quantile(own, (0.25, 0.5, 0.75)).tolist() for name, own in samples.items()}
    return {name: dict(zip(("q1_s", "median_s", "q3_s"), own, strict=True)) for name, own in quartiles.items()}


@contextmanager
def _busy(threads: int):
    """Another PyTorch that adds tensors on so many threads, which spin between the additions; or none."""
    if not threads:
        yield
        return
    hog = subprocess.Popen([sys.executable, "-c", BUSY, str(threads)], stdout=subprocess.PIPE, text=True)
    try:
        assert hog.stdout is not None and hog.stdout.readline() == "ready\n"
        yield
    finally:
        hog.kill()
        hog.wait()


if __name__ == "__main__":
    raise SystemExit(main())
