"""The gallery: photographs by methods in one picture; and methods of other result shapes on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import camfast
from camfast.cli import gallery
from camfast.cli.main import main

pytest.importorskip("efficientnet_lite_pytorch")
skimage = pytest.importorskip("skimage")
CAT = str(Path(skimage.__file__).parent / "data" / "chelsea.png")


@pytest.mark.real
def test_the_command_writes_one_panel_a_method(tmp_path, capsys):
    methods = ["grad_cam", "EigenCAM", "deep-feature-factorization", "legrad"]
    assert main(["gallery", CAT, "-o", str(tmp_path / "g.png"), "--methods", *methods]) == 0
    out, err = capsys.readouterr()
    assert "legrad: LeGrad needs attention over all tokens of an image, got none" in err
    assert [line.split()[0] for line in out.splitlines()[2:5]] == [
        "grad_cam",
        "eigen_cam",
        "deep_feature_factorization",
    ]
    assert np.asarray(Image.open(tmp_path / "g.png")).std() > 20
    assert main(["gallery", CAT, "-o", str(tmp_path / "h.png"), "--methods", "legrad"]) == 1
    assert not (tmp_path / "h.png").exists()


def test_heat_is_drawn_where_it_is():
    photo = gallery.square(np.full((300, 500, 3), 120, np.uint8))
    heat = torch.zeros(1, gallery.SIDE, gallery.SIDE)
    heat[:, :, : gallery.SIDE // 2] = 1
    concepts = torch.stack([heat, 1 - heat], 1)
    entries = [gallery.Entry("grad_cam", heat, 1.0), gallery.Entry("deep_feature_factorization", concepts, 1.0)]
    page = np.asarray(gallery.draw([photo], entries, "a network")).astype(int)
    assert page.shape[1] == 1600
    width = (1600 - 80 - 2 * 28) // 3
    row = page[page.shape[0] // 2]
    second, third = (row[40 + k * (width + 28) :][:width] for k in (1, 2))
    assert second[width // 4].sum() > second[3 * width // 4].sum() + 100  # bright on the left
    assert np.abs(third[width // 4] - third[3 * width // 4]).sum() > 100  # two concepts, two colours


def test_options_of_the_gallery_fit_their_methods():
    assert set(gallery.QUICK) <= set(camfast.METHODS)


@pytest.mark.real
@pytest.mark.parametrize("method", ["deep_feature_factorization", "full_grad", "guided-grad-cam", "RefineCAM"])
def test_methods_of_other_shapes_in_camfast_image(method, tmp_path, capsys):
    assert main(["image", CAT, "-o", str(tmp_path), "--method", method]) == 0
    files = sorted(tmp_path.glob("*.jpg"))
    assert len(files) == (5 if method.startswith("deep") else 1)
    assert all(np.asarray(Image.open(file)).shape == (300, 451, 3) for file in files)


@pytest.mark.real
def test_a_method_that_does_not_fit_says_so(tmp_path, capsys):
    assert main(["image", CAT, "-o", str(tmp_path), "--method", "legrad"]) == 2
    assert "LeGrad needs attention over all tokens of an image" in capsys.readouterr().err
    assert main(["image", CAT, "-o", str(tmp_path), "--method", "deep_feature_factorization", "--target", "3"]) == 2
    assert "expected targets=None" in capsys.readouterr().err
