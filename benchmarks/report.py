"""What a benchmark leaves behind: who measured what on which machine (JSON), and tables."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

__all__ = [
    "GRADIENT_OPS",
    "OURS",
    "RESULTS",
    "YARDSTICKS",
    "losses",
    "metadata",
    "one_line",
    "table",
    "tick",
    "write_json",
]

GRADIENT_OPS = ("grad_cam", "grad_cam_plus_plus", "xgrad_cam", "hires_cam", "layer_cam", "grad_cam_elementwise")
OURS = "camfast"
# Not ways to do the work, but what no way can beat, or what a cost is compared with.
YARDSTICKS = (
    "read once",
    "copy once",
    "write once",
    "device copy",
    "empty kernel",
    "torch.relu",
    "forward",
    "plain step",
)

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"

_PACKAGES = (
    "camfast",
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "ultralytics",
    "triton",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "numpy",
    "opencv-python-headless",
    "opencv-python",
    "grad-cam",
    "torchcam",
    "captum",
    "monai",
)


def metadata(device: str = "cpu") -> dict[str, Any]:
    """The machine, the versions and the commit, as JSON-ready values."""
    import torch

    import camfast

    meta: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        # An installed wheel or the tree in place; the path itself is nobody's business.
        "camfast": "source tree" if Path(camfast.__file__).is_relative_to(ROOT) else "installed",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(x, 2) for x in os.getloadavg()],
        "versions": versions(),
    }
    if torch.device(device).type == "cuda":
        meta["gpu"] = gpu()
    return meta


def versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit measured, ``+`` appended when sources differ from it; ``CAMFAST_COMMIT`` where git cannot tell."""
    given = os.environ.get("CAMFAST_COMMIT")
    if given:
        return given
    head = _output("git", "-C", str(ROOT), "rev-parse", "HEAD")
    if not head:
        return "unknown"
    changed = _output("git", "-C", str(ROOT), "status", "--porcelain", "--", "camfast", "csrc", "setup.py")
    return head + ("+" if changed else "")


def cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def gpu() -> dict[str, Any]:
    """The current CUDA device: name, memory, multiprocessors, L2, driver."""
    import torch

    p = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "name": p.name,
        "capability": f"{p.major}.{p.minor}",
        "multiprocessors": p.multi_processor_count,
        "memory_bytes": p.total_memory,
        "l2_bytes": getattr(p, "L2_cache_size", None),
        "cuda": torch.version.cuda,
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split("\n")[0] or None,
    }


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def write_json(path: Path, data: Any) -> None:
    """Writes ``data`` whole or not at all: a reader, or a run that was killed, never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(data, indent=1) + "\n")
    part.replace(path)


def losses(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one case that are faster than camfast's at the same work, besides camfast's own."""
    others = [r for r in rows if r["candidate"] not in YARDSTICKS and not r["candidate"].startswith(f"{OURS}, ")]
    return [r for r in others if r.get("over_camfast", 1.0) < 1.0]


def table(header: list[str], rows: list[list[str]]) -> str:
    """Text table: the first column flush left, the others flush right."""
    widths = [max(len(str(line[i])) for line in [header, *rows]) for i in range(len(header))]
    lines = []
    for line in [header, *rows]:
        first, *others = (str(x) for x in line)
        cells = [first.ljust(widths[0]), *(x.rjust(w) for x, w in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines)


def tick(seconds: float) -> str:
    """A duration in the unit that suits it."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} us"
    if seconds < 1:
        return f"{seconds * 1e3:.2f} ms"
    return f"{seconds:.2f} s"


def one_line(error: BaseException) -> str:
    """An exception's type and message, short enough for a report."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
