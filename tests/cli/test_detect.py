"""``camfast detect``: pictures, tables and a page of boxes, and what is said where something cannot be done."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from squares import LIGHT, RED, Listed, Squares, scene

from camfast.cli.main import main


@pytest.fixture
def weights(tmp_path):
    torch.save(Squares(), tmp_path / "squares.pt")
    return str(tmp_path / "squares.pt")


@pytest.fixture
def folder(tmp_path):
    """A photograph with two boxes, one with three of a class, one without any, a large one, and a broken one."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    pictures = {
        "a.png": scene((LIGHT, 2, 3), (RED, 5, 9)),
        "sub/b.png": scene((LIGHT, 1, 1), (LIGHT, 3, 5), (LIGHT, 6, 10)),
        "sub/c.png": scene(),
        "d.png": scene((RED, 2, 3)).repeat(5, 0).repeat(5, 1),
    }
    for name, picture in pictures.items():
        Image.fromarray(picture).save(tmp_path / "in" / name)
    (tmp_path / "in" / "bad.jpg").write_text("no picture")
    return tmp_path / "in"


@pytest.fixture
def run(weights, capsys):
    """Runs the command; exit code, and what was printed."""

    def detect(*arguments, trust=True):
        try:
            words = ["-m", weights, "--size", "96", *(["--trust"] if trust else [])]
            code = main(["detect", *map(str, arguments), *words])
        except SystemExit as leave:
            code = leave.code
        return code, *capsys.readouterr()

    return detect


def picture(path):
    return np.asarray(Image.open(path).convert("RGB"))


def test_arrays_beside_the_pictures(folder, tmp_path, run):
    """What the pictures were drawn of: of the boxes in the table, on the photograph's own pixels; of no box none."""
    out = tmp_path / "out"
    code, _, _ = run(folder, "-o", out, "--maps", "npz", "--csv", tmp_path / "t.csv", "--json", tmp_path / "t.json")
    assert code == 1  # of the broken photograph
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.npz")) == [
        "a.npz",
        "d.npz",
        "sub/b.npz",
        "sub/c.npz",
    ]
    with open(tmp_path / "t.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["photo"] == str(folder / "a.png")]
    assert [row["maps"] for row in rows] == [str(out / "a.npz")] * 2
    listed = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))["photographs"]
    assert next(entry["maps"] for entry in listed if "boxes" in entry) == str(out / "a.npz")
    arrays = np.load(out / "a.npz")
    assert set(arrays) == {"heatmaps", "boxes", "labels", "names", "scores", "layers"}
    assert arrays["names"].tolist() == ["light", "red"] == [row["class"] for row in rows]
    np.testing.assert_allclose(
        arrays["boxes"][0], [float(rows[0][s]) for s in ("left", "top", "right", "bottom")], atol=0.1
    )
    np.testing.assert_allclose(arrays["scores"], [float(row["score"]) for row in rows], atol=1e-5)
    height, width = picture(folder / "a.png").shape[:2]
    for box, heat in zip(arrays["boxes"], arrays["heatmaps"], strict=True):
        assert heat.dtype == np.float32 and heat.shape == (height, width) and heat.max() > 0.8
        y, x = np.unravel_index(heat.argmax(), heat.shape)
        assert box[0] <= x <= box[2] and box[1] <= y <= box[3]
    large = np.load(out / "d.npz")
    assert large["heatmaps"].shape[1:] == tuple(np.minimum(picture(folder / "d.png").shape[:2], 480))
    none = np.load(out / "sub" / "c.npz")
    assert none["boxes"].shape == (0, 4) and len(none["heatmaps"]) == len(none["names"]) == 0


