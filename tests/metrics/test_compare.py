"""Methods compared: every number is its metric's own, whole or in parts; table, chart and maps."""

from __future__ import annotations

import csv
import io

import models
import numpy as np
import pytest
import torch

import camfast
from camfast import metrics


@pytest.fixture(scope="module")
def case():
    images = models.images(10, size=(24, 20))
    return models.calibrated(models.SmallNet(), images), images


@pytest.fixture(scope="module")
def found(case):
    return camfast.compare(case[0], ["grad_cam", camfast.EigenCAM], case[1], list(metrics.METRICS), boxes=boxes(10))


def boxes(count):
    return [[[2.0, 3.0, 12.0, 15.0]] for _ in range(count)]


def test_values_are_the_metrics_own(case, found):
    model, images = case
    assert list(found.values) == ["grad_cam", "eigen_cam"] and list(found.values["grad_cam"]) == list(metrics.METRICS)
    result = camfast.EigenCAM(model)(images)
    explainer = camfast.EigenCAM(model)
    expected = {
        "insertion": metrics.insertion(model, images, result).area,
        "deletion": metrics.deletion(model, images, result).area,
        "average_drop": metrics.average_drop(model, images, result),
        "average_increase": metrics.average_increase(model, images, result),
        "average_gain": metrics.average_gain(model, images, result),
        "adcc": metrics.adcc(explainer, images, result).value,
        "coherency": metrics.coherency(explainer, images, result),
        "complexity": metrics.complexity(result),
        "pointing_game": metrics.pointing_game(result, boxes=boxes(10)),
        "energy_inside": metrics.energy_inside(result, boxes=boxes(10)),
        "iou": metrics.iou(result, boxes=boxes(10)),
        "max_box_acc": metrics.max_box_acc(result, boxes(10)).found,
    }
    for name, values in expected.items():
        torch.testing.assert_close(found.values["eigen_cam"][name], values, rtol=0, atol=1e-5, msg=name)
    first = metrics.road(model, images[:8], result[:8]).combined  # noise is drawn for the images measured together
    torch.testing.assert_close(found.values["eigen_cam"]["road"][:8], first, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.results["eigen_cam"].heatmap, result.heatmap)


def test_max_box_acc_is_of_all_images_together(case):
    model, images = case
    own = [[[float(n), n, n + 12, n + 9]] for n in range(10)]  # over the batches that are measured at a time
    two = torch.tensor([[0, 1]] * 10)
    told = camfast.compare(model, ["grad_cam"], images, ["max_box_acc"], two, boxes=own)
    values = told.values["grad_cam"]["max_box_acc"]
    maps = told.results["grad_cam"].heatmap
    both = metrics.max_box_acc(maps.flatten(0, 1), [each for each in own for _ in range(2)])
    assert values.shape == (10, 2) and both.value > 0
    torch.testing.assert_close(values, both.found.view(10, 2))
    assert told.table.rows[0]["max_box_acc"] == pytest.approx(both.value)
    with pytest.raises(ValueError, match="max_box_acc needs boxes=, got masks"):
        camfast.compare(model, ["grad_cam"], images, ["max_box_acc"], masks=torch.ones(10, *images.shape[2:]) > 0)


def test_the_table_is_of_the_values(found):
    table = found.table
    for method, row in zip(table.methods, table.rows, strict=True):
        for name in table.metrics:
            values = found.values[method][name].double()
            values = values[values.isfinite()]
            assert row[name] == pytest.approx(float(values.mean())) and row[f"{name}_count"] == len(values)
            assert row[f"{name}_error"] == pytest.approx(float(values.std()) / len(values) ** 0.5)
        assert row["milliseconds"] > 0
    best = {name: table.best(i) for i, name in enumerate(table.metrics)}
    assert best["insertion"] == max(row["insertion"] for row in table.rows)
    assert best["deletion"] == min(row["deletion"] for row in table.rows)


