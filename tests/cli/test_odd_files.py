"""Files that misbehave: links in a circle, pipes, names that no terminal shows, label files of all sorts, a full disk."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from interpreter import run_python
from PIL import Image

from camfast import zoo
from camfast.cli.main import main
from camfast.cli.names import file_stems, mirrored
from camfast.cli.tables import aligned, printable
from camfast.errors import why_no_file
from camfast.model import checkpoints
from camfast.pictures import photos

pytest.importorskip("efficientnet_lite_pytorch")


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def circle(tmp_path):
    path = tmp_path / "circle.jpg"
    path.symlink_to("circle.jpg")
    return path


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    return tmp_path / "pipe.jpg"


def test_links_in_a_circle_and_endless_names_spare_the_others(tmp_path, circle, capsys):
    good, endless = picture(tmp_path / "in" / "good.png"), f"{'n' * 300}.jpg"
    arguments = ["image", str(circle), endless, str(good), "-o", str(tmp_path / "out")]
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert "circle.jpg: too many levels" in err and "file name too long" in err and "good.png" in out
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["good.jpg"]
    found, errors = photos.find([tmp_path])  # a folder's pipes and circles are no photographs
    assert found == [good, tmp_path / "out" / "good.jpg"] and not errors


def test_no_pipe_is_waited_for(pipe, tmp_path):
    for read, error in [
        (photos.read, photos.PhotoError),
        (checkpoints.read, ValueError),
        (zoo.labels_from, ValueError),
    ]:
        with pytest.raises(error, match="it is a pipe"):
            read(pipe)
    assert photos.find([tmp_path])[0] == []


def test_why_no_file(tmp_path, circle, pipe):
    (tmp_path / "file").write_text("")
    assert why_no_file(tmp_path / "file") == ""
    assert why_no_file(tmp_path / "gone") == "there is no such file"
    assert why_no_file(tmp_path) == "it is a folder"
    assert why_no_file("a\0b") == "embedded null byte"
    assert "symbolic links" in why_no_file(circle) and "pipe" in why_no_file(pipe)


def test_a_photograph_starts_no_other_program(tmp_path, monkeypatch):
    """An EPS is read by Ghostscript, whatever its name ends with."""
    picture(tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a program was started"))
    monkeypatch.setattr(subprocess, "check_call", lambda *a, **k: pytest.fail("a program was started"))
    with pytest.raises(photos.PhotoError, match="no image of a known format"):
        photos.read(tmp_path / "a.jpg")
    assert {"JPEG", "PNG", "TIFF", "WEBP"} <= set(photos.formats()) and "EPS" not in photos.formats()


def test_a_picture_of_the_browser_starts_no_other_program(tmp_path):
    pytest.importorskip("av")
    from camfast.video.live.guest import decoded

    with pytest.raises(ValueError, match="expected a picture such as a JPEG"):
        decoded(picture(tmp_path / "a.eps").read_bytes())


# Label files


@pytest.mark.parametrize("text", ["cat\ndog\n", "\ufeffcat\r\ndog\r\n\r\n"])
def test_labels_with_a_mark_before_them(tmp_path, text):
    (tmp_path / "names.txt").write_text(text, encoding="utf-8", newline="")
    assert zoo.labels_from(tmp_path / "names.txt") == ["cat", "dog"]
    (tmp_path / "names.json").write_text('\ufeff{"0": "cat", "1": ["n02", "dog"]}', encoding="utf-8")
    assert zoo.labels_from(tmp_path / "names.json") == ["cat", "dog"]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, '"cat"', "7", "null", "[[]]", '{"1": "a"}', "[nan"])
def test_labels_that_are_no_list(tmp_path, text):
    (tmp_path / "names.json").write_text(text)
    with pytest.raises(ValueError, match="expected a list or an object 0, 1, 2, ... of class names"):
        zoo.labels_from(tmp_path / "names.json")


def test_labels_in_another_encoding(tmp_path):
    (tmp_path / "names.txt").write_bytes("cat\ndog".encode("utf-16"))
    with pytest.raises(ValueError, match="it is no text in UTF-8"):
        zoo.labels_from(tmp_path / "names.txt")


# Weights and devices


@pytest.mark.parametrize("content", [b"epoch 1\n", b"PK\3\4" + bytes(200), b"e", b"\x89PNG\r\n"])
def test_files_that_are_no_weights(tmp_path, content):
    (tmp_path / "text.pth").write_bytes(content)
    with pytest.raises(ValueError, match="no file of torch.save, or a damaged one|it is no checkpoint") as caught:
        checkpoints.read(tmp_path / "text.pth")
    assert "save model.state_dict()" in str(caught.value) or "more than tensors" in str(caught.value)


def test_weights_of_an_empty_file(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"")
    with pytest.raises(ValueError, match="the file is empty"):
        checkpoints.read(tmp_path / "w.pth")


def test_a_device_without_values(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["image", str(picture(tmp_path / "a.png")), "--device", "meta"])
    assert "expected a device that torch can use, got 'meta'" in capsys.readouterr().err


# Names


def test_names_of_colliding_photographs_are_short(tmp_path):
    twins = [picture(tmp_path / "deep" / "in" / name) for name in ("cat.jpg", "cat.png", "CAT.JPG")]
    others = [picture(tmp_path / folder / "cat.jpg") for folder in ("a", "b")]
    assert file_stems(twins) == ["cat-jpg", "cat-png", "CAT-jpg-2"]
    assert file_stems(others) == ["a-cat", "b-cat"]
    assert [str(name) for name in mirrored(twins, [])] == ["cat-jpg", "cat-png", "CAT-jpg-2"]
    names = [str(name) for name in mirrored([*twins, *others], [])]
    assert len(set(map(str.casefold, names))) == 5 and all(len(name) < len("deep-in-cat-jpg-2") + 1 for name in names)
    assert not any(tmp_path.name in name for name in names)


def test_what_steers_a_terminal_is_written_out():
    assert printable("a\nb\x1b[31m \udce9 caf\u00e9") == "a\\nb\\x1b[31m \\udce9 caf\u00e9"
    assert aligned(["photo"], [["a\nb"]]).splitlines() == ["photo", "-----", "a\\nb"]


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no UTF-8 are Linux's")
def test_names_that_a_terminal_cannot_show(tmp_path):
    """On an ASCII terminal the table and its files are there all the same, and links of the page lead to the pictures."""
    folder = tmp_path / "in"
    for name in ("caf\u00e9.png", os.fsdecode(b"caf\xe9.png"), "\u65e5\u672c.png", "a\nb.png"):
        picture(folder / name)
    out = tmp_path / "out"
    tables = [f"--{kind}={out / f't.{kind}'}" for kind in ("csv", "json", "html")]
    process = run_python(
        *("-m", "camfast", "image", folder, "-o", out, *tables), env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert process.returncode == 0, process.stderr
    assert "caf\\xe9.png" in process.stdout and "\\u65e5\\u672c.png" in process.stdout and "a\\nb.png" in process.stdout
    rows = list(csv.DictReader((out / "t.csv").open(encoding="utf-8", newline="")))
    assert len(rows) == 4
    listed = json.loads((out / "t.json").read_text(encoding="utf-8"))["photographs"]
    assert all(Path(photo["classes"][0]["picture"]).is_file() for photo in listed)
    page = (out / "t.html").read_text(encoding="utf-8")
    assert 'src="caf%E9.jpg"' in page and 'src="caf%C3%A9.jpg"' in page and 'src="a%0Ab.jpg"' in page


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no UTF-8 are Linux's")
def test_names_in_the_c_locale(tmp_path):
    picture(tmp_path / "in" / "caf\u00e9.png")
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    plain.pop("PYTHONIOENCODING", None)
    process = run_python("-m", "camfast", "image", tmp_path / "in", "-o", tmp_path / "out", env=plain)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "out" / "caf\u00e9.jpg").is_file() and "caf\\udcc3\\udca9.png" in process.stdout


def test_a_device_of_no_use_is_said_with_the_others(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["image", str(picture(tmp_path / "a.png")), "--device", f"cuda:{torch.cuda.device_count() + 7}"])
    assert "expected a device that torch can use" in capsys.readouterr().err
