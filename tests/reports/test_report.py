"""Reports about data set runs: what is in the folder, whatever the run and its file names are."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from runs import both, row, write_run

import camfast
from camfast.cli import main as command_line

HOSTILE = "<img src=x onerror=alert(1)>.jpg"


def parts(report: Path, call: str) -> list:
    """The values of each call of the page's function ``call`` in the report's scripts."""
    texts = [file.read_text("ascii") for file in sorted((report / "data").glob("*.js"))]
    found = [re.fullmatch(rf"report\.{call}\((.*)\);\n", text) for text in texts]
    return [json.loads(f"[{match[1]}]") for match in found if match]


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def photo(path: Path, size: tuple[int, int] = (96, 64)) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 120, 40)).save(path, "PNG")
    return str(path)


@pytest.fixture
def run(tmp_path) -> Path:
    """Six images: two tabbies taken for espresso, one espresso taken for a rocket, three right."""
    paths = [photo(tmp_path / f"photos/{n}.png") for n in range(6)]
    rows = [
        *both(paths[0], 0, 1, 0, probability=0.6),
        *both(paths[1], 1, 1, 0, probability=0.9),
        *both(paths[2], 2, 2, 1, probability=0.8),
        *(row(paths[n], n, n - 3, n - 3, probability=0.1 * n) for n in (3, 4, 5)),
    ]
    return write_run(tmp_path / "run", rows, shards=3, unreadable=[("photos/broken.png", "the file is empty")])


def test_what_a_report_says(run):
    page = camfast.report(run, progress=False)
    assert page == run / "report/index.html"
    text = page.read_text()
    assert "<b>6</b> images" in text and "<b>50.0%</b> right of 6 with a label" in text and "<b>3</b> wrong" in text
    assert "photos/broken.png: the file is empty" in text and "small on run" in text
    (summary,) = parts(page.parent, "summary")[0]
    assert summary["pairs"] == [[0, 1, 2], [1, 2, 1]]
    assert summary["names"] == {"0": "tabby", "1": "espresso", "2": "rocket"}
    counts = {one["class"]: (one["images"], one["right"], one["predicted"], one["maps"]) for one in summary["classes"]}
    assert counts == {0: (3, 1, 1, 3), 1: (2, 1, 3, 4), 2: (1, 1, 2, 2)}
    assert sum(map(sum, summary["histogram"])) == 6 and summary["histogram"][12] == [0, 1, 0]
    number, details, _ = parts(page.parent, "details")[0]
    assert number == 0 and [len(one[3]) for one in details] == [2, 2, 2, 1, 1, 1]
    assert [one[0] for one in details[0][3]] == [1, 0]  # the prediction's row comes first
    assert details[0][:3] == [64, 96, [16.0, 0.0, 80.0, 64.0]]


def test_maps_come_back_as_they_went_in(tmp_path):
    import base64

    big = np.zeros((56, 56))
    big[:28] = 1
    heat = np.linspace(0, 1, 12).reshape(3, 4)
    rows = [
        row("a.jpg", 0, 0, heat=heat),
        row("b.jpg", 1, 0, heat=big),
        row("c.jpg", 2, 0, heat=np.full((2, 2), np.nan)),
    ]
    page = camfast.report(write_run(tmp_path / "run", rows), progress=False)
    _, details, maps = parts(page.parent, "details")[0]
    data = np.frombuffer(base64.b64decode(maps), np.uint8)
    assert [one[3][0][5:] for one in details] == [[3, 4], [28, 28], [2, 2]]
    assert np.abs(data[:12].reshape(3, 4) / 255 - heat).max() < 0.004
    second = data[12 : 12 + 28 * 28].reshape(28, 28)
    assert (second[:14] == 255).all() and (second[14:] == 0).all()
    assert (data[12 + 28 * 28 :] == 0).all()
    mean = parts(page.parent, "summary")[0][0]["classes"][0]
    assert mean["maps"] == 3 and mean["size"] == [28, 28]


def test_the_mean_heat_of_a_class(tmp_path):
    import base64

    heat = [np.eye(7), np.zeros((7, 7))]
    run = write_run(tmp_path / "run", [row(f"{n}.jpg", n, 0, heat=one) for n, one in enumerate(heat)])
    (summary,) = parts(camfast.report(run, progress=False).parent, "summary")[0]
    mean = np.frombuffer(base64.b64decode(summary["classes"][0]["map"]), np.uint8).reshape(7, 7)
    assert (mean == (np.eye(7) * 128).astype(np.uint8)).all() and summary["classes"][0]["crop"] == [64.0, 64.0]


def test_rows_as_csv(run):
    report = camfast.report(run, progress=False).parent
    with open(report / "rows.csv", newline="") as text:
        lines = list(csv.DictReader(text))
    assert len(lines) == 9 and [line["index"] for line in lines] == list("001122345")
    first = lines[0]
    assert (first["label_name"], first["prediction_name"], first["role"]) == ("tabby", "espresso", "prediction")
    assert first["probability"] == "0.6" and first["left"] == "16" and first["heat_inside"] == "" and "map" not in first


def test_the_same_run_gives_the_same_bytes(run, tmp_path):
    """Whatever the order of the shards; the folder's place is in the links to the photographs alone."""
    first = files(camfast.report(run, tmp_path / "a", progress=False).parent)
    shards = sorted((run / "shards").iterdir())
    for number, shard in enumerate(reversed(shards)):
        shard.rename(shard.with_name(f"part-0001-{number:06d}.parquet"))
    second = files(camfast.report(run, tmp_path / "b", progress=False).parent)
    assert first == second
    assert len([name for name in first if name.startswith("pictures/")]) == 6


