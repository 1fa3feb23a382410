"""What ``camfast image`` writes: tables, a page, raw maps, pictures with a strip, heat in one range."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
import torch
from chromium import chromium
from PIL import Image
from test_cli import CAT, CUP, one_network, picture, run  # noqa: F401

import camfast
from camfast import ops, zoo
from camfast.cli.main import main
from camfast.pictures import photos
from camfast.pictures.explained import explained

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("one_network")]


@pytest.fixture
def folder(tmp_path):
    """Photographs in subfolders, one of them broken, one grey with transparency, one tiny."""
    rng = np.random.default_rng(0)
    (tmp_path / "in" / "sub").mkdir(parents=True)
    Image.open(CAT).save(tmp_path / "in" / "cat.png")
    Image.open(CUP).save(tmp_path / "in" / "sub" / "cup.jpg")
    Image.fromarray(rng.integers(0, 256, (60, 90, 2), np.uint8), "LA").save(tmp_path / "in" / "sub" / "grey.png")
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / "in" / "tiny.png")
    (tmp_path / "in" / "bad.jpg").write_text("no picture")
    return tmp_path / "in"


def test_tables_hold_every_photograph(folder, tmp_path, capsys):
    out = tmp_path / "out"
    code, rows, err = run(
        capsys, folder, tmp_path / "bare*", "-o", out, "--csv", tmp_path / "t" / "a.csv", "--json", tmp_path / "a.json"
    )
    assert code == 1 and len(rows) == 4 and "bad.jpg" in err
    with open(tmp_path / "t" / "a.csv", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    names = ["", "bad.jpg", "cat.png", "sub/cup.jpg", "sub/grey.png", "tiny.png"]
    assert [row["photo"] for row in table] == [str(folder / name) if name else "" for name in names]
    assert "no image" in table[1]["error"] or "unsupported kind" in table[1]["error"]  # as other packages patch Pillow
    assert not table[1]["picture"] and "bare*" in table[0]["error"]
    cup = table[3]
    assert (cup["class"], cup["number"], cup["rank"], cup["batch"]) == ("espresso", "967", "1", "1")
    assert float(cup["score"]) > 0.8 and float(cup["milliseconds"]) > 0
    assert cup["picture"] == str(out / "sub" / "cup.jpg") and picture(cup["picture"]).shape == (400, 600, 3)
    assert picture(out / "tiny.jpg").shape == (256, 256, 3)  # enlarged, so that the text can be read

    document = json.loads((tmp_path / "a.json").read_text())
    assert (document["method"], document["normalize"], document["layers"]) == ("grad_cam", "each", ["_swish#2"])
    assert document["seconds"] > 0 and [one.get("error") is None for one in document["photographs"]] == [
        not row["error"] for row in table
    ]
    (best,) = document["photographs"][3]["classes"]
    assert best["class"] == "espresso" and f"{best['score']:.6f}" == cup["score"]


def test_times_are_of_each_photograph_unless_they_share_a_pass(folder, tmp_path, capsys):
    assert main(["image", str(folder / "sub"), CAT, "-o", str(tmp_path / "a"), "--json", str(tmp_path / "a.json")]) == 0
    assert "ms per photograph, each timed by itself" in capsys.readouterr().out
    one = [entry["milliseconds"] for entry in json.loads((tmp_path / "a.json").read_text())["photographs"]]
    assert len(set(one)) == 3
    arguments = ["-o", str(tmp_path / "b"), "--json", str(tmp_path / "b.json"), "--batch-size", "2"]
    assert main(["image", str(folder / "sub"), CAT, *arguments]) == 0
    assert "an even share of passes of up to 2" in capsys.readouterr().out
    entries = json.loads((tmp_path / "b.json").read_text())["photographs"]
    assert [entry["batch"] for entry in entries] == [2, 2, 1]
    assert entries[0]["milliseconds"] == entries[1]["milliseconds"] != entries[2]["milliseconds"]


def test_raw_maps(folder, tmp_path, capsys):
    code, rows, _ = run(capsys, folder / "sub", "-o", tmp_path, "--maps", "npz", "--target", "top2")
    assert code == 0 and len(rows) == 4
    with np.load(tmp_path / "cup.npz") as file:
        stored = dict(file)
    network = zoo.load("efficientnet-lite0", None, None, torch.device("cpu"))
    image = network.preparation(photos.read(folder / "sub" / "cup.jpg"))[None]
    expected = camfast.grad_cam(network.model, image, camfast.TopK(2), size="map", normalize=False)
    np.testing.assert_allclose(stored["maps"], expected.heatmap[0], atol=1e-5)
    assert stored["classes"].tolist() == expected.targets[0].tolist() and stored["class_names"][0] == "espresso"
    np.testing.assert_allclose(stored["scores"], expected.scores.softmax(1)[0, stored["classes"]], atol=1e-5)
    np.testing.assert_allclose(stored["box"], network.preparation.box(400, 600), rtol=1e-6)
    assert stored["layers"].tolist() == ["_swish#2"]
    for method in ("full_grad", "recipro_cam"):  # with a path of its own, and with a map per target
        assert main(["image", CUP, "-o", str(tmp_path / method), "--maps", "npz", "--method", method]) == 0
        with np.load(tmp_path / method / "coffee.npz") as file:
            assert np.ptp(file["maps"]) > 0 and file["maps"].ndim == 3


def test_one_range_for_all_photographs_and_for_two_runs(folder, tmp_path, capsys):
    arguments = ["--maps", "npz", "--format", "png", "--legend", "none", "--target", "281"]
    code = main(["image", str(folder / "sub"), CAT, "-o", str(tmp_path / "a"), "--normalize", "shared", *arguments])
    low, high = map(float, re.search(r"heat: from (\S+) to (\S+) of raw values", capsys.readouterr().out).groups())
    raw = {}
    for name in ("cup", "grey", "chelsea"):
        with np.load(tmp_path / "a" / f"{name}.npz") as file:
            raw[name] = file["maps"]
    everything = np.concatenate([maps.ravel() for maps in raw.values()]).clip(0)
    assert code == 0 and everything.min() == pytest.approx(low) and everything.max() == pytest.approx(high, rel=1e-5)

    photo = photos.read(CAT)
    network = zoo.load("efficientnet-lite0", None, None, torch.device("cpu"))
    heat = ops.resize_normalize(torch.from_numpy(raw["chelsea"]), network.preparation.crop, normalize=False)[0]
    heat = ((heat - low) / (high - low)).clamp(0, 1)
    expected = explained(photo, heat, network.preparation.box(*photo.shape[:2]), "", 0, where="none")
    assert np.abs(picture(tmp_path / "a" / "chelsea.png").astype(int) - expected).max() <= 2

    arguments[0:2] = ["--normalize", f"{low},{high}"]
    assert main(["image", CAT, "-o", str(tmp_path / "b"), *arguments]) == 0
    same = picture(tmp_path / "b" / "chelsea.png").astype(int) - picture(tmp_path / "a" / "chelsea.png")
    assert np.abs(same).max() <= 2
    assert main(["image", CAT, "-o", str(tmp_path / "c"), *arguments[2:]]) == 0
    assert np.abs(picture(tmp_path / "c" / "chelsea.png").astype(int) - expected).mean() > 1


def test_legends(folder, tmp_path, capsys):
    shapes = {}
    for where in ("corner", "strip", "none"):
        code, _, _ = run(capsys, folder, "-o", tmp_path / where, "--legend", where, "--format", "png")
        shapes[where] = [picture(tmp_path / where / name).shape[:2] for name in ("cat.png", "tiny.png", "sub/cup.png")]
        assert code == 1
    assert shapes["none"] == [(300, 451), (8, 8), (400, 600)] and shapes["corner"] == [
        (300, 451),
        (256, 256),
        (400, 600),
    ]
    assert all(
        strip[0] > corner[0] + 50 and strip[1] == corner[1]
        for strip, corner in zip(shapes["strip"], shapes["corner"], strict=True)
    )
    corner, bare = picture(tmp_path / "corner" / "cat.png"), picture(tmp_path / "none" / "cat.png")
    np.testing.assert_array_equal(corner[:-20], bare[:-20])
    assert corner[-20:, :150].max() > 240 and not np.array_equal(corner[-20:], bare[-20:])


def test_a_page_to_search_and_to_sort(folder, tmp_path, capsys):
    out = tmp_path / "out"
    code, _, _ = run(capsys, folder, "-o", out, "--html", out / "index.html", "--target", "top2")
    page = (out / "index.html").read_text()
    assert code == 1 and page.count("<figure") == 8 and "<h1>What efficientnet-lite0 saw in 4 photographs</h1>" in page
    links = re.findall(r'<img src="([^"]+)"', page)
    assert len(set(links)) == 8 and all((out / link).is_file() for link in links)
    assert "bad.jpg: it is " in page and "http" not in page.replace("http-equiv", "")


def test_the_page_in_a_browser(tmp_path):
    from selenium.webdriver.support.ui import Select

    assert main(["image", CAT, CUP, "-o", str(tmp_path), "--html", str(tmp_path / "index.html")]) == 0
    with chromium("window-size=390,844") as window:
        window.get((tmp_path / "index.html").as_uri())
        shown = lambda: [one.get_attribute("data-class") for one in figures() if one.is_displayed()]  # noqa: E731
        figures = lambda: window.find_elements("tag name", "figure")  # noqa: E731
        cat, cup = shown()
        assert cat.endswith("cat") and cup == "espresso"
        Select(window.find_element("id", "order")).select_by_value("-score")
        assert shown() == [cup, cat]  # the surer one first
        window.find_element("id", "words").send_keys("espresso")
        assert shown() == ["espresso"] and "1 of 2 pictures" in window.find_element("tag name", "body").text
        assert window.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        assert [entry for entry in window.get_log("browser") if entry["level"] != "INFO"] == []


def test_jpeg_is_small(folder, tmp_path, capsys):
    for kind in ("jpg", "png", "webp"):
        assert main(["image", str(folder / "sub" / "cup.jpg"), "-o", str(tmp_path / kind), "--format", kind]) == 0
    sizes = {kind: (tmp_path / kind / f"cup.{kind}").stat().st_size for kind in ("jpg", "png", "webp")}
    assert sizes["jpg"] < sizes["png"] / 4 and sizes["webp"] < sizes["png"] / 4
    assert sizes["jpg"] < 1.5 * (folder / "sub" / "cup.jpg").stat().st_size
