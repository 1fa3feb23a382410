"""Streams that a detector explains: boxes, names and heat in every frame, in clips and on the page."""

from __future__ import annotations

import asyncio
import csv

import numpy as np
import pytest
import real_networks
import torch

pytest.importorskip("av")
pytest.importorskip("aiohttp")

from clips import make, probe
from live_server import Served, receive, threads_left
from squares import LIGHT, RED, Listed, Squares, scene

import camfast
from camfast.cli.main import main
from camfast.video import explain_video
from camfast.video.live import Hub, Source

NAMES = Squares.names
BOTH = scene((LIGHT, 2, 3), (RED, 5, 9))


@pytest.fixture
def engine():
    return camfast.Realtime(Squares().eval(), detect=True, input_size=96)


@pytest.fixture(autouse=True)
def nothing_left_behind():
    yield
    assert threads_left() == []


# One frame


def test_each_box_is_found_named_and_drawn(engine):
    result = engine(BOTH)
    assert [name for name, _ in result.labels()] == ["light", "red"]
    assert all(score > 0.5 for _, score in result.labels()) and result.ranking() == result.labels()
    assert result.found.labels.tolist() == result.targets.tolist() == [LIGHT, RED]
    torch.testing.assert_close(result.found.boxes, torch.tensor([[23.0, 15, 33, 25], [71, 39, 81, 49]]))
    assert result.box == (0, 0, 96, 64) and engine.layers_in_use in (["trunk"], ["head"])
    rows, columns = result.heatmap.shape
    peaks = {divmod(int(i), columns) for i in result.heatmap.flatten().topk(2).indices}
    assert {(round((r + 0.5) / rows * 8 - 0.5), round((c + 0.5) / columns * 12 - 0.5)) for r, c in peaks} == {
        (2, 3),
        (5, 9),
    }
    assert "'light' 0." in repr(result) and "'red' 0." in repr(result)


def test_what_is_away_from_the_boxes_stays_as_it_is(engine):
    picture = engine(BOTH).overlay().numpy()
    changed = (picture != BOTH).any(-1)
    assert changed[15:25, 23:33].mean() > 0.5 and changed[39:49, 71:81].mean() > 0.3
    rows, columns = np.mgrid[:64, :96]
    far = (columns < 15) | (rows > 56)
    assert not changed[far].any()
    again = engine(BOTH).overlay(BOTH, colormap="viridis", alpha=1.0).numpy()
    assert (again != picture).any() and not (again != BOTH).any(-1)[far].any()


def test_a_frame_without_a_box_stays_as_it_is(engine):
    for _ in range(2):
        result = engine(scene())
        assert torch.equal(result.overlay(), torch.from_numpy(scene()))
        assert result.labels() == result.ranking() == [] and "nothing found" in repr(result)
        assert result.found.boxes.shape == (0, 4) and not result.heatmap.any()
        engine(BOTH)


def test_which_boxes_are_kept(engine):
    engine.targets = "red"
    assert [name for name, _ in engine(BOTH).labels()] == ["red"]
    engine.targets = ["red", LIGHT]
    assert len(engine(BOTH).labels()) == 2
    engine.min_score = 0.99
    assert engine(BOTH).labels() == []
    one = camfast.Realtime(Squares().eval(), detect=True, input_size=96, top=1, targets=[LIGHT, RED])
    assert [name for name, _ in one(BOTH).labels()] == ["light"]


@pytest.mark.parametrize(
    ("targets", "got"), [(camfast.TopK(2), "TopK"), (lambda scores: scores.sum(), "lambda"), ("blue", "blue")]
)
def test_targets_are_classes(engine, targets, got):
    with pytest.raises(ValueError, match=got):
        engine.targets = targets


def test_settings_are_checked(engine):
    with pytest.raises(ValueError, match="min_score must be between 0 and 1, got 2"):
        engine.min_score = 2
    with pytest.raises(ValueError, match=r"an int, the longer side, got \(64, 96\)"):
        camfast.Realtime(Squares(), detect=True, input_size=(64, 96))
    assert engine.method == "layer_cam"
    engine.method, engine.layers = "grad_cam", "trunk.0"
    assert len(engine(BOTH).labels()) == 2 and engine.layers_in_use == ["trunk.0"]
    with pytest.raises(ValueError, match="must be one of 'grad_cam'"):
        engine.attempt(BOTH, "eigen_cam")