@pytest.mark.parametrize("count", [0, 2])
def test_so_many_pictures_are_written(run, count):
    report = camfast.report(run, pictures=count, progress=False).parent
    _, details, _ = parts(report, "details")[0]
    small = {f"{number:06d}.jpg" for number, one in enumerate(details) if one[7]}
    assert {file.name for file in (report / "pictures").iterdir()} == small and len(small) == count
    if count:  # the most frequent pair's, the surest error first
        assert small == {"000000.jpg", "000001.jpg"}


def test_links_lead_to_the_photographs(run, tmp_path):
    report = camfast.report(run, progress=False).parent
    (summary,), (images,) = parts(report, "summary")[0], parts(report, "images")[0]
    shown, link = summary["folders"][images["folder"][4]]
    assert shown == f"{tmp_path}/photos/" and images["name"][4] == "4.png"
    assert (report / link / images["name"][4]).resolve() == tmp_path / "photos/4.png"


def test_hostile_and_foreign_names(tmp_path):
    names = [
        HOSTILE,
        "</script><script>alert(2)</script>.jpg",
        "öl & “Käse” 猫\u2028.jpg",
        "a'b\"c%2F#?.jpg",
        "-->.jpg",
    ]
    rows = [row(f"dir <b>/{name}", n, 0, 1, names=["<i>one</i>", "</script>"]) for n, name in enumerate(names)]
    settings = {"model": "<u>model</u>", "class_names": ["<i>one</i>", "</script>"]}
    run = write_run(tmp_path / "run <s>", rows, settings=settings, unreadable=[("<p>", "<script>alert(3)</script>")])
    report = camfast.report(run, progress=False).parent
    (images,) = parts(report, "images")[0]
    assert images["name"] == [name.rpartition("/")[2] for name in names]
    page = (report / "index.html").read_text()
    for tag in ("<u>", "<p>broken", "<script>alert", "<s>", "<img src=x"):
        assert tag not in page
    for file in (report / "data").iterdir():
        assert "<" not in file.read_text("ascii")
    with open(report / "rows.csv", encoding="utf-8", newline="") as text:
        assert [line["path"] for line in csv.DictReader(text)] == [f"dir <b>/{name}" for name in names]


