"""Heat in the loss of data-parallel training: two processes over gloo, equal to plain steps with averaged gradients."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import camfast

STEP = Path(__file__).with_name("distributed_step.py")
ROOT = Path(camfast.__file__).parents[1]
WRAPPERS = {
    "replicated": ["plain", "unused", "static"],
    "replicated and compiled": ["compiled", "compiled outside", "compiled stem"],
    "sharded": ["sharded", "sharded parts"],
}


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
@pytest.mark.parametrize("wrappers", WRAPPERS)
def test_two_processes(wrappers, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(STEP), str(rank), str(tmp_path / "store"), *WRAPPERS[wrappers]],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 0 and output.count(": equal") == 2 * len(WRAPPERS[wrappers]), output[-4000:]
    finally:
        for process in processes:
            process.kill()
