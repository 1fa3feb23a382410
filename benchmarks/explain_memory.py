"""Peak memory of an explanation.

On a CUDA device the allocator counts. On a processor nobody does, so each candidate runs in a process of its own, which
runs it once to warm up, lets the kernel forget the peak seen so far, runs it again and reads the peak of its resident
memory.

    python benchmarks/explain_memory.py resnet50 8 1 camfast      # bytes, as JSON
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from explain_cases import NETWORKS, ExplainCase, explainers, load
from torch import Tensor, nn

__all__ = ["bytes_needed", "peak_here", "peak_in_process", "peak_on_cuda"]


def bytes_needed(case: ExplainCase, model: nn.Module, images: Tensor) -> int:
    """Activations, gradients of each target, heatmaps: what an explanation cannot do without beside the forward."""
    seen: list[Tensor] = []
    hook = model.get_submodule(NETWORKS[case.network].layer).register_forward_hook(lambda m, i, out: seen.append(out))
    try:
        with torch.inference_mode():
            model(images)
    finally:
        hook.remove()
    activations = seen[0].numel() * seen[0].element_size()
    return activations * (1 + case.targets) + 4 * case.batch * case.targets * images.shape[2] * images.shape[3]


def peak_on_cuda(call: Callable[[], Any], model: nn.Module) -> int:
    """Bytes allocated at the peak of ``call``, above what was allocated before it."""
    model.zero_grad(set_to_none=True)  # what a library left there in an earlier call
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def peak_in_process(case: ExplainCase, candidate: str, threads: int) -> int | None:
    """Bytes of resident memory at the peak of ``candidate``, above what was there before; None if unreadable."""
    # Large blocks go back to the system when freed, so that one call's leavings do not hide the next one's need.
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, case.network, str(case.batch), str(case.targets), candidate]
    paths = os.pathsep.join(p for p in sys.path if p and Path(p).is_dir())
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **settings, "PYTHONPATH": paths}, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{candidate}: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])


def peak_here(call: Callable[[], Any], model: nn.Module) -> int | None:
    """Bytes of resident memory that a second ``call`` takes at its peak; None where the system does not tell."""
    call()
    model.zero_grad(set_to_none=True)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = _status("VmRSS")
        call()
        return _status("VmHWM") - before
    except OSError:
        return None


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status: expected {field}, got none")


def _main(network: str, batch: str, targets: str, candidate: str) -> None:
    case = ExplainCase(network, int(batch), int(targets))
    model, images = load(case, "cpu")

    def forward() -> Tensor:
        with torch.inference_mode():
            return model(images)

    call = forward if candidate == "forward" else explainers(case, model, images)[candidate]
    print(json.dumps(peak_here(call, model)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