def test_table_as_text_csv_markdown_and_html(found, tmp_path):
    text = str(found.table)
    assert text.splitlines()[0].startswith("method") and "insertion ^" in text and "deletion v" in text and " *" in text
    rows = list(csv.DictReader(io.StringIO(found.table.to_csv(tmp_path / "t.csv"))))
    assert (tmp_path / "t.csv").read_text() == found.table.to_csv()
    assert [row["method"] for row in rows] == ["grad_cam", "eigen_cam"]
    assert float(rows[1]["road"]) == found.table.rows[1]["road"]
    assert found.table.to_markdown().count("\n") == 3 and "**" in found.table.to_markdown()
    assert "<b>" in found.table._repr_html_()


def test_figure_and_notebook(found, tmp_path):
    pytest.importorskip("PIL")
    picture = np.asarray(found.figure(images=2))
    assert picture.ndim == 3 and picture.shape[1] == 1600 and picture.std() > 20
    more = np.asarray(found.figure(images=3))
    assert more.shape[0] > picture.shape[0]
    assert found.save(tmp_path / "c.png").stat().st_size > 10_000
    assert "<table>" in found._repr_html_() and "base64" in found._repr_html_()
    assert found._repr_png_().startswith(b"\x89PNG") and repr(found) == str(found.table)


def test_targets_one_each_and_several(case):
    model, images = case
    categories = [n % 5 for n in range(10)]
    found = camfast.compare(model, ["grad_cam"], images, ["deletion"], categories, batch_size=3)
    result = camfast.grad_cam(model, images, categories)
    expected = metrics.deletion(model, images, result).area
    torch.testing.assert_close(found.values["grad_cam"]["deletion"], expected, rtol=0, atol=1e-5)
    several = camfast.compare(model, ["grad_cam"], images, ["complexity"], camfast.TopK(2))
    assert several.values["grad_cam"]["complexity"].shape == (10, 2) and several.table.cells[0][0].count == 20
    assert np.asarray(several.figure()).shape[1] == 1600


def test_own_metrics_and_options(case):
    model, images = case
    hottest = metrics.Metric("hottest", "higher", lambda measured: measured.result.heatmap.amax((1, 2)))
    found = camfast.compare(
        model, ["random_cam"], images, [hottest], options={"random_cam": {"seed": 3}}, layers="body"
    )
    assert found.table.metrics == ["hottest"]
    expected = camfast.RandomCAM(model, "body", seed=3)(images[:8]).heatmap
    torch.testing.assert_close(found.results["random_cam"].heatmap[:8], expected)
    torch.testing.assert_close(found.values["random_cam"]["hottest"][:8], expected.amax((1, 2)))


def test_methods_that_do_not_fit_are_told(case):
    model, images = case
    found = camfast.compare(model, ["legrad", "grad_cam"], images, ["complexity"])
    assert found.table.methods == ["grad_cam"] and "legrad" in found.skipped and found.skipped["legrad"]
    with pytest.raises(ValueError, match="expected a method that can explain the model, got none"):
        camfast.compare(model, ["legrad"], images)


def test_the_model_is_left_as_it_was(case):
    model, images = case
    before = models.bystander_state(model)
    camfast.compare(model, ["grad_cam", "eigen_cam"], images[:2], ["adcc", "randomisation", "road"])
    after = models.bystander_state(model)
    for key in ("hooks", "training", "requires_grad", "identity", "attributes"):
        assert before[key] == after[key], key
    assert all(torch.equal(value, after["tensors"][key]) for key, value in before["tensors"].items())


def test_wrong_arguments_are_said(case):
    model, images = case
    for arguments, error, message in (
        ((["grad_can"], images), ValueError, "no method is called 'grad_can'; close to it: 'grad_cam'"),
        ((["grad_cam"], images, ["rod"]), ValueError, "no metric is called 'rod'; close to it: 'road'"),
        ((["grad_cam"], images, ["iou"]), ValueError, "iou needs masks= or boxes=, got neither"),
        ((["grad_cam"], images[0]), ValueError, r"compare needs images \[N, C, H, W\], got \[3, 24, 20\]"),
        (([], images), ValueError, "at least one method"),
        ((["grad_cam"], images, []), ValueError, "at least one metric"),
        (([print], images), TypeError, "methods must be names or classes of methods"),
        ((["grad_cam"], images, ["road"], [1, 2]), ValueError, "expected one target an image, 10, got 2"),
    ):
        with pytest.raises(error, match=message):
            camfast.compare(model, *arguments)
