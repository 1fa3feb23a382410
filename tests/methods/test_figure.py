"""One labelled figure of an explanation: what is drawn where, what is written below, and what the colours mean."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from models import SmallNet, images

import camfast
from camfast import targets as T
from camfast.methods import figure
from camfast.pictures import figures

NAMES = ["zero", "one", "two", "three", "four"]


@pytest.fixture(scope="module")
def explainer():
    torch.manual_seed(0)
    return camfast.GradCAM(SmallNet().eval(), "body", class_names=NAMES)


@pytest.fixture
def drawn(monkeypatch):
    """What the figures were composed of."""
    calls = []
    compose = figures.compose

    def seen(rows, title, subtitle, width, unit, foot):
        calls.append((rows, title, subtitle))
        return compose(rows, title, subtitle, width, unit, foot)

    monkeypatch.setattr(figures, "compose", seen)
    return calls


def test_rows_are_images_and_columns_targets(explainer, drawn):
    result = explainer(images(3), camfast.TopK(2))
    page = result.figure()
    ((rows, title, subtitle),) = drawn
    assert title == "GradCAM at body" and subtitle == "percentages: softmax of the scores"
    assert [len(row) for row in rows] == [3, 3, 3] and page.width > 3 * 320
    probabilities = result.scores.softmax(1)
    for i, (image, *heats) in enumerate(rows):
        best = int(result.scores[i].argmax())
        assert (image.caption, image.note) == (f"image {i}", f"best: {NAMES[best]} {probabilities[i, best]:.1%}")
        for k, panel in enumerate(heats):
            number = int(result.targets[i, k])
            assert (panel.caption, panel.note) == (NAMES[number], f"{probabilities[i, number]:.1%}")
            frames = torch.from_numpy(image.picture)[None]
            assert np.array_equal(panel.picture, camfast.ops.overlay(frames, result.heatmap[i, k : k + 1])[0])
    first = np.asarray(result[0].overlay(alpha=0)[0, 0])
    assert np.array_equal(rows[0][0].picture[::16, ::16], first)  # enlarged by a whole factor, 16 or more


@pytest.mark.parametrize(("count", "shape"), [(1, [2]), (2, [2, 2]), (3, [4, 2]), (6, [4, 4, 4]), (9, [6, 6, 6])])
def test_one_target_an_image_makes_pairs(explainer, drawn, count, shape):
    explainer(images(count)).figure()
    rows = drawn[0][0]
    assert [len(row) for row in rows] == shape
    assert [panel.caption for row in rows for panel in row[::2]] == [f"image {i}" for i in range(count)]


def test_what_the_colours_mean_is_said(explainer):
    x = images(3)
    for options, ends, words in [
        ({}, ("least", "greatest"), "heat: each map by its own range"),
        ({"normalize": (0, 0.5)}, ("0", "0.5"), "heat in raw values, one scale for all maps"),
    ]:
        assert figure.colours_of(explainer(x, **options))[1:] == (ends, words)
    assert "the map's least" in figure.colours_of(explainer(x[:1]))[2]
    shared, raw = explainer(x, 1, normalize="shared"), explainer(x, 1, normalize=False)
    low, high = shared.scale
    of_raw, ends, _ = figure.colours_of(raw)
    assert ends == (f"{low:.3g}", f"{high:.3g}") and torch.equal(of_raw.heatmap, shared.heatmap)
    assert raw.figure().tobytes() == shared.figure().tobytes() != explainer(x, 1).figure().tobytes()
    assert "from 0 to 0.5" in explainer(x, normalize=(0, 0.5))._repr_html_()


def test_the_bar_of_colours_is_drawn(explainer):
    page = np.asarray(explainer(images(1)).figure(colormap="gray", alpha=0.0))
    bottom = page[-60:]
    assert bottom.min() < 10 and any(np.all(np.diff(row[200:700, 0].astype(int)) >= 0) for row in bottom)


def test_scores(explainer, drawn):
    result = explainer(images(2), [[1, T.Contrast("one", 2)], [T.Probability(3), 4]])
    assert result.label(0, 0) == "one" and result.label(0, 1) == "Contrast(one, two)"
    assert result.label(1, 0) == "Probability(three)" and result.label(1, 1) == "four"
    p = result.scores.softmax(1)
    assert result.score(0, 0) == pytest.approx(p[0, 1].item()) and result.score(1, 1) == pytest.approx(p[1, 4].item())
    expected = T.Contrast(1, 2)(result.scores[0]).item()
    assert result.score(0, 1) == pytest.approx(expected)
    assert result.score(1, 0) == pytest.approx(p[1, 3].item())
    with pytest.raises(IndexError, match="got 2"):
        result.score(2, 0)
    certain = replace(explainer(images(2)), scores=p)
    assert certain.score(0) == pytest.approx(p[0, certain.targets[0]].item())  # no softmax of a softmax
    regression = camfast.grad_cam(SmallNet(classes=1).eval(), images(2), layers="body")
    assert regression.score(1) == pytest.approx(regression.scores[1, 0].item())
    assert figure.score_text(regression, 1) == f"{regression.score(1):.3g}"
    regression.figure()
    assert drawn[-1][0][0][0].note == "20 x 16 pixels"


def test_channels_sizes_titles_and_files(explainer, drawn, tmp_path):
    from PIL import Image

    torch.manual_seed(0)
    grey = camfast.grad_cam(SmallNet(channels=2).eval(), images(2, 2, (8, 8)), 1, "body")
    (path,) = grey.save(tmp_path / "grey.jpg")
    assert path == tmp_path / "grey.jpg" and min(Image.open(path).size) > 400
    shown = torch.randint(0, 256, (2, 700, 900, 3), dtype=torch.uint8)
    grey.figure(shown, title="Two of a kind")
    rows, title, subtitle = drawn[-1]
    assert title == "Two of a kind" and subtitle.startswith("GradCAM at body; ")
    assert np.array_equal(rows[1][0].picture, shown[1])


def test_too_much_for_one_figure(explainer):
    with pytest.raises(ValueError, match=r"at most 400 panels, got 100 images with 5 targets each; .*result\[:66\]"):
        explainer(images(1).expand(100, -1, -1, -1), "all").figure()


def test_bags_and_blank_maps(explainer):
    class Bag(SmallNet):
        def forward(self, x):
            return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(1)

    result = camfast.grad_cam(Bag().eval(), images(6).unflatten(0, (2, 3)), layers="body")
    assert result.maps_per_image == 3 and result.figure().width > 500
    x = images(2)
    x[0] = float("nan")
    assert explainer(x, 1).figure().height > 300
