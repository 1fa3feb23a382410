"""Tests of the GPU run, without a GPU: `gpu_check.sh` and what it compares."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import bench_pipeline
import pytest
from op_cases import OpCase
from pipeline_model import GPUS, Gpu, predict

HERE = Path(__file__).resolve().parent


def script(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHON": sys.executable, **environment}
    return subprocess.run(
        ["bash", str(HERE / "gpu_check.sh"), *arguments], capture_output=True, text=True, env=env, check=False
    )


def test_script_names_every_command_in_a_dry_run(tmp_path: Path) -> None:
    done = script("--dry-run", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("pip install", "pytest tests", "memcheck", "racecheck", "bench_ops.py", "bench_explain.py", "ncu"):
        assert word in done.stdout


def test_script_runs_the_chosen_steps_only(tmp_path: Path) -> None:
    done = script("--dry-run", "--only", "ops,ncu", "--skip=ncu", str(tmp_path))
    assert done.returncode == 0 and "bench_ops.py" in done.stdout
    assert "pytest" not in done.stdout and "ncu_run" not in done.stdout


def test_script_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    assert script("--only", "everything", str(tmp_path)).returncode == 2
    assert script("--fast", str(tmp_path)).returncode == 2
    assert script("--dry-run", str(tmp_path), PYTHON="no-such-python").returncode == 2


def test_script_fails_when_a_step_does(tmp_path: Path) -> None:
    """A wheel that does not exist: the install fails, nothing after it runs, and the report says so."""
    done = script("--rehearse", "--only", "install,ops", str(tmp_path), WHEEL=str(tmp_path / "missing.whl"))
    assert done.returncode == 1, done.stdout + done.stderr
    steps = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert [(s["step"], s["status"]) for s in steps] == [("install", "failed")]


def test_script_gives_each_step_its_time_only(tmp_path: Path) -> None:
    done = script("--rehearse", "--only", "install", str(tmp_path), TOTAL_LIMIT="10")
    assert done.returncode == 1
    assert json.loads((tmp_path / "gpu.json").read_text())["steps"][0]["status"] == "no time left"


def test_script_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """A step that passed in an earlier call for the same commit is left out; another commit begins anew."""
    work = tmp_path / "work"
    (work / "run" / "benchmarks").mkdir(parents=True)
    (work / "commit").write_text("abc")
    (work / "steps.tsv").write_text("install\tpassed\t60\nops\tpassed\t60\nncu\tfailed\t3\n")
    done = script("--dry-run", "--resume", "--only", "ops,ncu", str(tmp_path), CAMFAST_COMMIT="abc")
    assert done.returncode == 0 and "ncu_run" in done.stdout and "bench_ops" not in done.stdout
    assert (work / "steps.tsv").read_text().splitlines()[:2] == ["install\tpassed\t60", "ops\tpassed\t60"]
    assert (work / "steps.tsv").read_text().count("ncu\t") == 1
    for commit in ("abcd", "abc+"):
        done = script("--dry-run", "--resume", "--only", "ops,ncu", str(tmp_path), CAMFAST_COMMIT=commit)
        assert done.returncode == 0 and "ncu_run" in done.stdout and "bench_ops" in done.stdout


def test_the_pipeline_is_compared_before_anything_else_is_timed(tmp_path: Path) -> None:
    words = script("--dry-run", str(tmp_path)).stdout
    assert words.index("bench_pipeline.py") < min(words.index(f"bench_{x}.py") for x in ("ops", "explain", "realtime"))


@pytest.mark.parametrize(("status", "left_out"), [("out of time", True), ("failed", True), ("passed", False)])
def test_a_pipeline_that_hangs_is_left_out_of_the_rest(tmp_path: Path, status: str, left_out: bool) -> None:
    work = tmp_path / "work"
    (work / "run" / "benchmarks").mkdir(parents=True)
    (work / "commit").write_text("abc")
    (work / "steps.tsv").write_text(f"pipeline\t{status}\t45\n")
    words = script("--dry-run", "--resume", "--only", "tests,sanitizer", str(tmp_path), CAMFAST_COMMIT="abc").stdout
    assert ("--ignore=tests/ops/test_pipeline.py" in words) == left_out
    assert ("--no-pipeline" in words) == left_out


def test_the_pipeline_compared_on_the_processor(tmp_path: Path, monkeypatch, capsys) -> None:
    """The program runs through; the variable is as it was before."""
    monkeypatch.delenv(bench_pipeline.VARIABLE, raising=False)
    monkeypatch.setattr(bench_pipeline, "VALUES", bench_pipeline.VALUES[:2])
    output = tmp_path / "pipeline.json"
    arguments = ["--device", "cpu", "--quick", "--seconds", "0.05", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["bench_pipeline.py", *arguments])
    assert bench_pipeline.main() == 0
    found = json.loads(output.read_text())
    assert len(found["values"]) == 2 * 4 * 3 * 2 and all(v["right"] for v in found["values"])
    assert len(found["cases"]) == 1 and found["verdict"] in capsys.readouterr().out
    assert bench_pipeline.VARIABLE not in os.environ


def test_wrong_values_are_not_timed(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(bench_pipeline, "VALUES", bench_pipeline.VALUES[:1])
    monkeypatch.setattr(bench_pipeline, "LIMIT", -1.0)
    output = tmp_path / "pipeline.json"
    monkeypatch.setattr(sys, "argv", ["bench_pipeline.py", "--device", "cpu", "--output", str(output)])
    assert bench_pipeline.main() == 1
    assert "WRONG" in capsys.readouterr().out and not json.loads(output.read_text())["cases"]


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ((0.6, 0.7), "turn it on"),
        ((0.6, 1.2), "leave it off"),
        ((0.6, 1.0), "turn it on"),
        ((1.0, 0.7), "leave it off"),
    ],
)
def test_the_verdict(ratios: tuple[float, float], said: str) -> None:
    """On by default where every large case gains and no small one loses."""
    cases: list[dict[str, Any]] = [
        {"bytes_moved": size, "winner": bench_pipeline.winner(ratio)}
        for size, ratio in zip((400_000_000, 50_000_000), ratios, strict=True)
    ]
    assert said in bench_pipeline.verdict({"values": [{"right": True}], "cases": cases})
    failed = [{"label": "a case", "reason": "differs"}]
    assert "leave the pipeline off" in bench_pipeline.verdict(
        {"values": [{"right": True}], "cases": cases, "failed": failed}
    )
    cases[0]["pipeline_ran"] = False
    assert "did not run" in bench_pipeline.verdict({"values": [{"right": True}], "cases": cases})


def test_the_model_of_the_pipeline() -> None:
    """What bounds a call changes with the GPU; a ring that has no room is not predicted."""
    case = bench_pipeline.timed_cases()[0]
    usual = predict(case, GPUS["H200"])
    assert usual["all"] > usual["memory"] > usual["instructions"] and 0.8 < usual["of copy"] < 1
    slow = predict(case, Gpu(132, 4.2e12, clock=0.5e9))
    assert slow["instructions"] > slow["memory"] and slow["all"] > usual["all"]
    assert predict(case, Gpu(84, 0.9e12, shared=99 * 1024))["all"] > usual["all"]  # a block a multiprocessor
    assert predict(OpCase("grad_cam", (1, 8, 64, 64), (9, 9)), Gpu(84, 0.9e12, shared=99 * 1024)) == {}
