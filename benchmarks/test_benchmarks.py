"""Tests of the benchmark programs themselves: `pytest benchmarks/test_benchmarks.py`. No GPU and no timing in them."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import bench_busy
import bench_compat
import bench_dataset
import bench_detect
import bench_export
import bench_methods
import bench_metrics
import bench_training
import charts
import eager
import gpu_report
import gpu_targets
import method_cases
import numpy as np
import op_cases
import op_peers
import pytest
import report
import sanitizer_run
import torch
import training_cases
from explain_cases import Network
from harness import Result, measure

HERE = Path(__file__).resolve().parent


class Clock:
    """A timer that always takes the same time, and writes down when it was asked."""

    def __init__(self, seconds: float, log: list[str], name: str) -> None:
        self.seconds, self.log, self.name = seconds, log, name

    def __call__(self, calls: int) -> float:
        self.log.append(self.name)
        return self.seconds


def test_candidates_take_turns() -> None:
    log: list[str] = []
    timers = {name: Clock(1e-3, log, name) for name in "abc"}
    results = measure(timers, seconds=1.0, sample_seconds=0.01, max_rounds=10)
    rounds = "".join(log)[-30:]
    assert [len(r.samples) for r in results.values()] == [10, 10, 10]
    assert all(set(rounds[i : i + 3]) == set("abc") for i in range(0, 30, 3))
    assert {rounds[i] for i in range(0, 30, 3)} == set("abc")  # the first place rotates
    assert results["a"].calls == 10 and results["a"].median == pytest.approx(1e-3)


def test_slow_candidates_get_fewer_samples_spread_over_the_run() -> None:
    log: list[str] = []
    timers = {"fast": Clock(1e-3, log, "f"), "slow": Clock(2.0, log, "s")}
    results = measure(timers, seconds=1.0, sample_seconds=0.01, min_rounds=3, max_rounds=30)
    assert len(results["fast"].samples) == 30 and results["slow"].calls == 1
    assert sorted(results["slow"].samples) == [9, 19, 29]


def test_ratios_are_formed_inside_rounds() -> None:
    # The machine slows down threefold halfway: the medians of both shift, the ratio does not.
    base = Result({0: 1.0, 1: 1.0, 2: 3.0, 3: 3.0}, 1)
    other = Result({1: 2.0, 2: 6.0, 3: 6.0}, 1)
    assert other.ratio(base) == 2.0
    assert base.quartiles == tuple(np.percentile([1, 1, 3, 3], [25, 75]))


@pytest.mark.parametrize("case", [*op_cases.cpu_cases(), *op_cases.cuda_cases()], ids=lambda case: case.label)
def test_bytes_of_a_case(case: op_cases.OpCase) -> None:
    if case.bytes_in > 30_000_000:
        small = (min(case.shape[0], 2), *case.shape[1:]) if case.op != "overlay" else (1, *case.shape[1:])
        case = op_cases.OpCase(case.op, small, case.size, min(case.targets, 7), case.dtype, case.layout)
    tensors = case.inputs()
    assert sum(t.numel() * t.element_size() for t in tensors) == case.bytes_in
    with torch.no_grad():
        out = op_peers.ours(case).call(*tensors)
    assert out.numel() * out.element_size() == case.bytes_out
    name, call = op_peers.limit(case, tensors)
    assert name in report.YARDSTICKS
    call()


def test_peers_equal_the_reference() -> None:
    for op in ("cam", *report.GRADIENT_OPS, *op_cases.EIGEN_OPS, "mask_images", "resize_normalize", "overlay"):
        shape = {"resize_normalize": (3, 5, 4), "overlay": (1, 5, 4)}.get(op, (2, 12, 5, 4))
        case = op_cases.OpCase(op, shape, (11, 17))
        tensors = case.inputs()
        expected = op_peers.reference_result(case, tensors).double()
        for peer in op_peers.peers_of(case, "cpu", tensors, compiled=False):
            got = peer.result(peer.call(*tensors))
            if peer.tolerance is not None:
                assert float((got.double() - expected).abs().max()) <= peer.tolerance, (op, peer.name)


def test_every_hand_written_variant_equals_the_reference() -> None:
    with torch.no_grad():
        for op in ("cam", *report.GRADIENT_OPS, *op_cases.EIGEN_OPS, "mask_images", "resize_normalize", "overlay"):
            shape = {"resize_normalize": (3, 5, 4), "overlay": (1, 5, 4)}.get(op, (2, 12, 5, 4))
            several = op == "cam" or op in report.GRADIENT_OPS
            for targets in (1, 3) if several else (1,):
                case = op_cases.OpCase(op, shape, (11, 17), targets)
                tensors = case.inputs()
                expected = op_peers.reference_result(case, tensors).double()
                for name, call in eager.variants(case, op_peers.ALPHA).items():
                    off = float((call(*tensors).double() - expected).abs().max())
                    assert off <= (1 if op == "overlay" else 2e-5), (op, name, targets, off)


def test_methods_are_compared_and_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "methods.json"
    arguments = ["--only", "kpca_cam, the rule", "--seconds", "0.05", "--no-memory", "--output", str(path)]
    monkeypatch.setattr(sys, "argv", ["bench_methods.py", *arguments])
    assert bench_methods.main() == 0
    (case,) = json.loads(path.read_text())["cases"]
    ours, theirs = case["rows"]
    assert ours["candidate"] == report.OURS and theirs["max_difference"] < 1e-4 and theirs["over_camfast"] > 0
    assert path.with_suffix(".png").stat().st_size > 5000
    wrong = {name: method_cases.Candidate(lambda: torch.eye(9)[None]) for name in (report.OURS, "other")}
    wrong["other"] = method_cases.Candidate(lambda: torch.eye(9).flip(0)[None])
    with pytest.raises(ValueError, match=r"other: expected camfast's heatmap, got a difference of 1"):
        bench_methods._check(method_cases.CASES[2], wrong, {})


def test_detectors_are_compared_and_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "detect.json"
    arguments = ["--only", "ssdlite", "--boxes", "2", "--seconds", "0.05", "--no-memory", "--output", str(path)]
    monkeypatch.setattr(sys, "argv", ["bench_detect.py", *arguments])
    assert bench_detect.main() == 0
    (case,) = json.loads(path.read_text())["cases"]
    rows = {row["candidate"]: row for row in case["rows"]}
    assert rows["forward"]["over_forward"] == 1 and rows[report.OURS]["over_forward"] > 0 and case["layers"]
    assert "pytorch-grad-cam" in {*rows, *case["refused"]}
    assert path.with_suffix(".png").stat().st_size > 5000


def test_one_script_runs_on_both_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pytorch_grad_cam")
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(8, 300)).eval()
    images = torch.randn(2, 3, 16, 16)
    monkeypatch.setitem(bench_compat.NETWORKS, "small", Network("1", 1.0, 1.0))
    monkeypatch.setattr(bench_compat, "load", lambda case, device: (model, images))
    options = argparse.Namespace(method="LayerCAM", seconds=0.1, quick=True)
    found = bench_compat._measure(bench_compat.ExplainCase("small", 2), options)
    assert [row["candidate"] for row in found["rows"]] == [bench_compat.PEER, bench_compat.OURS, "forward"]
    assert "small batch 2" in bench_compat._table({"cases": [found], "failed": []})


def test_training_steps_are_compared_and_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(name: str) -> torch.nn.Module:
        torch.manual_seed(0)
        layers = [
            torch.nn.Conv2d(3, 8, 7, stride=16),
            torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 8, 3),
        ]
        parts = {
            "layer4": torch.nn.Sequential(*layers),
            "pool": torch.nn.AdaptiveAvgPool2d(1),
            "flat": torch.nn.Flatten(),
        }
        model = torch.nn.Sequential()
        for part, module in {**parts, "fc": torch.nn.Linear(8, training_cases.CLASSES)}.items():
            model.add_module(part, module)
        return model

    monkeypatch.setattr(training_cases, "_network", small)
    path = tmp_path / "training.json"
    arguments = ["--models", "resnet18", "--batch", "2", "--no-memory", "--output", str(path)]
    monkeypatch.setattr(sys, "argv", ["bench_training.py", *arguments, "--seconds", "0.05"])
    assert bench_training.main() == 0
    (case,) = json.loads(path.read_text())["cases"]
    rows = {row["candidate"]: row for row in case["rows"]}
    assert case["refused"] == {} and set(rows) == set(training_cases._BUILDERS)
    assert rows["PyTorch, head"]["max_difference"] < 1e-4 and rows[training_cases.PLAIN]["over_plain"] == 1
    assert path.with_suffix(".png").stat().st_size > 5000
    monkeypatch.setattr(sys, "argv", ["bench_training.py", *arguments, "--soak", "20"])
    assert bench_training.main() == 0
    (soak,) = json.loads(path.read_text())["soak"]
    assert soak["steps"] == 20 and len(soak["held_bytes"]) == 10


def test_training_gradients_that_differ_are_refused() -> None:
    def candidate(scale: float) -> tuple[torch.nn.Module, training_cases.Loss, str]:
        layer = torch.nn.Linear(2, 1)
        torch.nn.init.ones_(layer.weight)
        return layer, lambda: scale * layer(torch.ones(1, 2)).sum(), ""

    with pytest.raises(ValueError, match=r"other: expected camfast's gradients, got a difference of 0\.5"):
        bench_training._check({report.OURS: candidate(1.0), "other": candidate(2.0)}, {})


@pytest.mark.parametrize("layout", sanitizer_run.LAYOUTS[:5])
def test_layouts_keep_values(layout: str) -> None:
    x = torch.randn(2, 3, 4, 5)
    placed = sanitizer_run.placed(x, layout, "cpu")
    assert torch.equal(placed, x)
    assert (placed.is_contiguous() and placed.data_ptr() % 16 == 0) == (layout == "contiguous")


def test_sanitizer_run_sees_a_wrong_value(monkeypatch: pytest.MonkeyPatch) -> None:
    v = sanitizer_run.Variant("grad_cam", (2, 9, 7, 7), (20, 17), torch.float32)
    assert sanitizer_run.check(v, "cpu", 0, poison=False) <= sanitizer_run.tolerance(v)
    right = sanitizer_run.ops.grad_cam

    def one_value_off(*args: Any) -> torch.Tensor:
        out = right(*args)
        out[1, 3, 2] = float("nan")
        return out

    monkeypatch.setattr(sanitizer_run.ops, "grad_cam", one_value_off)
    assert not sanitizer_run.check(v, "cpu", 0, poison=False) <= sanitizer_run.tolerance(v)


def op_result(**other: Any) -> dict[str, Any]:
    """A case of a CUDA run, on which camfast moves 270 MB in 100 us and a copy 3 TB/s."""
    rows = [
        {"candidate": "camfast", "mode": "graph", "median_s": 100e-6, "over_camfast": 1.0},
        {"candidate": "eager", "mode": "graph", "median_s": 80e-6, "over_camfast": 0.8},
        {"candidate": "device copy", "mode": "graph", "median_s": 90e-6, "over_camfast": 0.9},
        {"candidate": "camfast", "mode": "replay", "median_s": 9e-6, "over_camfast": 1.0},
        {"candidate": "empty kernel", "mode": "replay", "median_s": 4e-6, "over_camfast": 0.44},
    ]
    case = {"label": "grad_cam big", "op": "grad_cam", "shape": [1, 2048, 7, 7], "size": [224, 224], "targets": 1}
    case |= {"dtype": "float32", "layout": "contiguous", "device": "cuda", "launches": 1, "rows": rows}
    return {**case, "bytes_moved": 270_000_000, "copy_bytes_per_s": 3e12, **other}


def test_targets_take_the_worst_case() -> None:
    cases = [op_result(), op_result(label="slower", copy_bytes_per_s=3.2e12)]
    found = {t["what"]: t for t in gpu_targets.targets({"ops": {"cases": cases}})}
    share = found["gradient ops, 200 MB and more, float32 contiguous: of copy"]
    assert share["case"] == "slower" and share["value"] == "0.844" and not share["met"]
    replay = found["[1,2048,7,7] to 224, graph replay over an empty kernel's"]
    assert replay["value"] == "2.25" and not replay["met"]
    assert found["launches a call"]["met"]
    assert not any("overlay" in what for what in found)  # nothing measured, nothing judged


def test_losses_leave_yardsticks_out() -> None:
    assert [row["candidate"] for row in report.losses(op_result()["rows"])] == ["eager"]


def test_chart_of_losses(tmp_path: Path) -> None:
    meta = {"cpu": "some", "cores": 2, "versions": {"torch": "2.11"}}
    path = tmp_path / "ops.json"
    report.write_json(path, {"kind": "ops", "meta": meta, "cases": [op_result()]})
    assert charts.draw(path).stat().st_size > 5000
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["ops.json", "ops.png"]


PTXAS = """
ptxas info    : Compiling entry function '_ZN7camfast4cuda10cam_kernelIfLb1EEEv' for 'sm_90'
ptxas info    : Function properties for _ZN7camfast4cuda10cam_kernelIfLb1EEEv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 48 registers, used 1 barriers, 432 bytes cmem[0]
ptxas info    : Compiling entry function '_ZN7camfast4cuda14overlay_kernelEv' for 'sm_90'
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 72 registers, used 1 barriers, 400 bytes cmem[0]
"""
RACECHECK = "========= COMPUTE-SANITIZER\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"
NCU = """==PROF== Connected to process 12
"ID","Kernel Name","Grid Size","dram__bytes_read.sum","dram__bytes_write.sum","gpu__time_duration.sum"
"","","","Mbyte","byte","ns"
"0","cam_kernel<float>(CamJob<float>)","(8, 1, 1)","0.80","200,704","3,210"
"""
JUNIT = """<testsuites><testsuite tests="3" failures="1" errors="0" skipped="1">
<testcase classname="tests.test_ops" name="test_a"/>
<testcase classname="tests.test_ops" name="test_b"><failure message="no"/></testcase>
<testcase classname="tests.test_ops" name="test_c"><skipped message="one GPU"/></testcase>
</testsuite></testsuites>"""


def test_export_benchmark_measures_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 7, 8), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3)
    )
    monkeypatch.setattr(bench_export, "_network", lambda name, batch: (model.eval(), torch.randn(batch, 3, 64, 64)))
    path = tmp_path / "export.json"
    arguments = ["--models", "resnet50", "--runtimes", ".onnx", "--seconds", "0.05", "--output", str(path)]
    monkeypatch.setattr(sys, "argv", ["bench_export.py", *arguments])
    assert bench_export.main() == 0
    (case,) = json.loads(path.read_text())["cases"]
    assert case["form"] == "closed form" and case["heat_difference"] < 1e-4 and case["ratio"] > 0


def test_metrics_are_compared_and_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(name: str, count: int) -> tuple[torch.nn.Module, torch.Tensor]:
        convolution = torch.nn.Conv2d(3, 8, 3, stride=2)
        layers = convolution, torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5)
        return torch.nn.Sequential(*layers).eval(), torch.randn(count, 3, 32, 32)

    monkeypatch.setattr(bench_metrics, "_network", small)
    path = tmp_path / "metrics.json"
    arguments = ["--images", "3", "--rounds", "1", "--seconds", "0.01", "--output", str(path)]
    monkeypatch.setattr(sys, "argv", ["bench_metrics.py", *arguments])
    assert bench_metrics.main() == 0
    written = json.loads(path.read_text())
    assert written["failed"] == [] and [case["peer"] for case in written["cases"]] == [
        "pytorch-grad-cam",
        "pytorch-grad-cam",
        "torchcam",
    ]
    assert all(case["times_as_fast"] > 0 and case["difference"] < 0.02 for case in written["cases"])


def test_busy_benchmark_measures_both_policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "busy.json"
    monkeypatch.setattr(sys, "argv", ["bench_busy.py", "--seconds", "0.1", "--output", str(path)])
    assert bench_busy.main() == 0
    cases = json.loads(path.read_text())["cases"]
    assert [case["threads"] for case in cases] == ["active", "passive"] * 3
    assert all(0 < case["grad_cam"]["median_s"] <= case["grad_cam"]["q3_s"] for case in cases)


def test_dataset_benchmark_explains_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [
        "--images",
        "8",
        "--models",
        "mobilenet_v3_small",
        "--only",
        "throughput",
        "--workers",
        "0",
        "--batch",
        "2",
    ]
    output = tmp_path / "dataset.json"
    monkeypatch.setattr(sys, "argv", ["bench_dataset.py", *arguments, "--output", str(output)])
    assert bench_dataset.main() == 0
    (case,) = json.loads(output.read_text())["throughput"]
    assert case["pictures"] == 8 and case["a_second"]["explained"] > 0 and case["a_second"]["predicted"] > 0
    memory = bench_dataset.Memory()
    memory.samples = [1.0, 9.0, 10.0, 12.0, 12.0, 12.0, 12.0, 14.0]
    assert memory.growth == 2.0


def test_gpu_report_gathers_what_the_steps_left(tmp_path: Path) -> None:
    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    out.mkdir()
    (out / "gpu_check.log").write_text(PTXAS)
    (work / "steps.tsv").write_text("install\tpassed\t60\ntests\tfailed\t20\n")
    (work / "tests.xml").write_text(JUNIT)
    (work / "sanitizer.tsv").write_text("racecheck\t0\n")
    (work / "sanitizer-racecheck.log").write_text(RACECHECK)
    (work / "ncu.csv").write_text(NCU)
    report.write_json(work / "ncu-cases.json", [{"label": "grad_cam small", "bytes_moved": 1_000_000}])
    report.write_json(work / "machine.json", {"devices": [{"name": "GPU", "driver": "1"}], "commit": "abc"})
    report.write_json(work / "ops.json", {"cases": [op_result()], "skipped": [], "failed": []})
    assert gpu_report.main(["write", str(work), str(out)]) == 0
    found = json.loads((out / "gpu.json").read_text())
    assert found["build"]["kernels"] == 2 and found["build"]["most_registers"] == 72
    assert [k["spill_bytes"] for k in found["build"]["spilling"]] == [20]
    assert found["tests"]["failed"] == ["tests.test_ops::test_b"] and found["tests"]["skip_reasons"] == {"one GPU": 1}
    assert found["sanitizer"][0]["summary"] == "0 hazards displayed (0 errors, 0 warnings)"
    (kernel,) = found["counters"]["kernels"]
    assert kernel["bytes_moved"] == pytest.approx(1_000_704) and kernel["case"] == "grad_cam small"
    text = (out / "gpu.txt").read_text()
    assert "MISSED" in text and "grad_cam small" in text and "test_b" in text


def test_gpu_report_of_a_run_cut_short(tmp_path: Path) -> None:
    assert gpu_report.main(["write", str(tmp_path), str(tmp_path)]) == 0
    assert json.loads((tmp_path / "gpu.json").read_text())["tests"] is None
