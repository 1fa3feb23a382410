"""Weights of fewer bits: a smaller file that says the same within what was allowed, or no file."""

from __future__ import annotations

import os

import pytest
import torch
from heads import SIZE
from models import images
from torch import nn

import camfast
from camfast.shipped import narrow
from camfast.shipped.capture import Unshippable

EXAMPLE = images(2, size=SIZE)
BITS = {"float16": 16, "bfloat16": 16, "int8": 8}


def network():
    torch.manual_seed(0)
    trunk = nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU()
    )
    head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 20))
    return nn.Sequential(trunk, head).eval()


@pytest.mark.parametrize("weights", BITS)
@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_files_are_smaller_and_say_nearly_the_same(tmp_path, weights, suffix):
    for package in {".onnx": ["onnxruntime", "onnxscript"], ".xml": ["openvino", "onnxscript"]}.get(suffix, []):
        pytest.importorskip(package)
    model, path = network(), tmp_path / f"heat{suffix}"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    options = {"compile": False} if suffix == ".pt2" else {}
    if (suffix, weights) == (".xml", "bfloat16"):
        with pytest.raises(ValueError, match=r"OpenVINO keeps weights in float16 or int8"):
            camfast.export(model, EXAMPLE, path, layers="0", weights_as=weights)
        return
    whole = camfast.export(model, EXAMPLE, path, layers="0", **options)
    done = camfast.export(model, EXAMPLE, path, layers="0", weights_as=weights, tolerance=4e-2, **options)
    saved = sum(p.numel() for p in model.parameters() if p.ndim > 1 and p.numel() >= 1024) * (32 - BITS[weights]) / 8
    assert whole.bytes - done.bytes > 0.8 * saved
    assert 1e-6 < max(done.scores, done.heatmap) < 4e-2
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) and after[name].dtype == before[name].dtype for name in before)


def test_int8_is_off_by_half_a_step_at_most():
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(40, 30) * torch.logspace(-3, 3, 40)[:, None])
            self.zeros = nn.Parameter(torch.zeros(40, 30))

        def forward(self, x):
            return x @ self.weight.t(), x @ self.zeros.t()

    model, eye = Weighted(), torch.eye(30)
    program = torch.export.export(model, (eye,), strict=False)
    found, again = narrow.narrowed(program, "int8", eye, None)
    steps = model.weight.abs().amax(1) / 127
    for module in (found, again.module()):
        weight, zeros = module(eye)
        assert ((weight.t() - model.weight).abs().amax(1) <= 0.5001 * steps).all() and not zeros.any()
    stored = [value.dtype for value in again.state_dict.values() if value.numel() == 1200]
    assert stored == [torch.int8, torch.int8]


def test_tied_weights_are_kept_once():
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40))
    model[1].weight = model[0].weight
    images = torch.randn(2, 40)
    found, _ = narrow.narrowed(torch.export.export(model, (images,), strict=False), "float16", images, None)
    assert sum(value.dtype == torch.float16 for value in found.state_dict().values()) == 1


def test_what_is_too_far_is_refused_with_advice_that_works(tmp_path):
    pytest.importorskip("onnxruntime")
    with pytest.raises(Unshippable, match=r"with weights in int8 must give .* where 1e-06 is allowed; no file"):
        camfast.export(network(), EXAMPLE, tmp_path / "heat.onnx", layers="0", weights_as="int8", tolerance=1e-6)
    assert not os.listdir(tmp_path)
    with pytest.raises(ValueError, match=r"weights_as must be 'float16', 'bfloat16', 'int8' or None, got 'int4'"):
        camfast.export(network(), EXAMPLE, tmp_path / "heat.onnx", layers="0", weights_as="int4")
