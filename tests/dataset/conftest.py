"""Small real photographs in class folders, and a network that is quick to explain."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models import SmallNet, calibrated, images
from PIL import Image

from camfast.pictures.preparation import Preparation
from camfast.zoo import Network

pytest.importorskip("pyarrow")
skimage = pytest.importorskip("skimage")

DATA = Path(skimage.__file__).parent / "data"
PHOTOS = {"cat": "chelsea.png", "cup": "coffee.png", "man": "astronaut.png", "moped": "motorcycle_left.png"}
CLASSES = ["cat", "cup", "dog", "man", "moped"]


@pytest.fixture(scope="session")
def crops() -> dict[str, list[Image.Image]]:
    """Five crops of each photograph."""
    found = {}
    for name, file in PHOTOS.items():
        photo = Image.open(DATA / file).convert("RGB")
        width, height = photo.size
        boxes = [(n * 17, n * 11, width - 40 + n * 8, height - 30 + n * 5) for n in range(5)]
        found[name] = [photo.crop(box).resize((90 + 7 * n, 70)) for n, box in enumerate(boxes)]
    return found


@pytest.fixture
def photos(tmp_path, crops) -> Path:
    """Twenty photographs in four folders, of the same names in each."""
    folder = tmp_path / "photos"
    for name, pictures in crops.items():
        (folder / name).mkdir(parents=True)
        for n, picture in enumerate(pictures):
            picture.save(folder / name / f"{n}.jpg", quality=90)
    return folder


@pytest.fixture(scope="session")
def network() -> Network:
    torch.manual_seed(0)
    model = calibrated(SmallNet(), images(16, size=(32, 32)))
    return Network("small", model, Preparation(36, (32, 32), (0.5,) * 3, (0.25,) * 3), 5, CLASSES)
