"""What the pipeline for large maps should take, step by step, told before it is measured (`bench_pipeline.py` prints both).

    python benchmarks/pipeline_model.py          # the timed cases on the GPUs that have run the kernels

A block's turn is a channel: its two rows come, all threads sum one and add up the other. Three things can bound the turns:
memory; the bytes in flight over the latency; the instructions of the blocks on a multiprocessor; the chain of one turn. Before
them lie the launch and the first rows' latency, behind them the exchange of a group, the range and the writing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

__all__ = ["GPUS", "Gpu", "predict"]

LAUNCH, LATENCY, EXCHANGE = (
    2.0e-6,
    1.0e-6,
    2.0e-6,
)  # seconds; of a kernel, of memory under load, of a cluster's barriers and sums
WARPS, SCHEDULERS, THREADS = 16, 4, 512
CHAIN = 700  # cycles of one turn of a block alone: two barriers, ten shuffles, three trips to shared memory
RANGE = 60  # instructions a corner sample
STATIC, HEADER, MOST_STAGES, LEAST_STAGES = 6 * 1024, 64, 4, 3  # csrc/cuda/plan.h, cam_pipeline.h
# Of a warp in a turn, counted in the machine code of 9.0: by bytes of an element, and whether the rule has weights.
INSTRUCTIONS = {(4, True): 150, (4, False): 173, (2, True): 166, (2, False): 189}


@dataclass(frozen=True)
class Gpu:
    """What the model asks of a GPU: bytes a second of a copy, cycles a second."""

    multiprocessors: int
    copy: float
    clock: float = 1.7e9
    shared: int = 227 * 1024
    cluster: int = 16


GPUS = {"H100": Gpu(132, 2.95e12), "H200": Gpu(132, 4.2e12)}


def predict(case: Any, gpu: Gpu) -> dict[str, float]:
    """Seconds of each step, of all of them, and the share of a copy; empty where there is no room for a ring."""
    n, channels, *grid = case.shape
    positions, element = math.prod(grid), 4 if case.dtype == "float32" else 2
    stage = 2 * ((positions * element + 15) // 16 * 16 + 16)
    for blocks in (2, 1):  # a multiprocessor
        stages = min(MOST_STAGES, (gpu.shared // blocks - STATIC - HEADER) // stage)
        if stages >= LEAST_STAGES:
            break
    else:
        return {}
    places = gpu.multiprocessors * blocks
    most = gpu.cluster if n * gpu.cluster <= gpu.multiprocessors else min(gpu.cluster, 8)
    group = max(1, min(places // n, case.bytes_moved // n // (16 * 1024), most))
    waves, turns = math.ceil(n * group / places), math.ceil(channels / group)
    busy = min(gpu.multiprocessors, math.ceil(n * group / blocks))
    per_sm = min(blocks, math.ceil(n * group / gpu.multiprocessors))
    in_flight = busy * per_sm * (stages - 1) * 2 * positions * element
    steps = {
        "memory": case.bytes_in / min(gpu.copy, in_flight / LATENCY),
        "instructions": waves
        * turns
        * per_sm
        * WARPS
        * INSTRUCTIONS[element, case.op == "grad_cam"]
        / SCHEDULERS
        / gpu.clock,
        "chain": waves * turns * CHAIN / gpu.clock,
    }
    corners = math.prod(min(out, 2 * (cells + 1)) for cells, out in zip(grid, case.size, strict=True))
    steps["range"] = math.ceil(corners / THREADS) * RANGE * WARPS * per_sm / SCHEDULERS / gpu.clock
    steps["write"] = case.bytes_out / gpu.copy
    around = LAUNCH + waves * (LATENCY + (EXCHANGE if group > 1 else 0))
    steps["all"] = (
        around + max(steps["memory"], steps["instructions"], steps["chain"]) + steps["range"] + steps["write"]
    )
    steps["of copy"] = case.bytes_moved / gpu.copy / steps["all"]
    return steps


def main() -> None:
    from bench_pipeline import timed_cases
    from report import table

    for name, gpu in GPUS.items():
        lines = []
        for case in timed_cases():
            steps = predict(case, gpu)
            lines.append(
                [case.label, *(f"{1e6 * s:.1f}" for k, s in steps.items() if k != "of copy"), f"{steps['of copy']:.0%}"]
            )
        print(table([f"{name}, us", *predict(timed_cases()[0], gpu)], lines), end="\n\n")


if __name__ == "__main__":
    main()
