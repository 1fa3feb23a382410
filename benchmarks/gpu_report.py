"""The parts of `gpu_check.sh` that are easier in Python: looking at the machine, and gathering what the steps left.

gpu_report.py machine FILE [--cpu]     checks Python, torch and the GPU; writes what they are
gpu_report.py architectures FILE       prints the architectures present, for TORCH_CUDA_ARCH_LIST
gpu_report.py installed [--cpu]        checks that the installed camfast is imported and computes on the device
gpu_report.py write WORK OUT           writes OUT/gpu.json and OUT/gpu.txt from the files in WORK
"""

from __future__ import annotations

import csv
import json
import os
import platform
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from gpu_targets import targets
from report import commit, cpu_name, gpu, table, tick, versions, write_json


def machine(path: Path, cpu: bool) -> int:
    """Writes the machine's description; 1 and a sentence on stderr where it will not do."""
    try:
        import torch
    except ImportError:
        return _refuse(f"torch must be installed for {sys.executable}, got none")
    if sys.version_info < (3, 10):  # noqa: UP036  (this is how an older one learns of it)
        return _refuse(f"Python must be 3.10 or later, got {platform.python_version()}")
    if tuple(int(x) for x in re.findall(r"\d+", torch.__version__)[:2]) < (2, 11):
        return _refuse(f"torch must be 2.11 or later, got {torch.__version__}")
    if not cpu and not torch.cuda.is_available():
        return _refuse(f"a CUDA device is needed, got none that torch {torch.__version__} can use")
    about: dict[str, Any] = {
        "commit": commit(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "versions": versions(),
        "devices": [],
    }
    if not cpu:
        for index in range(torch.cuda.device_count()):
            with torch.cuda.device(index):
                about["devices"].append(gpu())
        about["nvcc"] = _nvcc()
    write_json(path, about)
    for device in about["devices"]:
        print(f"{device['name']}, driver {device['driver']}, torch {torch.__version__}, nvcc {about['nvcc']}")
    return 0


def _refuse(sentence: str) -> int:
    print(f"gpu_check.sh: {sentence}.", file=sys.stderr)
    return 1


def _nvcc() -> str | None:
    try:
        said = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return None
    found = re.search(r"release ([\d.]+)", said)
    return found.group(1) if found else None


def architectures(path: Path) -> int:
    devices = json.loads(path.read_text())["devices"]
    print(";".join(sorted({device["capability"] for device in devices})))
    return 0


def installed(cpu: bool) -> int:
    import torch

    import camfast

    home = Path(camfast.__file__).parent
    if (home.parent / "csrc").exists():
        return _refuse(f"the installed camfast must be imported, got the source tree {home}")
    if not cpu and not list(home.glob("_C_cuda*.so")):
        return _refuse(f"the CUDA library must be installed, got {sorted(p.name for p in home.glob('*.so'))}")
    device = "cpu" if cpu else "cuda"
    A, G = torch.rand(2, 8, 4, 4), torch.randn(2, 8, 4, 4)
    apart = camfast.ops.grad_cam(A.to(device), G.to(device), 9).cpu() - camfast.reference.grad_cam(A, G, 9)
    if not float(apart.abs().max()) < 1e-4:
        return _refuse(
            f"grad_cam on {device} must equal the reference, got a difference of {float(apart.abs().max()):.2g}"
        )
    print(f"camfast from {home}: {', '.join(sorted(p.name for p in home.glob('*.so')))}")
    return 0


# What the steps left ------------------------------------------------------------------------------------------------


def write(work: Path, out: Path) -> int:
    report: dict[str, Any] = {
        **_json(work / "machine.json", {}),
        "steps": _steps(work / "steps.tsv"),
        "build": _build(out / "gpu_check.log"),
        "tests": _tests(work / "tests.xml"),
        "sanitizer": _sanitizer(work),
        "pipeline": _json(work / "pipeline.json", None),
        "ops": _json(work / "ops.json", None),
        "explain": _json(work / "explain.json", None),
        "realtime": _json(work / "realtime.json", None),
        "counters": _counters(work / "ncu.csv", work / "ncu-cases.json"),
    }
    report["targets"] = targets(report)
    write_json(out / "gpu.json", report)
    (out / "gpu.txt").write_text(_text(report) + "\n")
    return 0


def _json(path: Path, otherwise: Any) -> Any:
    return json.loads(path.read_text()) if path.exists() else otherwise


def _steps(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    return [{"step": name, "status": status, "seconds": int(seconds)} for name, status, seconds in lines]


def _build(log: Path) -> dict[str, Any] | None:
    """Registers and spills of every kernel that ptxas reported."""
    kernels: list[dict[str, Any]] = []
    for line in log.read_text(errors="replace").splitlines() if log.exists() else []:
        if entry := re.search(r"Compiling entry function '(\S+)' for '(\S+)'", line):
            kernels.append({"kernel": entry.group(1), "architecture": entry.group(2)})
        elif kernels and (spill := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line)):
            kernels[-1]["spill_bytes"] = int(spill.group(1)) + int(spill.group(2))
        elif kernels and (used := re.search(r"Used (\d+) registers", line)):
            kernels[-1]["registers"] = int(used.group(1))
    if not kernels:
        return None
    return {
        "kernels": len(kernels),
        "most_registers": max(k.get("registers", 0) for k in kernels),
        "spilling": [k for k in kernels if k.get("spill_bytes")],
    }


def _tests(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError:
        return None
    suite = root if root.tag == "testsuite" else root.find("testsuite")
    if suite is None:
        return None
    count = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    bad = [c for c in suite.iter("testcase") if c.find("failure") is not None or c.find("error") is not None]
    reasons: dict[str, int] = {}
    for skip in suite.iter("skipped"):
        reason = skip.get("message", "")
        reasons[reason] = reasons.get(reason, 0) + 1
    return {**count, "failed": [f"{c.get('classname')}::{c.get('name')}" for c in bad], "skip_reasons": reasons}


def _sanitizer(work: Path) -> list[dict[str, Any]]:
    path = work / "sanitizer.tsv"
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        tool, code = line.split("\t")
        log = work / f"sanitizer-{tool}.log"
        text = log.read_text(errors="replace") if log.exists() else ""
        summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", text)
        found.append({"tool": tool, "exit_code": int(code), "summary": summary[-1] if summary else "no summary"})
    return found


def _counters(path: Path, labels: Path) -> dict[str, Any] | None:
    """ncu's figures, a row a kernel; with the case's label where every case launched exactly one."""
    if not path.exists() or not labels.exists():
        return None
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.startswith('"')]
    if len(lines) < 3:
        return None
    rows = list(csv.DictReader(lines))[1:]  # the first one holds the units
    units = next(iter(csv.DictReader(lines)))
    cases = json.loads(labels.read_text())
    kernels = []
    for row in rows:
        kernel: dict[str, Any] = {"kernel": re.sub(r"\(.*", "", row.get("Kernel Name", ""))[:120]}
        for key, value in row.items():
            if "__" in (key or ""):
                kernel[key] = _number(value)
                if units.get(key):
                    kernel[key + " unit"] = units[key]
        kernels.append(kernel)
    if len(kernels) == len(cases):
        for kernel, case in zip(kernels, cases, strict=True):
            kernel["case"], kernel["bytes_needed"] = case["label"], case["bytes_moved"]
            kernel["bytes_moved"] = sum(_in_bytes(kernel, f"dram__bytes_{way}.sum") for way in ("read", "write"))
    return {"one_launch_a_call": len(kernels) == len(cases), "calls": len(cases), "kernels": kernels}


def _number(text: str) -> float | str:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return text


def _in_bytes(kernel: dict[str, Any], key: str) -> float:
    scale = {"byte": 1, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9}
    value = kernel.get(key, 0.0)
    return value * scale.get(kernel.get(key + " unit", "byte"), 1) if isinstance(value, float) else 0.0


# The short table ----------------------------------------------------------------------------------------------------


def _text(report: dict[str, Any]) -> str:
    device = report.get("devices") or [{"name": f"{report.get('cpu')} (rehearsal)", "driver": "none"}]
    torch = report.get("versions", {}).get("torch")
    parts = [f"{device[0]['name']}, driver {device[0]['driver']}, torch {torch}, commit {report.get('commit')}"]
    parts.append(table(["step", "", "seconds"], [[s["step"], s["status"], str(s["seconds"])] for s in report["steps"]]))
    if build := report["build"]:
        spills = len(build["spilling"])
        parts.append(f"{build['kernels']} kernels built, at most {build['most_registers']} registers, {spills} spill")
    if tests := report["tests"]:
        parts.append("tests: {tests} run, {failures} failed, {errors} errors, {skipped} skipped".format(**tests))
        parts += [f"  FAILED {name}" for name in tests["failed"][:15]]
    parts += [f"{s['tool']}: {s['summary']} (exit code {s['exit_code']})" for s in report["sanitizer"]]
    if report["pipeline"]:
        from bench_pipeline import tables as pipeline_tables

        parts.append(pipeline_tables(report["pipeline"]))
    for kind in ("ops", "explain", "realtime"):
        for case in (report[kind] or {}).get("failed", []):
            parts.append(f"{kind} FAILED {case['label']}: {case['reason']}")
        if skipped := (report[kind] or {}).get("skipped"):
            parts.append(f"{kind}: {len(skipped)} cases not reached in time, from {skipped[0]['label']} on")
    if report["ops"]:
        parts.append(_ops_table(report["ops"]))
    if report["realtime"]:
        from bench_realtime import tables

        parts.append(tables({**report["realtime"], "failed": []}).strip())
    if counters := report["counters"]:
        parts.append(_counters_table(counters))
    if report["targets"]:
        lines = [
            [t["what"], t["target"], t["value"], "met" if t["met"] else "MISSED", t["case"]] for t in report["targets"]
        ]
        parts.append(table(["target", "", "got", "", "worst case"], lines))
    return "\n\n".join(parts)


def _ops_table(ops: dict[str, Any]) -> str:
    lines = []
    for case in ops["cases"]:
        rows = {(row["candidate"], row["mode"]): row for row in case["rows"]}
        mode = "graph" if ("camfast", "graph") in rows else "wall"
        ours = rows.get(("camfast", mode))
        if ours is None:
            continue
        share = (
            case["bytes_moved"] / ours["median_s"] / case["copy_bytes_per_s"] if "copy_bytes_per_s" in case else None
        )
        others = [rows.get((name, mode), {}).get("over_camfast") for name in ("eager", "torch.compile", "empty kernel")]
        lines.append(
            [case["label"], tick(ours["median_s"]), f"{share:.0%}" if share else "", str(case.get("launches") or "")]
            + [f"{x:.2f}" if x else "" for x in others]
        )
    return table(["op", "time", "of copy", "launches", "eager", "compile", "empty"], lines)


def _counters_table(counters: dict[str, Any]) -> str:
    lines = []
    for k in counters["kernels"]:
        needed = k.get("bytes_needed")
        lines.append(
            [
                k.get("case", k["kernel"])[:70],
                f"{k['bytes_moved'] / needed:.2f}" if needed else "",
                f"{k.get('dram__throughput.avg.pct_of_peak_sustained_elapsed', 0):.0f}%",
                f"{k.get('sm__warps_active.avg.pct_of_peak_sustained_active', 0):.0f}%",
                f"{k.get('launch__registers_per_thread', 0):.0f}",
            ]
        )
    return table(
        ["kernel (hardware counters)", "bytes moved / needed", "of peak bandwidth", "occupancy", "registers"], lines
    )


def main(arguments: list[str]) -> int:
    cpu = "--cpu" in arguments
    verb, *rest = [a for a in arguments if a != "--cpu"] or [""]
    if verb == "machine" and len(rest) == 1:
        return machine(Path(rest[0]), cpu)
    if verb == "architectures" and len(rest) == 1:
        return architectures(Path(rest[0]))
    if verb == "installed" and not rest:
        return installed(cpu)
    if verb == "write" and len(rest) == 2:
        return write(Path(rest[0]), Path(rest[1]))
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
