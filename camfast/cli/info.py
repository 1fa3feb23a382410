"""``camfast info``: what a bug report needs, versions, the compiled libraries, devices, threads."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from typing import Any

import torch

from .. import ops
from ..version import __version__

__all__ = ["add_arguments", "collect", "report", "run"]

_OPTIONAL = ("torchvision", "timm", "pillow", "numpy", "scikit-image", "safetensors", "triton")
_OPENMP = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``camfast info``."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Prints the report."""
    print(report(as_json=options.json))
    return 0


def collect() -> dict[str, Any]:
    """Versions, libraries, devices and threads, as plain values that JSON can hold."""
    return {
        "camfast": {"version": __version__, **ops.build_info()},
        "torch": {
            "version": torch.__version__,
            "cuda": torch.version.cuda,
            "hip": torch.version.hip,
            "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
            "architectures": torch.cuda.get_arch_list(),
        },
        "packages": {name: _version(name) for name in _OPTIONAL},
        "devices": _devices(),
        "threads": {
            "torch": torch.get_num_threads(),
            "torch_interop": torch.get_num_interop_threads(),
            "cores": os.cpu_count(),
            "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            **{name: os.environ[name] for name in _OPENMP if name in os.environ},
        },
        "system": {
            "python": platform.python_version(),
            "executable": sys.executable,
            "os": platform.platform(),
            "machine": platform.machine(),
            "processor": _processor(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        },
    }


def report(as_json: bool = False) -> str:
    """What :func:`collect` gives, to read, or as JSON."""
    facts = collect()
    if as_json:
        return json.dumps(facts, indent=2)
    lines = []
    for title, section in facts.items():
        entries = section if isinstance(section, dict) else {e["device"]: e for e in section} or {"cpu": "alone"}
        lines += [title, *(f"  {name.replace('_', ' '):<18}{_shown(value)}" for name, value in entries.items())]
    return "\n".join(lines)


def _devices() -> list[dict[str, Any]]:
    devices: list[dict[str, Any]] = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            devices.append(
                {
                    "device": f"cuda:{index}",
                    "name": facts.name,
                    "capability": f"{facts.major}.{facts.minor}",
                    "memory_gib": round(facts.total_memory / 2**30, 1),
                    "multiprocessors": facts.multi_processor_count,
                }
            )
    if torch.backends.mps.is_available():
        devices.append({"device": "mps"})
    return devices


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _shown(value: Any) -> str:
    if value is None or value == "" or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {entry}" for name, entry in value.items() if name != "device")
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)
