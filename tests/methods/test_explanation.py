"""The result: overlays, files, notebooks, parts of a batch."""

from __future__ import annotations

import threading

import models
import numpy as np
import pytest
import torch
from models import SmallNet, images

import camfast
from camfast import Explanation, TopK, ops


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SmallNet().eval()


@pytest.fixture
def result(model):
    return camfast.grad_cam(model, images(3), [0, 1, 2], class_names=["zero", "one", "two", "three", "<four>"])


@pytest.fixture
def many(model):
    return camfast.grad_cam(model, images(3), TopK(2))


def frames(n: int = 3, size: tuple[int, int] = (32, 44)) -> torch.Tensor:
    return torch.randint(0, 256, (n, *size, 3), dtype=torch.uint8)


def test_overlay_of_frames(result):
    shown = frames()
    overlay = result.overlay(shown, "viridis", 0.3)
    assert torch.equal(overlay, ops.overlay(shown, result.heatmap, "viridis", 0.3))
    assert torch.equal(result.overlay(shown, alpha=0), shown)
    assert not torch.equal(result.overlay(shown), result.overlay(shown, colormap="gray"))


def test_overlay_of_several_targets(many):
    shown = frames()
    overlay = many.overlay(shown)
    assert overlay.shape == (3, 2, 32, 44, 3)
    for i in range(3):
        for k in range(2):
            assert torch.equal(overlay[i, k], ops.overlay(shown[i], many.heatmap[i, k]))


def test_overlay_of_one_frame_in_many_forms(model):
    from PIL import Image

    result = camfast.grad_cam(model, images(1))
    shown = frames(1)
    expected = result.overlay(shown)
    array = shown[0].numpy()
    picture = Image.fromarray(array)
    for form in (shown[0], array, array[None], picture, [picture], [array], [shown[0]], picture.convert("RGBA")):
        assert torch.equal(result.overlay(form), expected)
    flipped = array[:, ::-1]  # an array of negative strides
    assert torch.equal(result.overlay(flipped), result.overlay(flipped.copy()))


def test_overlay_of_the_images_themselves(model):
    x = images(2)
    x[1] *= 100
    result = camfast.grad_cam(model, x, 1)
    plain = result.overlay(alpha=0)
    assert plain.shape == (2, 16, 20, 3)
    for i in range(2):
        low, high = x[i].min(), x[i].max()
        expected = ((x[i] - low) / (high - low) * 255).round()
        assert (plain[i].permute(2, 0, 1) - expected).abs().max() <= 1
    assert plain.amax((1, 2, 3)).tolist() == [255, 255] and plain.amin((1, 2, 3)).tolist() == [0, 0]


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_overlay_of_images_that_are_not_rgb(channels):
    torch.manual_seed(0)
    x = images(2, channels)
    plain = camfast.grad_cam(SmallNet(channels=channels).eval(), x).overlay(alpha=0)
    assert torch.equal(plain[..., 0], plain[..., 1]) and torch.equal(plain[..., 0], plain[..., 2])
    grey = x.mean(1)[0]
    order = grey.flatten().argsort()
    assert (plain[0, ..., 0].flatten()[order].diff().to(torch.int16) >= 0).all()


def test_frames_that_do_not_fit(result, many):
    with pytest.raises(ValueError, match=r"frames must have shape \[3, H, W, 3\], RGB, got \[2, 32, 44, 3\]"):
        result.overlay(frames(2))
    with pytest.raises(ValueError, match=r"got \[3, 32, 44, 4\]"):
        result.overlay(torch.zeros(3, 32, 44, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="2 sizes; draw them one by one"):
        many.overlay([frames(1)[0], frames(1)[0], frames(1, (8, 8))[0]])
    with pytest.raises(TypeError, match="uint8 RGB pictures, .*got float64"):
        result.overlay(np.zeros((3, 32, 44, 3)))
    with pytest.raises(TypeError, match="uint8 RGB pictures, .*got torch.int32"):
        result.overlay(torch.zeros(3, 32, 44, 3, dtype=torch.int32))
    with pytest.raises(ValueError, match="unknown colormap"):
        result.overlay(frames(), colormap="no such map")


@pytest.mark.parametrize(("rank", "size"), [(1, (40,)), (3, (6, 8, 10))])
def test_maps_that_are_no_pictures(rank, size):
    result = camfast.grad_cam(SmallNet(rank=rank).eval(), images(2, size=size))
    assert result.heatmap.shape == (2, *size)
    with pytest.raises(ValueError, match=f"only heatmaps of two dimensions can be drawn over pictures, got {rank}"):
        result.overlay()
    assert result._repr_png_() is None and result._repr_html_() is None


def test_save_of_bare_overlays(result, many, model, tmp_path):
    from PIL import Image

    shown = frames()
    paths = result.save(tmp_path / "heat.png", shown, "magma", 0.4, each=True)
    assert [path.name for path in paths] == ["heat_0.png", "heat_1.png", "heat_2.png"]
    for path, expected in zip(paths, result.overlay(shown, "magma", 0.4), strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), expected.numpy())
    names = [path.name for path in many.save(str(tmp_path / "many.png"), each=True)]
    assert names == [f"many_{i}_{k}.png" for i in range(3) for k in range(2)]
    (path,) = camfast.grad_cam(model, images(1)).save(tmp_path / "one.png", each=True)
    assert path == tmp_path / "one.png" and Image.open(path).size == (20, 16)
    assert len(list(tmp_path.iterdir())) == 10  # no temporary file is left