# Several frames


def test_consecutive_frames(engine):
    frames = np.stack([BOTH, scene(), scene((RED, 1, 1))])
    together = engine(frames)
    assert [len(one.labels) for one in together.found] == [2, 0, 1] and together.overlay().shape == (3, 64, 96, 3)
    assert together.labels() == [("red", pytest.approx(together.found[2].scores.item()))]
    alone = camfast.Realtime(Squares().eval(), detect=True, input_size=96)
    for frame, picture in zip(frames, together.overlay(), strict=True):
        assert torch.equal(alone(frame).overlay(), picture)
    assert torch.equal(together.overlay(frames), together.overlay())


def test_frames_between(engine):
    engine.every = 2
    first, second, third = engine(BOTH), engine(scene()), engine(scene())
    assert [r.explained for r in (first, second, third)] == [True, False, True]
    assert second.labels() == first.labels() and third.labels() == []


def test_boxes_do_not_flicker(engine):
    """A box that was there stays while its score is a little too low; a new one does not come in so."""
    red, light = engine(BOTH).found.scores.flip(0).tolist()
    assert red < light - 0.02
    engine.min_score, engine.sticky = red + 0.01, 0.05
    names = lambda frame: [name for name, _ in engine(frame).labels()]  # noqa: E731
    assert names(BOTH) == ["light", "red"]  # it was there at the lower least score
    assert names(scene()) == [] and names(BOTH) == ["light"]
    engine.min_score = red - 0.01
    assert names(BOTH) == ["light", "red"]
    engine.min_score = red + 0.01
    assert [[NAMES[n] for n in one.labels.tolist()] for one in engine(np.stack([BOTH, scene(), BOTH])).found] == [
        ["light", "red"],
        [],
        ["light"],
    ]


