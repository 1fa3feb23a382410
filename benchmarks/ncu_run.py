r"""The main kernels, one call each, for a profiler of hardware counters.

    ncu --profile-from-start off --clock-control none --csv --page raw --metrics ... \
        python ncu_run.py --labels cases.json

Only the calls themselves lie between the profiler's start and stop, so every kernel it lists belongs to a case, in
order; the labels file says which, and how many bytes each case must move.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from op_cases import BIG, BIG_EARLY, LAST, SQUARE, OpCase
from report import GRADIENT_OPS, write_json

from camfast import ops

CASES = [
    OpCase("grad_cam", LAST, SQUARE),
    *(OpCase(op, BIG, SQUARE) for op in GRADIENT_OPS),
    OpCase("grad_cam", BIG_EARLY, SQUARE),
    OpCase("grad_cam", BIG, SQUARE, layout="channels_last"),
    OpCase("grad_cam", BIG_EARLY, SQUARE, layout="channels_last"),
    OpCase("grad_cam", BIG, SQUARE, dtype="bfloat16"),
    OpCase("grad_cam", BIG_EARLY, SQUARE, dtype="bfloat16", layout="channels_last"),
    OpCase("cam", BIG, SQUARE),
    OpCase("resize_normalize", (1024, 14, 14), SQUARE),
    OpCase("eigen_cam", (64, 2048, 7, 7), SQUARE),
    OpCase("mask_images", (1, 512, 7, 7), SQUARE),
    OpCase("overlay", (1, 7, 7), (1080, 1920)),
    OpCase("overlay", (8, 7, 7), (2160, 3840)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, required=True, help="JSON to write: the cases in order")
    labels = parser.parse_args().labels
    write_json(labels, [{"label": c.label, "bytes_moved": c.bytes_moved} for c in CASES])
    with torch.no_grad():
        for case in CASES:
            tensors, op = case.inputs("cuda"), getattr(ops, case.op)
            op(*tensors, *case.arguments)  # loads the module
            torch.cuda.synchronize()
            torch.cuda.profiler.start()
            op(*tensors, *case.arguments)
            torch.cuda.synchronize()
            torch.cuda.profiler.stop()


if __name__ == "__main__":
    main()
