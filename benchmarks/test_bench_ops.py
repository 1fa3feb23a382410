"""Regression suite of the ops' speed, by pytest-benchmark. Not part of the tests: `pytest` alone does not collect it.

pytest benchmarks/test_bench_ops.py --benchmark-autosave
pytest benchmarks/test_bench_ops.py --benchmark-compare --benchmark-compare-fail=median:15%
CAMFAST_BENCH_DEVICE=cuda pytest benchmarks/test_bench_ops.py
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from op_cases import EARLY, EIGEN_OPS, LAST, SQUARE, WIDE, OpCase
from report import GRADIENT_OPS

from camfast import ops

DEVICE = os.environ.get("CAMFAST_BENCH_DEVICE", "cpu")

CASES = [
    *(OpCase(op, shape, SQUARE) for op in ("cam", *GRADIENT_OPS) for shape in (LAST, EARLY)),
    OpCase("grad_cam", WIDE, SQUARE),
    OpCase("grad_cam", WIDE, SQUARE, targets=5),
    OpCase("grad_cam", WIDE, SQUARE, layout="channels_last"),
    OpCase("grad_cam", EARLY, SQUARE, dtype="bfloat16"),
    OpCase("grad_cam", (1, 256, 8, 14, 14), (32, 112, 112)),
    OpCase("resize_normalize", (64, 14, 14), SQUARE),
    *(OpCase(op, LAST, SQUARE) for op in EIGEN_OPS),
    OpCase("mask_images", (1, 16, 7, 7), SQUARE),
    OpCase("overlay", (1, 7, 7), (1080, 1920)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label.replace(" ", "-"))
def test_op(benchmark: Any, case: OpCase) -> None:
    tensors, op = case.inputs(DEVICE), getattr(ops, case.op)
    benchmark.group = case.op
    benchmark.extra_info.update(case.describe(), device=DEVICE, bytes_moved=case.bytes_moved)

    def call() -> torch.Tensor:
        out = op(*tensors, *case.arguments)
        if DEVICE != "cpu":
            torch.cuda.synchronize()
        return out

    with torch.no_grad():
        out = benchmark.pedantic(call, **_repeats(call)) if DEVICE != "cpu" else benchmark(call)
    assert not out.is_floating_point() or bool(out.isfinite().all())


def _repeats(call: Any) -> dict[str, int]:
    """On a device calibration would count the queue: fixed counts instead."""
    call()
    return {"rounds": 30, "iterations": 20, "warmup_rounds": 3}
