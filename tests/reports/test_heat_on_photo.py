"""Heat over whole photographs, and the tools that show it so: the snippets of the documentation, where these are installed."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from PIL import Image
from runs import NAMES, row, write_run

import camfast
from camfast.reports import heat_on_photo

PAGE = Path(__file__).resolve().parents[2] / "docs/reports.md"


def test_heat_lies_in_the_crop_and_nothing_outside():
    whole = heat_on_photo(row("a.jpg", 0, 0, heat=np.ones((7, 7))))
    assert whole.shape == (64, 96) and whole.dtype == np.float32
    assert (whole[:, 16:80] == 1).all() and whole.sum() == 64 * 64
    small = heat_on_photo(row("a.jpg", 0, 0, heat=np.ones((7, 7))), side=48)
    assert small.shape == (32, 48) and (small[:, 8:40] == 1).all() and small.sum() == 32 * 32


def test_crops_that_are_not_known_or_reach_beyond():
    heat = np.arange(4.0).reshape(1, 4) / 3
    assert heat_on_photo(row("a.jpg", 0, 0, heat=heat, crop=None))[0, [0, -1]].tolist() == [0, 1]
    beyond = heat_on_photo(row("a.jpg", 0, 0, heat=heat, crop=[-96.0, -64.0, 192.0, 128.0]))
    wide = heat_on_photo(row("a.jpg", 0, 0, heat=heat, crop=None, width=288))
    np.testing.assert_allclose(beyond[0], wide[0, 96:192], atol=1e-6)
    with pytest.raises(ValueError, match="side must be 1 or more, got 0"):
        heat_on_photo(row("a.jpg", 0, 0), side=0)


def test_rows_of_read_maps_and_of_the_shards_are_alike(tmp_path):
    one = row("a.jpg", 0, 0, heat=np.random.default_rng(0).random((5, 5)))
    (read,) = camfast.read_maps(write_run(tmp_path / "run", [one]))
    np.testing.assert_array_equal(heat_on_photo(read), heat_on_photo(one))


@pytest.mark.parametrize("package", ["fiftyone", "wandb"])
def test_the_snippets_for_other_tools_run(package, tmp_path, monkeypatch):
    pytest.importorskip(package)
    snippets = [textwrap.dedent(code) for code in re.findall(r"^```py\n(.*?)^```", PAGE.read_text(), re.M | re.S)]
    (code,) = [code for code in snippets if f"import {package}" in code]
    Image.new("RGB", (96, 64), "orange").save(tmp_path / "a.png")
    write_run(tmp_path / "out", [row(str(tmp_path / "a.png"), 0, 1, 1)])
    monkeypatch.chdir(tmp_path)
    known: dict = {}
    exec(compile(code, str(PAGE), "exec"), known)
    if package == "wandb":
        assert known["table"].data[0][1:3] == [NAMES[1], NAMES[1]] and list(tmp_path.glob("wandb/offline-run-*"))
    else:
        assert known["samples"][0]["heat"].map.shape == (171, 256)
