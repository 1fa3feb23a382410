"""One file with scores and heat: run in its runtime, equal to the network, and nothing is left where it is not."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from heads import CLASSES, SIZE, network
from models import images
from torch import nn

import camfast
from camfast.ops import reference
from camfast.pictures.preparation import Preparation
from camfast.shipped import runtimes
from camfast.shipped.runtimes import Onnx

EXAMPLE = images(2, size=SIZE)
BATCH = images(3, size=SIZE, seed=5)
NAMES = [f"class {n}" for n in range(CLASSES)]
PREPARATION = Preparation((32, 60), SIZE, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def onnx_session(path):
    runtime = pytest.importorskip("onnxruntime")
    return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("head", "method", "targets"),
    [
        ("flattened", "grad_cam", None),
        ("convolutions", "layer_cam", camfast.TopK(2)),
        ("attention", "xgrad_cam", None),
        ("layer norm", "recipro_cam", 1),
    ],
)
def test_onnx(tmp_path, head, method, targets):
    pytest.importorskip("onnxscript")
    path = tmp_path / "heat.onnx"
    model = network(head)
    done = camfast.export(model, EXAMPLE, path, method, "trunk", targets, class_names=NAMES)
    assert done.opset == 20 and done.path == path and done.bytes == path.stat().st_size and done.heatmap < 1e-4
    session = onnx_session(path)
    assert [given.name for given in session.get_inputs()] == ["images"]
    assert session.get_inputs()[0].shape == ["batch", 3, *SIZE]
    scores, heat = session.run(["scores", "heatmap"], {"images": BATCH.numpy()})  # another number of images
    expected = camfast.METHODS[method](model, "trunk")(BATCH, targets)
    np.testing.assert_allclose(scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(heat, expected.heatmap, atol=1e-4)
    notes = session.get_modelmeta().custom_metadata_map
    assert json.loads(notes["class_names"]) == NAMES and notes["method"] == method
    assert json.loads(notes["layers"]) == ["trunk"] and notes["opset"] == "20"
    assert os.listdir(tmp_path) == ["heat.onnx"]


def test_the_network_is_in_the_file_once(tmp_path):
    onnx = pytest.importorskip("onnx")
    model = network("flattened")
    camfast.export(model, EXAMPLE, tmp_path / "heat.onnx", layers="trunk")
    shipped = camfast.with_heatmap(model, layers="trunk", example=EXAMPLE)
    stored = onnx.load(tmp_path / "heat.onnx").graph.initializer
    count = sum(int(np.prod(tensor.dims)) for tensor in stored)
    resize = sum(value.numel() for name, value in shipped.named_buffers() if name.startswith("steps"))
    assert count <= 1.1 * sum(value.numel() for value in model.state_dict().values()) + resize + 100


@pytest.mark.parametrize("hidden", [300, 8 * 20])
def test_openvino_keeps_weights_once_too(tmp_path, hidden):
    pytest.importorskip("openvino")
    torch.manual_seed(0)
    head = nn.Sequential(nn.Flatten(), nn.Linear(8 * 20, hidden), nn.ReLU(), nn.Linear(hidden, 100))
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU()), head).eval()
    done = camfast.export(model, EXAMPLE, tmp_path / "heat.xml", layers="0", dynamic=False)
    weights = sum(value.numel() for value in model.state_dict().values()) * 4
    assert (tmp_path / "heat.bin").stat().st_size < 1.1 * weights and done.heatmap < 1e-4


def test_frames_go_in_and_a_picture_comes_out(tmp_path):
    pytest.importorskip("onnxscript")
    model, path = network("pooled"), tmp_path / "frames.onnx"
    done = camfast.export(
        model,
        EXAMPLE,
        path,
        layers="trunk",
        preparation=PREPARATION,
        frames=(48, 90),
        overlay=True,
        colormap="jet",
        alpha=0.5,
    )
    assert done.inputs == {"frames": ["batch", 48, 90, 3]} and list(done.outputs) == ["scores", "heatmap", "picture"]
    frames = torch.randint(0, 256, (3, 48, 90, 3), dtype=torch.uint8)
    session = onnx_session(path)
    scores, heat, picture = session.run(None, {"frames": frames.numpy()})
    box = PREPARATION.box(48, 90)
    given = reference.preprocess(frames, SIZE, PREPARATION.mean, PREPARATION.std, box=box)
    expected = camfast.grad_cam(model, given, layers="trunk")
    np.testing.assert_allclose(scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(heat, expected.heatmap, atol=1e-4)
    left, right = round(box[0]), round(box[2])
    inside = camfast.ops.overlay(frames[:, :, left:right].contiguous(), expected.heatmap, "jet", 0.5)
    assert np.abs(picture[:, :, left:right].astype(int) - inside.numpy().astype(int)).max() <= 1
    np.testing.assert_array_equal(picture[:, :, :left], frames.numpy()[:, :, :left])  # what was cut away
    assert json.loads(session.get_modelmeta().custom_metadata_map["mean"]) == [0.5, 0.4, 0.3]


def test_frames_of_the_networks_own_size(tmp_path):
    pytest.importorskip("onnxscript")
    whole = Preparation(SIZE, SIZE, (0.5,) * 3, (0.25,) * 3)
    camfast.export(network("pooled"), EXAMPLE, tmp_path / "f.onnx", layers="trunk", preparation=whole, frames=SIZE)
    frames = torch.randint(0, 256, (1, *SIZE, 3), dtype=torch.uint8)
    scores, _ = onnx_session(tmp_path / "f.onnx").run(None, {"frames": frames.numpy()})
    given = (frames.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(scores, network("pooled")(given).detach(), atol=1e-4)


@pytest.mark.parametrize("head", ["layer norm", "attention"])
def test_openvino(tmp_path, head):
    openvino = pytest.importorskip("openvino")
    model, path = network(head), tmp_path / "heat.xml"
    done = camfast.export(model, EXAMPLE, path, layers="trunk", class_names=NAMES)
    assert sorted(os.listdir(tmp_path)) == ["heat.bin", "heat.xml"] and done.runtime == "OpenVINO"
    read = openvino.Core().read_model(path)
    assert [port.get_any_name() for port in [*read.inputs, *read.outputs]] == ["images", "scores", "heatmap"]
    assert json.loads(read.get_rt_info(["camfast", "class_names"]).astype(str)) == NAMES
    found = openvino.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(BATCH.numpy())
    np.testing.assert_allclose(found["heatmap"], camfast.grad_cam(model, BATCH, layers="trunk").heatmap, atol=1e-4)


def test_executorch(tmp_path):
    pytest.importorskip("executorch")
    from executorch.runtime import Runtime

    model, path = network("layer norm"), tmp_path / "heat.pte"
    done = camfast.export(model, EXAMPLE, path, layers="trunk", targets=camfast.TopK(2), class_names=NAMES)
    assert done.runtime == "ExecuTorch" and done.inputs == {"images": list(EXAMPLE.shape)} and done.heatmap < 1e-4
    program = Runtime.get().load_program(str(path))
    scores, heat = program.load_method("forward").execute([EXAMPLE])
    expected = camfast.grad_cam(model, EXAMPLE, camfast.TopK(2), layers="trunk")
    np.testing.assert_allclose(scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(heat, expected.heatmap, atol=1e-4)
    (notes,) = program.load_method("camfast").execute([])
    assert json.loads(json.loads(notes)["class_names"]) == NAMES


def test_an_exported_program(tmp_path):
    model, path = network("layer norm"), tmp_path / "heat.pt2"
    done = camfast.export(model, EXAMPLE, path, layers="trunk", compile=False)
    assert done.runtime == "torch.export" and done.opset is None
    notes = {"camfast.json": ""}
    found = torch.export.load(str(path), extra_files=notes).module()(BATCH)
    torch.testing.assert_close(found[1], camfast.grad_cam(model, BATCH, layers="trunk").heatmap, rtol=0, atol=1e-4)
    assert json.loads(notes["camfast.json"])["method"] == "grad_cam"


# Nothing is left


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("heat.tflite", {}, r"expected a file of .onnx, .xml, .pt2, .pte, got 'heat.tflite'"),
        ("no/such/heat.onnx", {}, "cannot write .*No such file or directory"),
        ("heat.onnx", {"layers": "trunc"}, "'trunk'"),
        ("heat.onnx", {"targets": lambda s: s[0]}, "run"),
        ("heat.onnx", {"opset": 9}, "from 18 to 23, got 9"),
        ("heat.pt2", {"opset": 20}, "opset= is of ONNX alone"),
        ("heat.onnx", {"compile": False}, "compile=False is of .pt2 alone"),
        ("heat.onnx", {"overlay": True}, "needs frames="),
        ("heat.onnx", {"frames": (20, 30)}, "needs preparation="),
        ("heat.onnx", {"frames": (20,), "preparation": PREPARATION}, r"\(height, width\), got \(20,\)"),
    ],
)
def test_refusals(tmp_path, name, options, words):
    with pytest.raises((ValueError, TypeError), match=words) as caught:
        camfast.export(network("pooled"), EXAMPLE, tmp_path / name, **{"layers": "trunk", **options})
    assert "\n" not in str(caught.value) and not os.listdir(tmp_path)


def test_a_file_that_gives_something_else_is_not_left(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    (tmp_path / "heat.onnx").write_text("what was there")
    run = Onnx.run
    monkeypatch.setattr(Onnx, "run", lambda self, path, x: [value + 1e-3 for value in run(self, path, x)])
    with pytest.raises(ValueError, match="ONNX Runtime must give what the network gives, got scores that differ by"):
        camfast.export(network("pooled"), EXAMPLE, tmp_path / "heat.onnx", layers="trunk")
    assert os.listdir(tmp_path) == ["heat.onnx"] and (tmp_path / "heat.onnx").read_text() == "what was there"


def test_what_a_runtime_does_not_have_is_said(tmp_path, monkeypatch):
    def refuse(*_):
        raise RuntimeError("Exception from src/core.cpp:132:\nno kernel for Mystery\n\nadvice\nand more advice")

    monkeypatch.setattr(Onnx, "run", refuse)
    with pytest.raises(
        ValueError, match="^ONNX Runtime does not take this network with its heat: no kernel for Mystery; dynamic=False"
    ):
        camfast.export(network("pooled"), EXAMPLE, tmp_path / "heat.onnx", layers="trunk")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(("name", "extra"), [("heat.onnx", "onnx"), ("heat.xml", "openvino")])
def test_missing_packages_name_the_extra(tmp_path, monkeypatch, name, extra):
    def missing(package, of):
        raise ImportError(f'{package} is needed here: pip install "camfast[{of}]"')

    monkeypatch.setattr(runtimes, "require", missing)
    with pytest.raises(ImportError, match=rf'pip install "camfast\[{extra}\]"'):
        camfast.export(network("pooled"), EXAMPLE, tmp_path / name, layers="trunk")
    assert not os.listdir(tmp_path)
