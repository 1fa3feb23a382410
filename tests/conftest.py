"""What all tests share: devices, seeds, tolerances."""

from __future__ import annotations

import os

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    """Two threads, so that kernels share out their work; where tests run side by side, one each, or as many as was given."""
    if "OMP_NUM_THREADS" not in os.environ:
        side_by_side = "PYTEST_XDIST_WORKER" in os.environ
        torch.set_num_threads(1 if side_by_side else 2)
        if side_by_side:
            os.environ["OMP_NUM_THREADS"] = "1"  # for the programs that tests start


def _devices() -> list[str]:
    """The CPU, and CUDA where there is one. With CAMFAST_REQUIRE_CUDA=1 its absence is a failure, not a skip."""
    wanted = os.environ.get("CAMFAST_REQUIRE_CUDA") == "1"
    return ["cpu", "cuda"] if torch.cuda.is_available() or wanted else ["cpu"]


@pytest.fixture(params=_devices())
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.fail("CAMFAST_REQUIRE_CUDA=1, but no CUDA device is available")
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def full_precision():
    """Convolutions and products on CUDA in fp32, not TF32: results are compared to 2e-6."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture
def cuda() -> torch.device:
    """A CUDA device, for what only exists there."""
    if not torch.cuda.is_available():
        if os.environ.get("CAMFAST_REQUIRE_CUDA") == "1":
            pytest.fail("CAMFAST_REQUIRE_CUDA=1, but no CUDA device is available")
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")
