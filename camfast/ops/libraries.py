"""Loads the compiled libraries: ``_C`` (schemas and CPU kernels) always, ``_C_cuda`` where it was built and CUDA is available."""

from __future__ import annotations

from pathlib import Path

import torch

__all__ = ["build_info", "cuda_loaded", "cuda_problem"]

_FOLDER = Path(__file__).parent.parent


def _path(name: str) -> Path | None:
    return next(iter(sorted(_FOLDER.glob(f"{name}.*so"))), None)


def _load() -> tuple[bool, str]:
    """Whether the CUDA kernels are there now, and if not, why."""
    cpu, cuda = _path("_C"), _path("_C_cuda")
    if cpu is None:
        raise ImportError(
            f"camfast's compiled library is missing from {_FOLDER}: install the package (`pip install .`); when Python "
            "starts in the source tree, build it there with `python setup.py build_ext --inplace`."
        )
    torch.ops.load_library(str(cpu))
    if cuda is None:
        return False, "this camfast was built without CUDA"
    if not torch.cuda.is_available():
        return False, "torch sees no CUDA device"
    try:
        torch.ops.load_library(str(cuda))
    except OSError as error:  # a driver or torch that does not fit must not take the CPU kernels away
        return False, f"camfast's CUDA library could not be loaded: {error}"
    return True, ""


cuda_loaded, cuda_problem = _load()


def build_info() -> dict[str, object]:
    """What a bug report needs to know of the libraries.

    ``cpu_library`` and ``cuda_library``: their paths (None: not built); ``cuda_loaded`` and ``cuda_problem``: whether the
    CUDA kernels serve, and why not; ``cuda_archs``: what they were compiled for; ``cpu_capability``: the CPU kernels'
    instruction set on this machine.
    """
    cpu, cuda = _path("_C"), _path("_C_cuda")
    return {
        "cpu_library": str(cpu) if cpu else None,
        "cuda_library": str(cuda) if cuda else None,
        "cuda_loaded": cuda_loaded,
        "cuda_problem": cuda_problem,
        "cuda_archs": _architectures(cuda) if cuda else [],
        "cpu_capability": torch.ops.camfast.cpu_capability(),
    }


def _architectures(library: Path) -> list[str]:
    """The architectures whose machine code or PTX the library carries, as the build wrote them into it."""
    marker = b"camfast architectures: "
    data = library.read_bytes()
    start = data.find(marker)
    if start < 0:
        return []
    start += len(marker)
    return data[start : data.index(b"\0", start)].decode().split(";")