def test_arrays_that_cannot_be_written(folder, tmp_path, run, monkeypatch):
    """The photograph fails with a sentence, the others go on, and nothing half-written stays."""
    from camfast.cli import arrays

    replace = arrays.os.replace

    def full(source, target):
        if str(target).endswith("a.npz"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(arrays.os, "replace", full)
    code, _, err = run(folder, "-o", tmp_path / "out", "--maps", "npz")
    assert code == 1 and "a.npz, of " in err and "No space left on device" in err
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.npz*")) == ["b.npz", "c.npz", "d.npz"]


def test_pictures_and_tables(folder, tmp_path, run):
    out = tmp_path / "out"
    code, printed, err = run(
        folder, "-o", out, "--format", "png", "--csv", tmp_path / "t.csv", "--json", tmp_path / "t.json"
    )
    assert code == 1 and "bad.jpg" in err
    lines = printed.splitlines()
    assert lines[0].split() == ["photo", "class", "score", "box", "ms", "file"] and len(lines) == 2 + 7 + 1 + 2
    assert "layer_cam of" in lines[-2] and " at " in lines[-2] and "6 boxes in 4 photographs" in lines[-1]
    assert "no box" in printed
    with open(tmp_path / "t.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    of = lambda name: [row for row in rows if row["photo"] == str(folder / name)]  # noqa: E731
    light, red = of("a.png")
    assert (light["class"], light["number"], light["rank"], red["class"]) == ("light", "0", "1", "red")
    corners = [float(light[side]) for side in ("left", "top", "right", "bottom")]
    np.testing.assert_allclose(corners, [23, 15, 33, 25], atol=0.1)
    assert len(of("sub/b.png")) == 3 and of("sub/c.png")[0]["class"] == "" and "no" in of("bad.jpg")[0]["error"]
    large = of("d.png")[0]
    np.testing.assert_allclose(
        [float(large[side]) for side in ("left", "top", "right", "bottom")], [115, 75, 165, 125], atol=1
    )
    assert large["picture"] == str(out / "d.png") and picture(out / "d.png").shape == (320, 480, 3)

    drawn, given = picture(out / "a.png"), picture(folder / "a.png")
    changed = (drawn != given).any(-1)
    assert changed[15:25, 23:33].mean() > 0.5 and not changed[:, :14].any()
    empty = (picture(out / "sub" / "c.png") != scene()).any(-1)
    assert empty[-20:, :60].any() and not empty[:40].any()  # it says so in its corner

    document = json.loads((tmp_path / "t.json").read_text())
    assert (document["method"], document["explained"]) == ("layer_cam", "score") and len(document["layers"]) == 1
    by_photo = {entry["photo"]: entry for entry in document["photographs"]}
    found = by_photo[str(folder / "a.png")]
    assert [box["class"] for box in found["boxes"]] == ["light", "red"] and found["picture"] == str(out / "a.png")
    np.testing.assert_allclose(found["boxes"][0]["box"], corners, atol=0.1)
    assert by_photo[str(folder / "sub" / "c.png")]["boxes"] == [] and "error" in by_photo[str(folder / "bad.jpg")]


def test_which_boxes(folder, tmp_path, run):
    def classes(*arguments):
        code, printed, _ = run(folder / "a.png", "-o", tmp_path / "out", *arguments)
        assert code == 0
        return [line.split()[1] for line in printed.splitlines()[2:-3]]

    assert classes("--classes", "red") == ["red"]
    assert classes("--classes", "red", "0") == ["light", "red"]
    assert classes("--top", "1") == ["light"]
    assert classes("--min-score", "0.999") == ["no"]
    code, _, err = run(folder / "a.png", "-o", tmp_path / "out", "--classes", "rad")
    assert code == 2 and "rad" in err and "red" in err


def test_each_box_alone(folder, tmp_path, run):
    out = tmp_path / "out"
    code, printed, _ = run(folder / "sub", "-o", out, "--each", "--format", "png", "--method", "hires_cam")
    names = sorted(path.name for path in out.iterdir())
    assert code == 0 and names == ["b-1-light.png", "b-2-light.png", "b-3-light.png", "b.png", "c.png"]
    given = picture(folder / "sub" / "b.png")
    parts = [(picture(out / f"b-{k}-light.png") != given).any(-1) for k in (1, 2, 3)]
    assert all(part.any() for part in parts) and not (parts[0] & parts[2]).any()
    assert "b-2-light.png" in printed and "hires_cam of" in printed


def test_no_photograph_is_overwritten(folder, run, monkeypatch):
    monkeypatch.chdir(folder)
    before = picture("a.png")
    code, printed, _ = run("a.png", "-o", ".", "--format", "png")
    assert code == 0 and "a-2.png" in printed and np.array_equal(picture("a.png"), before)


def test_a_page(folder, tmp_path, run):
    out = tmp_path / "out"
    code, _, _ = run(folder, "-o", out, "--page", out / "index.html")
    page = (out / "index.html").read_text()
    assert code == 1 and page.count("<figure") == 4 and "<h1>What squares found in 4 photographs</h1>" in page
    assert "3 × light" in page and "light, red" in page and "no box" in page and "bad.jpg" in page
    links = re.findall(r'<img src="([^"]+)"', page)
    assert len(set(links)) == 4 and all((out / link).is_file() for link in links)


def test_a_detector_that_takes_lists(folder, tmp_path, capsys):
    torch.save(Listed(), tmp_path / "listed.pt")
    (tmp_path / "names.txt").write_text("white\nrot\nverde\n")
    command = [
        "detect",
        str(folder / "a.png"),
        "-m",
        str(tmp_path / "listed.pt"),
        "--trust",
        "-o",
        str(tmp_path / "out"),
    ]
    assert main([*command, "--labels", str(tmp_path / "names.txt"), "--classes", "rot"]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[1] == "rot"


def test_what_cannot_be_done_is_said(folder, tmp_path, run, capsys):
    code, _, err = run(folder, "-o", tmp_path / "out", trust=False)
    assert code == 2 and "pickled network" in err and "--trust" in err
    code, _, err = run(folder, "-o", tmp_path / "out", "--method", "eigen_cam")
    assert code == 2 and "must be one of" in err and "eigen_cam" in err
    code, _, err = run(folder, "-o", tmp_path / "out", "--explain", "mask")
    assert code == 2 and "mask" in err
    code, _, err = run(folder, "--min-score", "2")
    assert code == 2 and "a number from 0 to 1" in err
    assert main(["detect", str(folder), "-m", "resnet50", "-o", str(tmp_path / "out")]) == 2
    assert "expected a detector of torchvision" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["detect", str(folder)])
    assert "-m/--model" in capsys.readouterr().err


@pytest.mark.real
def test_yolo(tmp_path, monkeypatch):
    """Weights of ultralytics as they are, on a street."""
    import real_networks

    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))  # its library writes settings where it is imported
    _, photo = real_networks.yolo26()
    Image.fromarray(photo).save(tmp_path / "street.jpg")
    out = ["-o", str(tmp_path / "out"), "--csv", str(tmp_path / "t.csv")]
    file = str(real_networks.asset("yolo26-1/yolo26n.pt"))
    assert (
        main(["detect", str(tmp_path / "street.jpg"), "-m", file, "--classes", "bus", "person", "--size", "320", *out])
        == 0
    )
    with open(tmp_path / "t.csv", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert {row["class"] for row in rows[:3]} == {"bus", "person"}
    bus = next(row for row in rows if row["class"] == "bus")
    assert 700 < float(bus["right"]) < 830 and picture(bus["picture"]).shape == photo.shape
