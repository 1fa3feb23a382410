"""Heat in the loss of data-parallel training: two processes over gloo, equal to plain steps with averaged gradients."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import camfast

STEP = Path(__file__).with_name("distributed_step.py")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
@pytest.mark.parametrize("wrapper", ["plain", "unused", "static", "compiled", "compiled stem", "fsdp", "fsdp parts"])
def test_two_processes(wrapper, tmp_path):
    command = [sys.executable, str(STEP)]
    root = Path(camfast.__file__).parents[1]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store"), wrapper],
            cwd=root,
            env={**__import__("os").environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=120)
            assert process.returncode == 0 and "equal" in output, output[-4000:]
    finally:
        for process in processes:
            process.kill()
