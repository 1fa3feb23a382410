"""A package of machine code, from Python and from the C++ program of the examples."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from heads import SIZE, network
from models import images
from torch.utils import cpp_extension

import camfast

ROOT = Path(__file__).resolve().parents[2]
BATCH = images(3, size=SIZE, seed=5)

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """Of a head whose backward pass is written out."""
    path = tmp_path_factory.mktemp("aot") / "heat.pt2"
    done = camfast.export(network("layer norm"), images(2, size=SIZE), path, layers="trunk", class_names=list("abcde"))
    assert done.runtime == "AOTInductor" and done.heatmap < 1e-4
    return path


@pytest.fixture(scope="module")
def expected() -> camfast.Explanation:
    return camfast.grad_cam(network("layer norm"), BATCH, layers="trunk")


def test_from_python(package, expected):
    loaded = torch._inductor.aoti_load_package(str(package))
    scores, heat = loaded(BATCH)  # another number of images
    torch.testing.assert_close(scores, expected.scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(heat, expected.heatmap, rtol=0, atol=1e-4)
    assert loaded.get_metadata()["method"] == "grad_cam"


def test_from_cpp(package, expected, tmp_path):
    program = tmp_path / "heat"
    includes = [f"-I{folder}" for folder in cpp_extension.include_paths()]
    folders = [flag for folder in cpp_extension.library_paths() for flag in (f"-L{folder}", f"-Wl,-rpath,{folder}")]
    libraries = ["-ltorch", "-ltorch_cpu", "-lc10"]
    source = str(ROOT / "examples" / "cpp" / "heat.cpp")
    subprocess.run(
        ["g++", "-std=c++20", "-O0", *includes, source, "-o", str(program), *folders, *libraries], check=True
    )
    image = BATCH[:1].contiguous()
    image.numpy().tofile(tmp_path / "in.bin")
    words = [str(program), str(package), *map(str, SIZE), str(tmp_path / "in.bin"), str(tmp_path / "out.bin")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    heat = np.fromfile(tmp_path / "out.bin", np.float32).reshape(SIZE)
    np.testing.assert_allclose(heat, expected.heatmap[0], atol=1e-4)
    assert done.stdout.startswith(f"class {int(expected.targets[0])}, warmest at row")
