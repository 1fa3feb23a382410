"""Clips whose end is missing, of every container, and disks that are full: what is said, and what is kept."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")

from clips import make

from camfast.cli.main import main
from camfast.video import summary
from camfast.video.decode import Clip, Picture

NOISE = list(np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), np.uint8))


def notes_of(path) -> tuple[int, list[str]]:
    with Clip(path) as clip:
        return sum(isinstance(item, Picture) for item in clip), clip.notes


@pytest.mark.parametrize("audio", [None, "aac"])
@pytest.mark.parametrize("kind", ["mkv", "webm", "flv", "avi", "mp4"])
def test_half_a_clip_says_so_and_a_whole_one_does_not(tmp_path, kind, audio):
    codec = "libvpx-vp9" if kind == "webm" else "libx264"
    if kind == "webm" and audio:
        audio = "libopus"
    options = {"movflags": "faststart"} if kind == "mp4" else {}
    whole = make(tmp_path / f"whole.{kind}", NOISE, codec, rate=20, audio=audio, options=options)
    assert notes_of(whole) == (40, [])
    data = whole.read_bytes()
    half = tmp_path / f"half.{kind}"
    half.write_bytes(data[: len(data) // 2])
    count, notes = notes_of(half)
    assert 5 < count < 35 and any("cut short" in note or "damaged" in note or "breaks off" in note for note in notes)


def test_a_part_of_half_a_clip_is_whole(tmp_path):
    data = make(tmp_path / "whole.mkv", NOISE, rate=20).read_bytes()
    (tmp_path / "half.mkv").write_bytes(data[: len(data) // 2])
    with Clip(tmp_path / "half.mkv", 0.0, 0.5) as clip:
        assert sum(isinstance(item, Picture) for item in clip) == 10 and clip.notes == []


@pytest.mark.parametrize("failing", ["write_table", "write_chart"])
def test_a_full_disk_does_not_hide_how_far_it_got(tmp_path, monkeypatch, capsys, failing):
    pytest.importorskip("efficientnet_lite_pytorch")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(summary, failing, full)
    clip: Path = make(tmp_path / "clip.mp4", NOISE[:3])
    assert main(["video", str(clip), "-o", str(tmp_path / "out.mp4"), "--threads", "1"]) == 1
    out, err = capsys.readouterr()
    assert "3 frames, 0.30 s of the clip" in out and str(tmp_path / "out.mp4") in out
    assert "the table and chart of the classes are not whole: No space left on device" in err