def test_nothing_is_loaded_from_elsewhere(run):
    for name, content in files(camfast.report(run, progress=False).parent).items():
        if not name.endswith(".jpg"):
            assert not re.search(rb"(?:https?:)?//[\w.]+\.\w", content), name


def test_runs_without_labels_with_one_class_with_other_targets(tmp_path):
    plain = write_run(tmp_path / "plain", [row(f"{n}.jpg", n, 0, crop=None) for n in range(3)])
    report = camfast.report(plain, progress=False).parent
    assert "with a label</div>" not in (report / "index.html").read_text()
    (summary,) = parts(report, "summary")[0]
    assert summary["pairs"] == [] and len(summary["classes"]) == 1 and summary["classes"][0]["scored"] == 0
    assert parts(report, "details")[0][1][0][2] == 0  # no crop: all of the image
    others = [row("a.jpg", 0, 0, target=target, role="target") for target in (2, 1)]
    report = camfast.report(write_run(tmp_path / "others", others), progress=False).parent
    assert [one[0] for one in parts(report, "details")[0][1][0][3]] == [2, 1]
    unknown = write_run(tmp_path / "unknown", [row("a.jpg", 0, 0, None, label_name="dahlia")])
    assert parts(camfast.report(unknown, progress=False).parent, "images")[0][0]["label"] == [-1]


def test_photographs_that_are_gone_leave_their_heat(run, tmp_path):
    shutil.rmtree(tmp_path / "photos")
    report = camfast.report(run, progress=False).parent
    assert not list((report / "pictures").iterdir())
    assert len(parts(report, "details")[0][1]) == 6


# Boxes


def test_the_share_of_heat_inside_boxes_is_that_of_the_picture():
    """Against the map drawn large, pixel by pixel."""
    import torch

    from camfast.reports.boxes import covered, heat_inside

    generator = np.random.default_rng(0)
    for size in [(7, 7), (1, 5), (4, 1), (1, 1)]:
        heat = generator.random(size).astype(np.float32)
        crop = np.array([10, 20, 90, 60], np.float32)
        boxes = [(0.0, 0.0, 50.0, 40.0), (30.0, 30.0, 70.0, 55.0), (35.0, 35.0, 40.0, 36.0), (200.0, 0.0, 300.0, 9.0)]
        drawn = torch.nn.functional.interpolate(torch.from_numpy(heat)[None, None], (400, 800), mode="bilinear")[
            0, 0
        ].numpy()
        mask = np.zeros((400, 800), bool)
        for left, top, right, bottom in boxes:
            left, top, right, bottom = (
                round(10 * max(edge, 0)) for edge in (left - 10, top - 20, right - 10, bottom - 20)
            )
            mask[top:bottom, left:right] = True
        assert heat_inside(heat, crop, boxes) == pytest.approx((drawn * mask).sum() / drawn.sum(), abs=2e-3)
        assert covered(crop, boxes) == pytest.approx(mask.mean(), abs=1e-6)
    assert math.isnan(heat_inside(np.zeros((3, 3)), crop, boxes))
    assert heat_inside(np.ones((3, 3)), crop, [(0.0, 0.0, 500.0, 500.0)]) == 1


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_boxes_from_a_table(run, tmp_path, kind):
    table = tmp_path / f"photos/boxes.{kind}"
    lines = [("0.png", 16, 0, 80, 32), (str(tmp_path / "photos/1.png"), 0, 0, 20, 20)]
    columns = ["path", "left", "top", "right", "bottom"]
    if kind == "csv":
        with open(table, "w", newline="") as text:
            csv.writer(text).writerows([columns, *lines])
    elif kind == "json":
        table.write_text(json.dumps([dict(zip(columns, line, strict=True)) for line in lines]))
    else:
        pq.write_table(pa.table({name: [line[n] for line in lines] for n, name in enumerate(columns)}), table)
    report = camfast.report(run, boxes=table, progress=False).parent
    (images,) = parts(report, "images")[0]
    assert images["inside"][0] == pytest.approx(0.5, abs=1e-3) and 0 < images["inside"][1] < 0.3
    assert images["inside"][2:] == [None] * 4
    _, details, _ = parts(report, "details")[0]
    assert details[0][5:7] == [[[16.0, 0.0, 80.0, 32.0]], 0.5]
    assert "of the heat inside the boxes, mean of 2" in (report / "index.html").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "expected a list of objects with the keys path, left, top, right, bottom"),
        ('[{"path": "a.png", "left": 1}]', "expected the columns path, left, top, right, bottom"),
        ('[{"path": "a.png", "left": 5, "top": 2, "right": 3, "bottom": 9}]', "got 5, 2, 3, 9 in row 1"),
        ("[{", "expected JSON in"),
        ("path,left,top\na.png,1,2\n", "expected the columns path, left, top, right, bottom"),
        ("path,left,top,right,bottom\na.png,5,2,3,9\n", "left < right and top < bottom, got 5, 2, 3, 9 in line 2"),
        ("path,left,top,right,bottom\na.png,x,2,3,9\n", "got x, 2, 3, 9 in line 2"),
        ("path,left,top,right,bottom\nother.png,1,2,3,9\n", "its first path is 'other.png'"),
    ],
)
def test_boxes_that_cannot_be_used(run, tmp_path, text, message):
    table = tmp_path / ("boxes.json" if text.startswith("[") else "boxes.csv")
    table.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        camfast.report(run, boxes=table, progress=False)
    assert not (run / "report").exists()


