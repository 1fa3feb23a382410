"""The result and its pictures; what is explained; classes as a whole; inputs of every kind."""

from __future__ import annotations

import detectors
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import camfast
from camfast.detection.candidates import Candidates

NAMES = ["red", "green", "blue"]


class Colours(nn.Module):
    """A detector that cannot err: at each of two levels, a place's score of a class is how much of its colour is there.

    Rows ``[N, 4 + 3, A]``: a box of 3 x 3 positions around each position, and three classes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names = dict(enumerate(NAMES))
        self.fine, self.coarse = nn.Conv2d(3, 3, 8, 8, bias=False), nn.Conv2d(3, 3, 2, 2, bias=False)
        self.head = nn.Conv2d(3, 3, 3, padding=1)
        with torch.no_grad():
            for layer, size in ((self.fine, 8), (self.coarse, 2)):
                layer.weight.copy_(torch.eye(3)[:, :, None, None].expand(3, 3, size, size) / size**2)
            self.head.weight.copy_(
                torch.eye(3)[:, :, None, None] * torch.tensor([0.2, 0.6, 0.2]).outer(torch.ones(3)) * 4
            )
            self.head.bias.fill_(-8)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.fine(images)
        coarse = self.coarse(fine)
        tables = []
        for level, stride in ((fine, 8), (coarse, 16)):
            N, _, h, w = level.shape
            y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            centre = (torch.stack([x, y]) + 0.5) * stride
            boxes = torch.cat([centre, torch.full_like(centre, 3.0 * stride)]).expand(N, 4, h, w)
            boxes = boxes + 1e-3 * level.sum(1, keepdim=True)
            tables.append(torch.cat([boxes, self.head(level).sigmoid()], 1).flatten(2))
        return torch.cat(tables, 2)


def spots(*places: tuple[int, int, int], size: tuple[int, int] = (64, 96)) -> Tensor:
    """One image ``[1, 3, H, W]``, black but for squares of 24 pixels: ``(class, y, x)`` of their corners."""
    image = torch.zeros(1, 3, *size)
    for colour, y, x in places:
        image[0, colour, y : y + 24, x : x + 24] = 1
    return image


@pytest.fixture
def model() -> Colours:
    return Colours().eval()


TWO = ((0, 8, 8), (2, 32, 64))


def test_boxes_names_scores_and_heat(model):
    result = camfast.explain_detections(model, spots(*TWO), min_score=0.5, overlap=0.1)
    assert sorted(result.names[0]) == ["blue", "red"] and len(result) == 1
    assert result.layers == ["fine", "coarse"] and result.method == "layer_cam"
    for name, box, heat in zip(result.names[0], result.boxes[0], result.heatmaps[0], strict=True):
        y, x = divmod(int(heat.argmax()), 96)
        assert box[0] <= x <= box[2] and box[1] <= y <= box[3]
        assert (x < 48) == (name == "red")
        assert heat.shape == (64, 96) and heat.dtype == torch.float32 and heat.amin() >= 0 and heat.amax() > 0.9
    assert repr(result).startswith("Detections(") and "by layer_cam of fine, coarse: 1 image)" in repr(result)


def test_classes_by_name_and_number(model):
    explainer = camfast.DetectionExplainer(model, overlap=0.1)
    for wanted in ("blue", 2, ["blue"], [2]):
        assert explainer(spots(*TWO), wanted).names == [["blue"]]
    with pytest.raises(ValueError, match="expected the name of a class, one of 'red', 'green', 'blue', got 'purple'"):
        explainer(spots(*TWO), "purple")


def test_a_class_as_a_whole(model):
    """One map of all red boxes: the sum of their scores."""
    image = spots((0, 8, 8), (0, 32, 64), (2, 8, 64))
    explainer = camfast.DetectionExplainer(model, overlap=0.1)
    whole, single = explainer(image, "red", each=False), explainer(image, "red")
    assert whole.names == [["red"]] and len(single.names[0]) >= 2
    assert whole.scores[0][0] == single.scores[0].amax()
    assert torch.equal(whole.boxes[0][0, :2], single.boxes[0][:, :2].amin(0))
    heat = whole.heatmaps[0][0]
    assert heat[8:32, 8:32].amax() > 0.5 < heat[32:56, 64:88].amax() and heat[:24, 72:].amax() < 0.2


def test_every_image_of_a_batch_has_its_own(model):
    images = torch.cat([spots(TWO[0]), spots(), spots(*TWO)])
    explainer = camfast.DetectionExplainer(model, overlap=0.1)
    result = explainer(images, min_score=0.5)
    assert [len(boxes) for boxes in result.boxes] == [1, 0, 2]
    alone = explainer(images[2:], min_score=0.5)
    assert torch.allclose(alone.heatmaps[0], result.heatmaps[2], atol=1e-6)
    assert [len(one) for one in result] == [1, 1, 1] and result[-1].names == alone.names


@pytest.mark.parametrize("method", ["grad_cam", "grad_cam_plus_plus", "xgrad_cam", "hires_cam", "grad_cam_elementwise"])
def test_other_methods(model, method):
    result = camfast.explain_detections(model, spots(*TWO), method=method, min_score=0.5, overlap=0.1)
    assert result.method == method and all(heat.any() for heat in result.heatmaps[0])


def test_no_box_is_a_result(model, tmp_path):
    explainer = camfast.DetectionExplainer(model)
    for _ in range(2):
        result = explainer(spots())
        assert result.boxes[0].shape == (0, 4) and result.heatmaps[0].shape == (0, 64, 96) and result.names == [[]]
        assert "no box found above 0.25" in repr(result)
        assert result.overlay(0).float().std() > 0  # it says so
        assert result.save(tmp_path / "none.png")[0].exists()
        explainer(spots(*TWO))  # now the levels are known


def test_what_is_local_is_computed_so(model, monkeypatch):
    """From the second call on, boxes that do not meet share a row of the backward pass; the heat is the same."""
    image = spots((0, 0, 0), (1, 40, 0), (2, 0, 72), (0, 40, 72), (1, 16, 40))
    dense = camfast.DetectionExplainer(model, overlap=0.1)
    expected = dense(image, min_score=0.5)
    rows = []
    gradients = camfast.model.tap.Tap.gradients

    def counted(self, outputs, seeds=None, *args, **options):
        rows.append(len(seeds))
        return gradients(self, outputs, seeds, *args, **options)

    monkeypatch.setattr(camfast.model.tap.Tap, "gradients", counted)
    result = dense(image, min_score=0.5)
    assert len(result.names[0]) >= 5 > sum(rows)
    for heat, other in zip(result.heatmaps[0], expected.heatmaps[0], strict=True):
        assert (heat - other).abs().max() < 1e-6


def test_a_head_that_changes_its_mind_is_noticed(model):
    """Boxes that reach further than they did are computed as if nothing were known."""
    image = spots(*TWO)
    explainer = camfast.DetectionExplainer(model, overlap=0.1)
    explainer(image, min_score=0.5)
    wide = nn.Conv2d(3, 3, 5, padding=2)
    with torch.no_grad():
        wide.weight.fill_(0.02)
        wide.weight[:, :, 1:4, 1:4] += model.head.weight
        wide.bias.copy_(model.head.bias)
    model.head = wide
    fresh = camfast.DetectionExplainer(model, overlap=0.1)
    for one, other in zip(explainer(image).heatmaps[0], fresh(image).heatmaps[0], strict=True):
        assert torch.equal(one, other)


# Inputs


def test_photographs_are_fitted_and_heat_lands_on_them(model):
    photo = (
        (spots(*TWO, size=(64, 96))[0].permute(1, 2, 0) * 255)
        .to(torch.uint8)
        .repeat_interleave(2, 0)
        .repeat_interleave(2, 1)
    )
    plain = camfast.explain_detections(model, spots(*TWO), min_score=0.5, overlap=0.1)
    tall = torch.zeros(160, 192, 3, dtype=torch.uint8)
    tall[:128] = photo
    for given in (photo, photo.numpy(), [photo, tall], camfast.pictures.photos.to_rgb(_pil(photo))):
        result = camfast.explain_detections(model, given, min_score=0.5, overlap=0.1, image_size=96)
        assert sorted(result.names[0]) == ["blue", "red"]
        for name, box, heat in zip(result.names[0], result.boxes[0], result.heatmaps[0], strict=True):
            k = plain.names[0].index(name)
            assert heat.shape == (128, 192) and (box - 2 * plain.boxes[0][k]).abs().max() <= 32
            y, x = divmod(int(heat.argmax()), 192)
            assert photo[y, x, NAMES.index(name)] > 0
    assert result.overlay(0).shape == (128, 192, 3)


def _pil(photo: Tensor):
    return pytest.importorskip("PIL.Image").fromarray(photo.numpy())


def test_a_preparation_of_ones_own(model):
    photo = np.zeros((128, 192, 3), np.uint8)
    photo[16:64, 16:64, 0] = 255

    def prepare(photos):
        images = torch.stack([torch.from_numpy(one).permute(2, 0, 1).float() / 255 for one in photos])
        return F.interpolate(images, (64, 96))

    result = camfast.explain_detections(model, photo, min_score=0.5, prepare=prepare)
    assert result.names[0][0] == "red" and result.heatmaps[0].shape[1:] == (128, 192)
    y, x = divmod(int(result.heatmaps[0][0].argmax()), 192)
    assert 16 <= y < 64 and 16 <= x < 64


def test_pixel_mask_tells_what_is_padding():
    """Hugging Face pads a batch: boxes are in shares of what is no padding."""
    model = detectors.huggingface("Detr")
    mask = torch.ones(1, 96, 128, dtype=torch.int64)
    mask[:, :, 96:] = 0
    inputs = {"pixel_values": torch.randn(1, 3, 96, 128), "pixel_mask": mask}
    result = camfast.explain_detections(model, inputs, min_score=0.0, top=2)
    shares = model(**inputs).pred_boxes[0]
    centres = (result.boxes[0][:, :2] + result.boxes[0][:, 2:]) / 2
    nearest = (centres[:, None] - shares[None, :, :2] * 96).abs().amax(-1).amin(1)
    assert nearest.max() < 1e-3 and result.heatmaps[0].shape == (2, 96, 128)


def test_sizes(model):
    explainer = camfast.DetectionExplainer(model, overlap=0.1)
    shapes = {None: (64, 96), "map": (8, 12), 32: (32, 32), (20, 30): (20, 30)}
    for size, shape in shapes.items():
        assert explainer(spots(*TWO), size=size).heatmaps[0].shape[1:] == shape


# What is explained


def test_an_output_of_ones_own(model):
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Colours()

        def forward(self, images):
            table = self.inner(images)
            return {"where": table[:, :4], "what": table[:, 4:]}

    def read(output):
        centre, extent = output["where"].transpose(1, 2).split(2, -1)
        return torch.cat([centre - extent / 2, centre + extent / 2], -1), output["what"].transpose(1, 2)

    options = {"min_score": 0.5, "overlap": 0.1, "class_names": NAMES}
    result = camfast.explain_detections(Wrapped(), spots(*TWO), candidates=read, **options)
    plain = camfast.explain_detections(model, spots(*TWO), **options)
    assert result.names == plain.names and result.layers == ["inner.fine", "inner.coarse"]
    assert torch.allclose(result.heatmaps[0], plain.heatmaps[0], atol=1e-6)
    given = lambda output: Candidates(*read(output))  # noqa: E731
    assert torch.equal(
        camfast.explain_detections(Wrapped(), spots(*TWO), candidates=given, **options).boxes[0], result.boxes[0]
    )


def test_box_quality(tmp_path):
    model = detectors.huggingface("Detr")
    images = torch.randn(1, 3, 96, 128)
    score = camfast.explain_detections(model, images, min_score=0.0, top=2)
    quality = camfast.explain_detections(model, images, min_score=0.0, top=2, explain="quality")
    assert torch.equal(score.boxes[0], quality.boxes[0]) and not torch.equal(score.heatmaps[0], quality.heatmaps[0])
    with pytest.raises(ValueError, match="explain='quality' needs a detector that says whether there is an object"):
        camfast.explain_detections(Colours(), spots(*TWO), explain="quality")


@pytest.mark.parametrize("kind", ["torchvision", "ultralytics"])
def test_the_heat_of_a_mask(kind, tmp_path):
    made = {"torchvision": lambda: detectors.torchvision_model("mask_rcnn")}
    model = made.get(kind, lambda: detectors.yolo(tmp_path, "yolo11n-seg"))()
    images = torch.rand(1, 3, 64, 96)
    of_score = camfast.explain_detections(model, images, min_score=0.0, top=2)
    explainer = camfast.DetectionExplainer(model, explain="mask")
    result = explainer(images, min_score=0.0, top=2)
    assert result.masks[0].shape == (2, 64, 96) and result.masks[0].dtype == torch.bool
    assert torch.equal(result.boxes[0], of_score.boxes[0])
    assert result.heatmaps[0].any() and not torch.equal(result.heatmaps[0], of_score.heatmaps[0])
    with pytest.raises(ValueError, match="explain='mask' needs a detector that gives masks"):
        camfast.explain_detections(Colours(), spots(*TWO), explain="mask")


# Pictures


def test_overlay(model):
    result = camfast.explain_detections(model, spots(*TWO), min_score=0.5, overlap=0.1)
    every = result.overlay()
    assert isinstance(every, list) and every[0].shape == (64, 96, 3) and every[0].dtype == torch.uint8
    assert torch.equal(every[0], result.overlay(0))
    bare = result.overlay(0, labels=False)
    k = result.names[0].index("red")
    one = result.overlay(0, box=k, labels=False)
    frame = torch.zeros(64, 96, 3, dtype=torch.uint8)
    frame[8:32, 8:32, 0] = 255
    frame[32:56, 64:88, 2] = 255
    assert torch.equal(one[:, 60:], frame[:, 60:])  # nothing beyond the box's reach
    assert (bare[32:56, 64:88] != frame[32:56, 64:88]).any()
    large = result.overlay(0, frames=np.zeros((128, 192, 3), np.uint8))
    assert large.shape == (128, 192, 3) and large.any()
    whole = result.overlay(0, box=k, within=False, labels=False)
    assert (whole[:, 80:] != frame[:, 80:]).any()
    with pytest.raises(IndexError, match="expected an image from 0 to 0, got 1"):
        result.overlay(1)
    with pytest.raises(IndexError, match="expected a box below"):
        result.overlay(0, box=9)


def test_boxes_beyond_the_image_are_drawn_at_its_edge(model):
    result = camfast.explain_detections(model, spots((1, 0, 0)), min_score=0.5, overlap=0.1)
    result.boxes[0] -= 12
    assert result.boxes[0].amin() < 0 and result.overlay(0).any()
    result.boxes[0] += 1000
    assert result.overlay(0).shape == (64, 96, 3)


def test_figure_and_notebook(model, tmp_path):
    result = camfast.explain_detections(model, torch.cat([spots(*TWO), spots()]), min_score=0.5, overlap=0.1)
    figure = result.figure()
    assert figure.width >= 640 and result._repr_png_()[:4] == b"\x89PNG"
    page = result._repr_html_()
    assert page.count("<img") == 2 and "red" in page and "no box found above 0.5" in page
    assert [path.name for path in result.save(tmp_path / "a.png", each=True)] == ["a_0.png", "a_1.png"]
    assert [path.name for path in result.save(tmp_path / "a.png")] == ["a.png"]


def test_to_a_device(model, device):
    result = camfast.explain_detections(model, spots(*TWO), min_score=0.5).to(device)
    assert result.heatmaps[0].device.type == device.type and result.overlay(0).shape == (64, 96, 3)
