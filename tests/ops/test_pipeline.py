"""The ring of copies for large maps: right under every schedule of the emulator, which sees it go wrong; and on the device."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from camfast import ops, reference

HERE = Path(__file__).resolve().parents[1] / "emulator"
SOURCES = HERE.parent.parent / "csrc"

needs_gxx = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the emulated kernels with")

# A fault: the file, what stands there, what stands there instead.
RING, KERNEL = "ring.cuh", "cam_pipeline.cuh"
WAIT = "wait_for_phase(barriers + stage, parity)"
FAULTS = {
    "no wait": (RING, f"group::{WAIT};", ""),
    "the wrong parity": (RING, WAIT, "wait_for_phase(barriers + stage, parity ^ 1)"),
    "a wait for one batch too few": (RING, "__pipeline_wait_prior(stages - 2)", "__pipeline_wait_prior(stages - 1)"),
    "filled while in use": (RING, "return stage == 0 ? stages - 1 : stage - 1;", "return stage;"),
    "no barrier before a stage is filled": (KERNEL, "    __syncthreads();\n    fill(ring.free", "    fill(ring.free"),
    "copies beyond the image": (KERNEL, "from = begin < low ? low : begin", "from = begin"),
    "no edges": (KERNEL, "as.add_edges(c, a_stage(stage));", ""),
}


def probe(folder: Path, fault: tuple[str, str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Compiles and runs the probe, with the fault if any."""
    kernels = shutil.copytree(SOURCES, folder / "csrc") / "cuda"
    if fault is not None:
        path = kernels / fault[0]
        text = path.read_text()
        assert text.count(fault[1]) == 1, f"expected one place for the fault in {fault[0]}: {fault[1]}"
        path.write_text(text.replace(fault[1], fault[2]))
    flags = ["-std=c++17", "-O0", "-DCAMFAST_EMULATOR", "-Wno-unknown-pragmas", f"-I{HERE}", f"-I{kernels}"]
    program = folder / "probe"
    subprocess.run(["g++", *flags, HERE / "pipeline_probe.cpp", "-o", program], check=True)
    return subprocess.run([program], text=True, capture_output=True, timeout=300)


@needs_gxx
def test_the_ring_as_it_is(tmp_path):
    result = probe(tmp_path)
    assert result.returncode == 0, result.stdout


@needs_gxx
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_the_ring_shows(name, tmp_path):
    result = probe(tmp_path, FAULTS[name])
    assert result.returncode in (1, 2), f"the emulator saw nothing wrong: {result.stdout}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("op", ["grad_cam", "hires_cam", "layer_cam", "grad_cam_elementwise"])
def test_large_maps_when_asked_for(op, dtype, device, monkeypatch):
    """CAMFAST_PIPELINE=1 changes no value; on a processor it changes nothing at all."""
    monkeypatch.setenv("CAMFAST_PIPELINE", "1")
    for shape, offset in [((2, 9, 33, 33), 0), ((1, 40, 36, 32), 1), ((3, 5, 4, 9, 31), 3), ((1, 2, 64, 64), 0)]:
        A, G = (
            torch.randn(torch.Size(shape).numel() + offset).to(device, dtype)[offset:].view(shape) for _ in range(2)
        )
        expected = getattr(reference, op)(A.double(), G.double(), (9,) * (len(shape) - 2), False)
        actual = getattr(ops, op)(A, G, (9,) * (len(shape) - 2), False)
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=2e-5 * max(1.0, float(expected.abs().max())))
