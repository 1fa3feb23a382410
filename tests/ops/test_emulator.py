"""The CUDA emulator that runs the kernels on machines without a GPU, and the header they share under nvcc."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[1] / "emulator"
KERNELS = HERE.parent.parent / "csrc" / "cuda"
SOURCES = [HERE / name for name in ("self_test.cpp", "fault_test.cpp", "bulk_test.cpp", "types_test.cpp")]
INCLUDES = [f"-I{HERE}", f"-I{KERNELS}"]
# nvcc knows "#pragma unroll", g++ does not.
WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Werror", "-Wno-unknown-pragmas"]
SANITIZERS = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

BUILDS = {
    "own context switch": ["-O2"],
    "system context switch, C++20": ["-O0", "-std=c++20", "-DCAMFAST_EMULATOR_UCONTEXT"],
    "sanitizers": ["-O1", *SANITIZERS],
}
ARCHITECTURES = (75, 80, 90, 100, 120)

needs_gxx = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")


def run(command: list[str | Path], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=600,
        env={**os.environ, **environment},
    )


def build(target: Path, sources: list[Path], flags: list[str]) -> Path:
    result = run(["g++", "-std=c++17", *WARNINGS, *INCLUDES, *flags, *sources, "-o", target])
    assert result.returncode == 0, result.stdout
    return target


def sanitizers_work(folder: Path) -> bool:
    """Whether g++ has its sanitizer libraries and their programs start here."""
    source = folder / "probe.cpp"
    source.write_text("int main() {}\n")
    program = folder / "probe"
    return run(["g++", *SANITIZERS, source, "-o", program]).returncode == 0 and run([program]).returncode == 0


@needs_gxx
@pytest.mark.parametrize("name", BUILDS)
def test_emulator(name: str, tmp_path: Path) -> None:
    if name == "sanitizers" and not sanitizers_work(tmp_path):
        pytest.skip("no working sanitizer libraries")
    program = build(tmp_path / "self_test", SOURCES, BUILDS[name])
    result = run([program])
    assert result.returncode == 0, result.stdout
    declared = sum(len(re.findall(r"^TEST\(", source.read_text(), re.MULTILINE)) for source in SOURCES)
    skipped = 2 if name == "sanitizers" else 0  # overruns, which end a sanitized program: tested below
    assert len(re.findall(r"^ok ", result.stdout, re.MULTILINE)) == declared - skipped, result.stdout

    if name == "sanitizers":
        for where in ("global", "shared"):
            result = run([program, "overrun_for_sanitizer"], CAMFAST_EMULATOR_OVERRUN=where)
            assert result.returncode != 0
            assert "use-after-poison" in result.stdout and "WRITE of size" in result.stdout, result.stdout


@needs_gxx
def test_emulator_in_a_shared_library(tmp_path: Path) -> None:
    """__shared__ variables are found when the kernels are in a library that Python loads."""
    source = tmp_path / "sum.cpp"
    source.write_text(
        """
        #include "portable.cuh"
        template <int kThreads>
        __global__ void sum(const int* in, int* out) {
          __shared__ int tile[kThreads];
          tile[threadIdx.x] = in[blockIdx.x * kThreads + threadIdx.x];
          camfast::group::cluster_sync();
          if (threadIdx.x == 0) {
            int total = 0;
            for (unsigned rank = 0; rank < camfast::group::cluster_size(); ++rank)
              for (int i = 0; i < kThreads; ++i) total += camfast::group::cluster_peer(tile, rank)[i];
            out[blockIdx.x] = total;
          }
          camfast::group::cluster_sync();
        }
        extern "C" void run(const int* in, int* out) {
          emu::for_each_schedule([&] { emu::launch(sum<64>, 6, 64, 0, 3, false, in, out); });
        }
        """
    )
    library = build(tmp_path / "sum.so", [source], ["-O1", "-fPIC", "-shared", "-DCAMFAST_EMULATOR"])
    code = (
        "import ctypes; values = (ctypes.c_int * 384)(*range(384)); out = (ctypes.c_int * 6)();"
        f"ctypes.CDLL({str(library)!r}).run(values, out);"
        "assert list(out) == [sum(range(192))] * 3 + [sum(range(192, 384))] * 3, list(out); print('right')"
    )
    result = run([sys.executable, "-c", code])
    assert result.stdout.strip() == "right", result.stdout


@needs_nvcc
def test_portable_header_under_nvcc(tmp_path: Path) -> None:
    """The header compiles without warnings for old and new architectures and links without -rdc."""
    known = run(["nvcc", "--list-gpu-arch"]).stdout.split()
    codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES if f"compute_{a}" in known]
    assert codes, f"expected an architecture of {ARCHITECTURES}, got {known}"
    program = tmp_path / "portable_probe"
    flags = ["-std=c++17", "-Xcompiler", "-Wall,-Wextra", "-Werror", "all-warnings", "-cudart", "static"]
    result = run(["nvcc", *flags, *codes, f"-I{KERNELS}", HERE / "portable_probe.cu", "-o", program])
    assert result.returncode == 0, result.stdout
    result = run([program])  # without a GPU it says so and succeeds
    assert result.returncode == 0, result.stdout