def test_save_is_whole_or_nothing(result, tmp_path, monkeypatch):
    from PIL import Image

    target = tmp_path / "heat.png"
    one = result[0]
    one.save(target)
    before = target.read_bytes()

    def broken(self, file, *args, **options):
        with open(file, "wb") as half:
            half.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        one.save(target)
    assert target.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["heat.png"]


def test_save_by_several_threads(result, tmp_path):
    threads = [threading.Thread(target=result.save, args=(tmp_path / "heat.png",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [p.name for p in tmp_path.iterdir()] == ["heat.png"]


def test_notebooks(result, many):
    assert result[1]._repr_png_().startswith(b"\x89PNG") and many._repr_png_().startswith(b"\x89PNG")
    page = result._repr_html_()
    assert page.count("data:image/png;base64,") == 3
    for i, name in enumerate(("zero", "one", "two")):
        assert f"<figcaption>{name} {result.scores[i].softmax(0)[i]:.1%}</figcaption>" in page
    assert "each map by its own range" in page and many._repr_html_().count("<img") == 6
    assert repr(result) == "Explanation('zero', 'one', 'two' by grad_cam of body: heatmap [3, 16, 20], scores [3, 5])"


def test_notebooks_escape_names(model):
    result = camfast.grad_cam(model, images(1), 4, class_names=["a", "b", "c", "d", "<four>"])
    assert "&lt;four&gt;" in result._repr_html_() and "<four>" not in result._repr_html_()


def test_without_pillow(result, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    assert result.overlay().shape == (3, 16, 20, 3)
    assert result[0]._repr_png_() is None and result._repr_html_() is None
    with pytest.raises(ImportError, match=r"camfast\[vision\]"):
        result.save(tmp_path / "heat.png")


def test_labels(result, many, model):
    assert [result.label(i) for i in range(3)] == ["zero", "one", "two"]
    assert many.label(1, 1) == str(int(many.targets[1, 1]))

    def contrast(scores):
        return scores[0] - scores[1]

    assert camfast.grad_cam(model, images(1), contrast).label(0) == "contrast"


def test_parts(result, many):
    assert len(result) == 3
    one = result[1]
    assert one.heatmap.shape == (1, 16, 20) and torch.equal(one.heatmap[0], result.heatmap[1])
    assert one.targets.tolist() == [1] and torch.equal(one.scores[0], result.scores[1])
    assert torch.equal(one.images[0], result.images[1]) and one.layers == ["body"]
    assert torch.equal(result[-1].heatmap, result[2].heatmap)
    assert len(many[1:]) == 2 and many[1:].heatmap.shape == (2, 2, 16, 20)
    assert [len(part) for part in result] == [1, 1, 1]
    with pytest.raises(IndexError, match="from 0 to 2, got 3"):
        result[3]


def test_to_a_device(result, device):
    moved = result.to(device)
    assert isinstance(moved, Explanation)
    for tensor in (moved.heatmap, moved.scores, moved.targets, moved.images):
        assert tensor.device.type == device.type
    assert torch.equal(moved.to("cpu").heatmap, result.heatmap)
    assert moved.overlay(frames()).device.type == device.type


def test_images_are_the_callers_own(model):
    x = images(2).requires_grad_()
    result = camfast.grad_cam(model, x)
    assert result.images is x
    result = camfast.grad_cam(models.TwoInputs().eval(), {"meta": torch.zeros(2, 4), "image": x})
    assert result.images is x and not result.heatmap.requires_grad and not result.scores.requires_grad


def test_nan_shows_the_frame(model):
    x = images(2)
    x[0, 0, 3, 3] = float("nan")
    result = camfast.grad_cam(model, x, 1)
    shown = frames(2)
    overlay = result.overlay(shown)
    assert torch.equal(overlay[0], shown[0]) and not torch.equal(overlay[1], shown[1])
    assert result.overlay().shape == (2, 16, 20, 3)
