"""The ring of copies for large maps: its plan, and that the emulator would see it go wrong."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[1] / "emulator"
SOURCES = HERE.parent.parent / "csrc"

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the emulated kernels with")

# A fault: the file, what stands there, what stands there instead.
FAULTS = {
    "no wait": ("ring.cuh", "group::wait_for_phase(barriers + stage, parity);", ""),
    "the wrong parity": ("ring.cuh", "wait_for_phase(barriers + stage, parity)", "wait_for_phase(barriers + stage, parity ^ 1)"),
    "a parity that stays": ("ring.cuh", "parity ^= 1;", ""),
    "no wait for the batch": ("ring.cuh", "__pipeline_wait_prior(stages - 2);", ""),
    "a wait for one batch too few": ("ring.cuh", "__pipeline_wait_prior(stages - 2)", "__pipeline_wait_prior(stages - 1)"),
    "filled while in use": ("ring.cuh", "return stage == 0 ? stages - 1 : stage - 1;", "return stage;"),
    "no barrier before a stage is filled": ("cam_pipeline.cuh", "    __syncthreads();\n    fill(ring.free", "    fill(ring.free"),
    "fewer bytes than expected": ("ring.cuh", "group::bulk_copy(b.to, b.from, b.bytes,", "group::bulk_copy(b.to, b.from, b.bytes - 16,"),
    "copies beyond the image": ("cam_pipeline.cuh", "from = begin < low ? low : begin", "from = begin"),
    "no edges": ("cam_pipeline.cuh", "as.add_edges(c, a_stage(stage));", ""),
}  # fmt: skip


def probe(folder: Path, fault: tuple[str, str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Compiles and runs the probe, with the fault if any."""
    kernels = shutil.copytree(SOURCES, folder / "csrc") / "cuda"
    if fault is not None:
        path = kernels / fault[0]
        text = path.read_text()
        assert text.count(fault[1]) == 1, f"expected one place for the fault in {fault[0]}: {fault[1]}"
        path.write_text(text.replace(fault[1], fault[2]))
    flags = ["-std=c++17", "-O1", "-DCAMFAST_EMULATOR", "-Wno-unknown-pragmas", f"-I{HERE}", f"-I{kernels}"]
    program = folder / "probe"
    subprocess.run(["g++", *flags, HERE / "pipeline_probe.cpp", "-o", program], check=True)
    return subprocess.run([program], text=True, capture_output=True, timeout=300)


def test_the_ring_as_it_is(tmp_path):
    result = probe(tmp_path)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_the_ring_shows(name, tmp_path):
    result = probe(tmp_path, FAULTS[name])
    assert result.returncode in (1, 2), f"the emulator saw nothing wrong: {result.stdout}"