# The folder


def test_a_report_takes_the_place_of_an_earlier_one_and_of_nothing_else(run, tmp_path):
    place = tmp_path / "here"
    place.mkdir()
    camfast.report(run, place, progress=False)
    (place / "old").write_text("of the earlier report")
    camfast.report(run, place, progress=False)
    assert not (place / "old").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "index.html").write_text("my page")
    with pytest.raises(ValueError, match="expected a new folder, an empty one or an earlier report"):
        camfast.report(run, mine, progress=False)
    assert files(mine) == {"index.html": b"my page"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_report_that_fails_leaves_the_earlier_one(run, monkeypatch):
    place = camfast.report(run, progress=False).parent
    before = files(place)
    monkeypatch.setattr("camfast.reports.data.write_csv", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        camfast.report(run, progress=False)
    assert files(place) == before and not [path for path in run.iterdir() if path.name.endswith((".part", ".before"))]


@pytest.mark.parametrize("what", ["nothing", "no shards", "damaged", "columns"])
def test_folders_that_hold_no_run(tmp_path, what):
    run = tmp_path / "run"
    (run / "shards").mkdir(parents=True)
    if what != "nothing":
        (run / "run.json").write_text("{}")
    shard = run / "shards/part-0000-000000.parquet"
    if what == "damaged":
        shard.write_bytes(b"no parquet at all")
    if what == "columns":
        pq.write_table(pa.table({"path": ["a"]}), shard)
    said = {
        "nothing": "holds no run.json",
        "no shards": "without shards",
        "damaged": "which cannot be read",
        "columns": "without index, label",
    }[what]
    with pytest.raises(ValueError, match=said):
        camfast.report(run, progress=False)


# The command


def test_the_command(run, tmp_path, capsys):
    assert (
        command_line(["report", str(run), "-o", str(tmp_path / "r"), "--pictures", "1", "--title", "Cats & cups"]) == 0
    )
    assert capsys.readouterr().out == f"{tmp_path / 'r/index.html'}\n"
    assert "Cats &amp; cups" in (tmp_path / "r/index.html").read_text()
    assert command_line(["report", str(tmp_path)]) == 2
    assert "holds no run.json" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command_line(["report", str(run), "--pictures", "-1"])
