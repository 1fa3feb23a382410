"""``camfast evaluate``: a table, its files, photographs that cannot be read, errors in one sentence."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camfast.cli.main import main

pytest.importorskip("efficientnet_lite_pytorch")
skimage = pytest.importorskip("skimage")
CAT, CUP = (str(Path(skimage.__file__).parent / "data" / name) for name in ("chelsea.png", "coffee.png"))


@pytest.mark.real
def test_table_and_files(tmp_path, capsys):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    words = ["--methods", "GradCAM", "random-cam", "--metrics", "deletion", "complexity", "-o", str(tmp_path / "out")]
    assert main(["evaluate", CAT, CUP, str(broken), *words, "--fit", "stretch"]) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split() == ["method", "deletion", "v", "complexity", "v", "ms"]
    assert [line.split()[0] for line in lines[1:3]] == ["grad_cam", "random_cam"] and "2 photographs" in out
    assert "broken.jpg" in err and "%" in err  # the reason, and a bar
    table = list(csv.DictReader((tmp_path / "out" / "table.csv").open()))
    assert float(table[0]["deletion"]) < float(table[1]["deletion"])  # a random map finds the cat later
    values = list(csv.DictReader((tmp_path / "out" / "values.csv").open()))
    assert len(values) == 2 * 2 * 2 and {row["photo"] for row in values} == {CAT, CUP}
    assert "espresso" in {row["class"] for row in values}
    mean = np.mean(
        [float(row["value"]) for row in values if (row["method"], row["metric"]) == ("grad_cam", "deletion")]
    )
    assert mean == pytest.approx(float(table[0]["deletion"]))
    assert np.asarray(Image.open(tmp_path / "out" / "comparison.png")).shape[1] == 1600


@pytest.mark.real
def test_targets(tmp_path, capsys):
    words = ["--methods", "grad_cam", "--metrics", "complexity", "-o", str(tmp_path)]
    assert main(["evaluate", CAT, *words, "--target", "tiger cat"]) == 0
    assert [row["class"] for row in csv.DictReader((tmp_path / "values.csv").open())] == ["tiger cat"]
    assert main(["evaluate", CAT, *words, "--target", "top3"]) == 0
    assert len(list(csv.DictReader((tmp_path / "values.csv").open()))) == 3
    assert "top3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--metrics", "rod"], "no metric is called 'rod'; close to it: 'road'"),
        (["--metrics", "iou"], "iou needs boxes or masks of the objects"),
        (["--methods", "grad_can"], "expected one of"),
    ],
)
def test_wrong_words_are_said(words, said, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", CAT, *words])
    assert said in capsys.readouterr().err


@pytest.mark.real
def test_methods_that_do_not_fit_are_told(capsys):
    words = ["--methods", "legrad", "eigen_cam", "--metrics", "complexity"]
    assert main(["evaluate", CAT, *words]) == 0
    out, err = capsys.readouterr()
    assert "camfast evaluate: legrad: " in err and "eigen_cam" in out
    assert main(["evaluate", CAT, "--methods", "legrad", "--metrics", "complexity"]) == 2


def test_no_photograph_that_can_be_read(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path)]) == 1
    (tmp_path / "x.jpg").write_bytes(b"")
    assert main(["evaluate", str(tmp_path / "x.jpg")]) == 1
    assert "camfast evaluate: " in capsys.readouterr().err