def test_smoothed_heat_fades_where_a_box_is_gone(engine):
    engine.smooth = 0.5
    engine(BOTH)
    heat = [engine(scene((LIGHT, 2, 3))).heatmap for _ in range(3)]
    gone = [float(one[one.shape[0] // 2 :].max()) for one in heat]
    assert 0.4 < gone[0] < 0.6 and gone[1] == pytest.approx(gone[0] / 2) and gone[2] == pytest.approx(gone[0] / 4)
    assert float(heat[2][: heat[2].shape[0] // 2].max()) > 0.9


def test_a_detector_that_takes_lists():
    engine = camfast.Realtime(Listed().eval(), detect=True, class_names=Squares.names)
    result = engine(BOTH)
    assert [name for name, _ in result.labels()] == ["light", "red"]
    torch.testing.assert_close(result.found.boxes, torch.tensor([[23.0, 15, 33, 25], [71, 39, 81, 49]]))
    engine.threads = "auto"
    assert len(engine(np.stack([BOTH, BOTH])).found) == 2 and engine.threads >= 1


# Clips


@pytest.fixture
def clip(tmp_path):
    frames = [scene((LIGHT, 2, 1 + i), (RED, 5, 9)) for i in range(6)] + [scene()] * 2
    return make(tmp_path / "clip.mp4", frames)


@pytest.fixture
def weights(tmp_path):
    torch.save(Squares(), tmp_path / "squares.pt")
    return str(tmp_path / "squares.pt")


def test_a_clip_in_python(engine, clip, tmp_path):
    report = explain_video(clip, tmp_path / "out.mp4", engine)
    assert report.frames == 8 and [row.classes for row in report.rows] == [[LIGHT, RED]] * 6 + [[]] * 2
    assert (
        set(report.rows[0].explained) == {LIGHT, RED}
        and report.rows[0].score(RED) > 0.5
        and report.rows[7].score(RED) == 0
    )
    shown = probe(tmp_path / "out.mp4")
    assert len(shown["times"]) == 8 and shown["size"] == {(64, 96)}
    for layout, width in (("side-by-side", 192), ("heatmap", 96)):
        explain_video(clip, tmp_path / "out.mp4", engine, layout=layout, end=0.2)
        assert probe(tmp_path / "out.mp4")["size"] == {(64, width)}


def test_a_clip_from_the_shell(clip, weights, tmp_path, capsys):
    out = tmp_path / "out.mp4"
    command = ["video", str(clip), "-o", str(out), "--model", weights, "--size", "96", "--threads", "1"]
    assert main([*command, "--detect", "--trust", "--classes", "red", "--min-score", "0.3"]) == 0
    assert "8 frames" in (told := capsys.readouterr().out) and "layer_cam of" in told and " at " in told
    with open(out.with_suffix(".csv"), encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["explained"]) for row in rows] == [("red", "1")] * 6
    assert out.with_suffix(".png").stat().st_size > 5000
    assert main([*command, "--detect"]) == 2 and "--trust" in capsys.readouterr().err
    assert main([*command, "--detect", "--trust", "--target", "red"]) == 2
    assert "expected --classes with a detector" in capsys.readouterr().err
    assert main(["video", str(clip), "-o", str(out), "--classes", "red"]) == 2
    assert "expected a detector for --classes, got efficientnet-lite0" in capsys.readouterr().err


# The page


def test_the_page_offers_what_a_detector_has(engine, clip):
    hub = Hub(Source(str(clip), loop=True), engine, engine.layer_names())

    async def watch():
        async with Served(hub) as served, served.look() as socket:
            choices = await receive(socket, "choices")
            assert choices["detects"] and choices["settings"]["min_score"] == 0.25
            assert choices["classes"] == ["light", "red", "green"]
            while len((facts := await receive(socket, "frame"))["explained"]) < 2:
                pass
            assert [name for name, _ in facts["scores"]] == ["light", "red"]
            await socket.send_json({"min_score": 0.99})
            while (facts := await receive(socket, "frame"))["explained"]:
                pass
            assert facts["doubt"] == "No box of these classes with this score or more."
            await socket.send_json({"min_score": 0.25, "targets": ["red", "green"]})
            while not (facts := await receive(socket, "frame"))["explained"]:
                pass
            assert {name for name, _ in facts["explained"]} == {"red"} and not facts["doubt"]
            await socket.send_json({"min_score": 7})
            problem = await receive(socket, "problem")
            while not problem["problem"]:
                problem = await receive(socket, "problem")
            assert problem["control"] == "min_score" and "between 0 and 1" in problem["problem"]

    asyncio.run(watch())
    assert engine.targets == (RED, 2)


def test_several_boxes_of_a_class_are_counted(engine):
    from camfast.video.live.shown import counted

    result = engine(scene((LIGHT, 2, 3), (LIGHT, 5, 9), (RED, 6, 1)))
    (light, score), red = counted(result)
    assert light == "light \u00d7 2" and score == result.labels()[0][1] and red[0] == "red"


def test_a_classifier_has_no_least_score(clip):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 8, 8), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    hub = Hub(Source(str(clip)), camfast.Realtime(model.eval(), input_size=64))
    assert not hub.choices()["detects"] and "min_score" not in hub.standing()
    with pytest.raises(ValueError, match="got 'min_score'"):
        hub.set({"min_score": 0.5})


@pytest.mark.real
def test_yolo(tmp_path, monkeypatch):
    """The bus and the people of a street, on the photograph's own pixels."""
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))  # its library writes settings where it is imported
    model, photo = real_networks.yolo26()
    engine = camfast.Realtime(model, detect=True, input_size=320, min_score=0.5)
    result = engine(photo)
    names = [name for name, _ in result.labels()]
    assert names.count("bus") == 1 and names.count("person") >= 3
    bus = result.found.boxes[names.index("bus")]
    assert bus[0] < 60 and 700 < bus[2] <= 830 and 200 < bus[1] < 260 and 700 < bus[3] < 780  # of 810 x 1080
    engine.targets = "bus"
    result = engine(photo)
    heat = result.heatmap
    row, column = divmod(int(heat.argmax()), heat.shape[1])
    x, y = (column + 0.5) / heat.shape[1] * 810, (row + 0.5) / heat.shape[0] * 1080
    assert bus[0] < x < bus[2] and bus[1] < y < bus[3] and result.overlay().shape == photo.shape
