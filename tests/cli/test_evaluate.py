"""``camfast evaluate``: a table, its files, photographs that cannot be read, errors in one sentence."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import camfast
from camfast import metrics, zoo
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
        (["--methods", "grad_can"], "expected one of"),
    ],
)
def test_wrong_words_are_said(words, said, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", CAT, *words])
    assert said in capsys.readouterr().err


@pytest.mark.real
@pytest.mark.parametrize("kind", ["csv", "json"])
def test_boxes_of_the_objects(tmp_path, capsys, kind):
    photo = Image.open(CUP).convert("RGB")  # 600 x 400: the cup stands in the middle
    (tmp_path / "photos").mkdir()
    photo.save(tmp_path / "photos" / "cup.png")
    photo.save(tmp_path / "photos" / "none.png")
    box = {"path": "cup.png", "left": 180, "top": 60, "right": 500, "bottom": 380}
    table = tmp_path / f"boxes.{kind}"
    table.write_text(json.dumps([box]) if kind == "json" else f"{','.join(box)}\n{','.join(map(str, box.values()))}\n")
    kinds = ["pointing_game", "energy_inside", "iou", "max_box_acc"]
    words = ["--methods", "grad_cam", "random_cam", "--boxes", str(table), "-o", str(tmp_path / "out")]
    assert main(["evaluate", str(tmp_path / "photos"), *words, "--metrics", *kinds]) == 0
    assert "1 of 2 photographs has no box" in capsys.readouterr().err
    network = zoo.load()
    image = network.preparation(np.asarray(photo))[None]
    left, top, right, bottom = network.preparation.box(400, 600)
    across, down = 224 / (right - left), 224 / (bottom - top)
    seen = [(180 - left) * across, (60 - top) * down, (500 - left) * across, (380 - top) * down]
    seen = torch.tensor(seen).clamp(0, 224)
    result = camfast.grad_cam(network.model, image)
    expected = [
        float(getattr(metrics, kind)(result, boxes=[seen])) for kind in ("pointing_game", "energy_inside", "iou")
    ]
    expected.append(metrics.max_box_acc(result, [seen]).value)
    values = list(csv.DictReader((tmp_path / "out" / "values.csv").open()))
    of = {
        Path(row["photo"]).name: [
            float(each["value"]) for each in values if each["photo"] == row["photo"] and each["method"] == "grad_cam"
        ]
        for row in values
    }
    assert of["cup.png"] == pytest.approx(expected, abs=1e-4) and all(map(math.isnan, of["none.png"]))
    assert expected[0] == 1


@pytest.mark.real
def test_boxes_that_do_not_serve(tmp_path, capsys):
    table = tmp_path / "boxes.csv"
    table.write_text("path,left,top,right,bottom\nother.png,1,2,3,9\n")
    words = ["evaluate", CAT, "--methods", "grad_cam", "--metrics", "iou"]
    assert main(words) == 2
    assert "iou needs to know where the objects are: give --boxes FILE" in capsys.readouterr().err
    assert main([*words, "--boxes", str(table)]) == 2
    assert (
        "expected boxes of the photographs, got none; the table's first path is 'other.png'" in capsys.readouterr().err
    )
    table.write_text(f"path,left,top,right,bottom\n{CAT},0,0,3,9\n")
    assert main([*words, "--boxes", str(table)]) == 2
    assert "expected a box in what the network sees" in capsys.readouterr().err
    assert main([*words, "--boxes", str(tmp_path / "missing.csv")]) == 2
    assert "missing.csv" in capsys.readouterr().err


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
