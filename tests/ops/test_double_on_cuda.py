"""fp64 on CUDA runs the reference (csrc/cuda/reference.h): tested on the CPU by a library whose op does the same there."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch

from camfast.ops import reference

EMULATOR = Path(__file__).resolve().parents[1] / "emulator"

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile the probe with")


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    library = tmp_path_factory.mktemp("probe") / "probe.so"
    root = Path(torch.__file__).parent
    includes = [f"-I{root / 'include'}", f"-I{sysconfig.get_paths()['include']}"]
    flags = ["-std=c++20", "-O1", "-shared", "-fPIC", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
    libraries = [f"-L{root / 'lib'}", "-ltorch_cpu", "-ltorch", "-lc10"]
    source = EMULATOR / "reference_probe.cpp"
    subprocess.run(["g++", *flags, *includes, source, "-o", library, *libraries], check=True)
    torch.ops.load_library(str(library))
    return torch.ops.camfast_probe


def test_double_goes_to_the_reference_and_the_rest_to_the_kernel(probe):
    rng = torch.Generator().manual_seed(3)
    A, G = (torch.randn(2, 5, 4, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    for size, normalize in ((None, True), ([6, 7], False), ([2, 2], True)):
        expected = reference.grad_cam(A, G, [4, 3] if size is None else size, normalize)
        torch.testing.assert_close(probe.grad_cam(A, G, size, normalize), expected, rtol=0, atol=0)
    for gamma in (None, 0.3):
        expected = reference.kpca_cam(A, [4, 3], True, gamma)
        torch.testing.assert_close(probe.kpca_cam(A, None, True, gamma), expected, rtol=0, atol=0)
    assert probe.grad_cam(A.float(), G.float(), None, True).shape == (0,)


def test_an_error_of_the_reference_is_raised_and_nothing_stays_behind(probe):
    A = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    with pytest.raises(RuntimeError):
        probe.grad_cam(A, torch.randn(1, 2, 4, 4, dtype=torch.float64), None, True)
    heatmap = probe.grad_cam(A, A, None, True)
    gc.collect()
    assert heatmap._use_count() == 1 and A._use_count() == 1
