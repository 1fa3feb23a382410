"""The targets of ``camfast.targets``: equal to pytorch-grad-cam's where it has them, and through whole models."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from models import SmallNet, calibrated, images
from tolerances import PARITY
from torch import nn

import camfast
from camfast import targets as T

peer = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
BOXES = [[2.0, 3.0, 20.0, 25.0], [30.0, 8.0, 44.0, 30.0], [1.0, 1.0, 5.0, 6.0]]


def scores(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()


def same(ours, theirs, x):
    """Value and gradient."""
    a, b = ours(x), theirs(x)
    assert a.ndim == 0 and torch.allclose(a, b.reshape(()), rtol=1e-12)
    assert torch.allclose(torch.autograd.grad(a, x)[0], torch.autograd.grad(b.sum(), x)[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (T.Logit(2), peer.ClassifierOutputTarget(2)),
        (T.Probability(2), peer.ClassifierOutputSoftmaxTarget(2)),
        (T.ReST(2), peer.ClassifierOutputReST(2)),
        (T.Contrast(2, [0, 4], 0.7), peer.FinerWeightedTarget(2, [0, 4], 0.7)),
        (T.Negative(2), lambda y: -y[2]),
        (T.Negative(T.Probability(1)), lambda y: -y.softmax(0)[1]),
        (T.LogOdds(2), lambda y: torch.logit(y.softmax(0)[2])),
        (T.Value(3), lambda y: y[3]),
    ],
    ids=["logit", "probability", "rest", "contrast", "negative", "negative probability", "log odds", "value"],
)
def test_of_classes(ours, theirs):
    same(ours, theirs, scores(5))


def test_binary_and_regression():
    for shape in ((), (1,)):
        same(T.Binary(), peer.BinaryClassifierOutputTarget(1), scores(*shape))
        same(T.Binary(positive=False), peer.BinaryClassifierOutputTarget(0), scores(*shape))
        same(T.Value(), peer.RawScoresOutputTarget(), scores(*shape))


def test_probabilities_of_extreme_scores_stay_finite():
    y = torch.tensor([6e4, -6e4, 0.0], dtype=torch.float16, requires_grad=True)
    for target in (T.Probability(0), T.LogOdds(0), T.ReST(1), T.Contrast(0, [1, 2])):
        assert torch.autograd.grad(target(y), y)[0].isfinite().all()


def test_segmentation():
    y, mask = scores(4, 6, 8), np.random.default_rng(0).random((6, 8)) > 0.5
    same(T.Segmentation(1, mask), peer.SemanticSegmentationTarget(1, mask.astype(np.float32)), y)
    region = y.argmax(0) == 1
    assert torch.allclose(T.Segmentation(1)(y), y[1][region].sum())
    larger = torch.from_numpy(mask).repeat_interleave(3, 0).repeat_interleave(3, 1)  # at the image's resolution
    assert torch.allclose(T.Segmentation(1, larger)(y), T.Segmentation(1, mask)(y))


def detections(count):
    rng = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, generator=rng) * 30
    found = torch.tensor(BOXES) + torch.rand(3, 4, generator=rng)
    boxes = torch.cat([found[: min(3, count)], torch.cat([corners, corners + 9], 1)[: max(0, count - 3)]])
    return {
        "boxes": boxes.requires_grad_(),
        "labels": torch.arange(count) % 2 + 1,
        "scores": torch.rand(count, generator=rng).requires_grad_(),
    }


@pytest.mark.parametrize("count", [0, 1, 7])
def test_detection(count):
    output = detections(count)
    labels = [1, 2, 2]  # the third box is found with another label
    ours = T.Detection(BOXES, labels)(output)
    theirs = peer.FasterRCNNBoxScoreTarget(labels, np.array(BOXES))(output)
    assert torch.allclose(ours, theirs) and ours.requires_grad
    assert bool(ours > 0) is (count > 0)
    assert T.Detection(BOXES[0], 1)(output).ndim == 0 and T.Detection(BOXES)(output) >= ours


def test_similarity_and_field():
    text = torch.randn(6, dtype=torch.float64)
    y = scores(6)
    same(T.Similarity(text), lambda e: F.cosine_similarity(e, text, dim=0), y)
    for output in ({"image_embeds": y, "other": None}, [None, y]):
        name = "image_embeds" if isinstance(output, dict) else 1
        assert torch.equal(T.Field(name, T.Similarity(text))(output), T.Similarity(text)(y))
    assert torch.equal(T.Field("a", 2)(OrderedDict(a=y)), y[2])


@pytest.mark.parametrize(
    ("target", "output", "error", "message"),
    [
        (T.Logit(5), torch.zeros(5), ValueError, "class from 0 to 4, got 5"),
        (T.LogOdds(0), torch.zeros(1), ValueError, "at least two classes"),
        (T.Value(9), torch.zeros(5), ValueError, "index from 0 to 4, got 9"),
        (T.Contrast(0, 5), torch.zeros(5), ValueError, "class from 0 to 4, got 5"),
        (T.Segmentation(1), torch.zeros(5), ValueError, r"scores \[classes, \*size\] of an image, got \[5\]"),
        (T.Segmentation(1, torch.ones(4)), torch.zeros(5, 2, 2), ValueError, r"mask must have the 2 dimensions"),
        (T.Detection(BOXES), torch.zeros(5), TypeError, "boxes, labels and scores of each image, got Tensor"),
        (T.Detection(BOXES), {"boxes": torch.zeros(0, 4)}, TypeError, "got a dict with boxes"),
        (T.Similarity(torch.ones(3)), torch.zeros(5), ValueError, "embedding of 5 numbers, got 3"),
        (T.Field("logit", 1), {"logits": torch.zeros(5)}, ValueError, "the field 'logit', got a dict with logits"),
    ],
    ids=str,
)
def test_what_does_not_fit(target, output, error, message):
    with pytest.raises(error, match=message):
        target(output)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: T.Probability(-1), ValueError, "Probability expects the number or name of a class, from 0 on, got -1"),
        (lambda: T.Logit(1.5), TypeError, "Logit expects the number or name of a class, got float"),
        (lambda: T.LogOdds(True), TypeError, "LogOdds expects the number or name of a class, got bool"),
        (lambda: T.ReST(None), TypeError, "ReST expects .*, got NoneType"),
        (lambda: T.Contrast(0, []), ValueError, "at least one class to compare with"),
        (lambda: T.Contrast(0, [1, 2.5]), TypeError, "Contrast expects classes to compare with, .* got float"),
        (lambda: T.Contrast(0, 1, alpha=float("nan")), ValueError, "alpha to be a finite number, got nan"),
        (lambda: T.Binary(index=-1), ValueError, "Binary expects the index of a score, from 0 on, got -1"),
        (lambda: T.Binary("yes"), TypeError, "positive to be a bool, got str"),
        (lambda: T.Value("first"), TypeError, "Value expects the index of a number, got str"),
        (lambda: T.Negative([1, 2]), TypeError, "Negative expects a class, its name or a callable, got list"),
        (lambda: T.Field(1.0, 2), TypeError, "Field expects a key, an attribute or a position, got float"),
        (lambda: T.Field("logits", None), TypeError, "Field expects a class, its name or a callable, got NoneType"),
        (lambda: T.Segmentation("cat"), TypeError, "Segmentation expects .*, got str"),
        (lambda: T.Detection(BOXES, iou_threshold=2), ValueError, "iou_threshold must be a number from 0 to 1, got 2"),
        (lambda: T.Similarity([]), ValueError, "an embedding to compare with, got none"),
        (lambda: T.Class(1, axis=0), ValueError, "the axis of the classes, such as 1 or -1"),
        (lambda: T.Class(1, over="max"), ValueError, "'best', 'sum', 'mean', an index or a tuple of indices, got 'max'"),
    ],
)  # fmt: skip
def test_arguments_are_checked_when_a_target_is_made(make, error, message):
    with pytest.raises(error, match=message) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_one_class_to_compare_with():
    y = scores(10)
    assert torch.equal(T.Contrast(4, 9)(y), T.Contrast(4, [9])(y))
    assert torch.equal(T.Contrast(4, torch.tensor([9, 2]))(y), T.Contrast(4, (9, 2))(y))


def test_boxes_and_labels_are_checked_when_given():
    with pytest.raises(ValueError, match=r"boxes must have shape \[M, 4\], x0, y0, x1, y1, got \[2, 3\]"):
        T.Detection(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="one for each of 3 boxes, got 2"):
        T.Detection(BOXES, [1, 2])


# Through models


@pytest.fixture(scope="module")
def net():
    return calibrated(SmallNet(classes=5, width=8), images(8))


class Structured(nn.Module):
    """The scores in a structure, beside an embedding of each image."""

    def __init__(self, net, form):
        super().__init__()
        self.net, self.form = net, form

    def forward(self, x):
        y = self.net(x)
        return self.form(y, y.tanh())


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    embeds: torch.Tensor


FORMS = {
    "dict": (lambda y, e: {"logits": y, "embeds": e}, "embeds"),
    "dataclass": (Output, "embeds"),
    "tuple": (lambda y, e: (y, e), 1),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", ["grad_cam", "grad_cam_plus_plus", "ablation_cam", "score_cam", "full_grad"])
def test_a_field_of_structured_outputs(net, form, method):
    make, name = FORMS[form]
    model, x = Structured(net, make), images(2)
    options = {} if method == "full_grad" else {"layers": "net.body"}
    found = getattr(camfast, method)(model, x, T.Field(name, 3), **options)
    options = {} if method == "full_grad" else {"layers": "body"}
    expected = getattr(camfast, method)(net, x, lambda y: y.tanh()[3], **options)
    torch.testing.assert_close(found.heatmap, expected.heatmap, rtol=0, atol=1e-5)
    assert found.scores.shape == (2, 5) and found.heatmap.std() > 0.05


@pytest.mark.parametrize("method", [name for name in camfast.METHODS if name != "deep_feature_factorization"])
def test_every_method_takes_or_refuses_callables(net, method):
    x = images(2)
    explain = getattr(camfast, method)
    try:
        found = explain(net, x, [[1, T.Probability(2)], [T.Negative(0), 3]])
    except (TypeError, ValueError) as error:
        assert method in ("cam", "finer_cam", "legrad"), error  # of the weights of a class, of classes, of attention
        return
    assert found.heatmap.shape[:2] == (2, 2) and found.heatmap.isfinite().all()
    assert found.label(0, 1) == "Probability(2)" and found[1].label(0, 1) == "3"
    assert found.overlay().shape[:2] == (2, 2)


def test_many_callables_equal_one_at_a_time(net):
    x = images(3)
    rows = [[T.Logit(1), T.Probability(2)], [T.Negative(4), T.LogOdds(0)], [3, lambda y: y.square().sum()]]
    for method in ("grad_cam", "layer_cam", "ablation_cam", "smooth_grad_cam_plus_plus"):
        options = {"seed": 1} if method.startswith("smooth") else {}
        together = getattr(camfast, method)(net, x, rows, **options).heatmap
        for k in range(2):
            alone = getattr(camfast, method)(net, x, [row[k] for row in rows], **options).heatmap
            torch.testing.assert_close(together[:, k], alone, rtol=0, atol=1e-5)


def test_classes_as_targets_equal_classes(net):
    x = images(3)
    assert torch.equal(camfast.grad_cam(net, x, T.Logit(2)).heatmap, camfast.grad_cam(net, x, lambda y: y[2]).heatmap)
    torch.testing.assert_close(
        camfast.grad_cam(net, x, T.Logit(2)).heatmap, camfast.grad_cam(net, x, 2).heatmap, rtol=0, atol=1e-6
    )
    opposite = camfast.grad_cam(net, x, T.Negative(2), normalize=False).heatmap
    torch.testing.assert_close(opposite, -camfast.grad_cam(net, x, 2, normalize=False).heatmap)


class Segmenter(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        out = self.head(self.body(x))
        return OrderedDict(out=F.interpolate(out, x.shape[-2:], mode="bilinear"))


def test_segmentation_equals_the_peer():
    from pytorch_grad_cam import GradCAM

    model, x = Segmenter().eval(), images(2, size=(40, 32))

    class Unwrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x)["out"]

    masks = [np.random.default_rng(i).random((40, 32)) > 0.6 for i in range(2)]
    with GradCAM(Unwrapped(), [model.body]) as cam:
        found = cam(x, [peer.SemanticSegmentationTarget(1, mask.astype(np.float32)) for mask in masks])
    ours = camfast.grad_cam(model, x, [T.Segmentation(1, mask) for mask in masks], "body")
    np.testing.assert_allclose(ours.heatmap.numpy(), found, rtol=0, atol=5 * PARITY)


@pytest.fixture(scope="module")
def detector():
    detection = pytest.importorskip("torchvision").models.detection
    torch.manual_seed(1)
    return detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, box_score_thresh=0.0, box_detections_per_img=12, min_size=96, max_size=160
    ).eval()


def test_detector(detector):
    from pytorch_grad_cam import GradCAM

    x = torch.rand(2, 3, 96, 120, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = detector(x)
    targets = [T.Detection(one["boxes"][:3], one["labels"][:3]) for one in found]
    ours = camfast.grad_cam(detector, x, targets, "backbone.body")
    assert ours.heatmap.shape == (2, 96, 120) and ours.heatmap.std() > 0.05
    assert ours.scores.shape == (2, 12) and not ours.scores.requires_grad
    theirs = [peer.FasterRCNNBoxScoreTarget(t.labels, t.boxes.numpy()) for t in targets]
    last = max((name for name, _ in detector.backbone.body.named_children()), key=int)
    with GradCAM(detector, [detector.backbone.body[last]]) as cam:
        expected = cam(x, theirs)
    with_callables = camfast.grad_cam(detector, x, theirs, f"backbone.body.{last}").heatmap  # the peer's own objects
    ours = camfast.grad_cam(detector, x, targets, f"backbone.body.{last}").heatmap
    assert expected.std() > 0.02
    np.testing.assert_allclose(ours.numpy(), expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(with_callables.numpy(), expected, rtol=0, atol=1e-4)


def test_each_detection_of_a_detector(detector):
    x = torch.rand(1, 3, 96, 120, generator=torch.Generator().manual_seed(0))
    best = camfast.grad_cam(detector, x, camfast.TopK(3), "backbone.body")
    assert torch.equal(best.targets, best.scores.topk(3, 1).indices) and best.heatmap.shape == (1, 3, 96, 120)
    with torch.no_grad():
        torch.testing.assert_close(best.scores[0], detector(x)[0]["scores"])
    detector.roi_heads.score_thresh = 1.1
    try:
        for layers in ("backbone.body", None):
            for target in (None, 0, camfast.TopK(2), T.Detection(BOXES)):
                with pytest.raises(ValueError, match="got no detection in any image; a lower score threshold"):
                    camfast.grad_cam(detector, x, target, layers)
        with pytest.raises(ValueError, match="got no detection in any image"):
            camfast.eigen_cam(detector, x)
    finally:
        detector.roi_heads.score_thresh = 0.0


class Sees(torch.nn.Module):
    """A detector of bright things: it finds one where an image's mean is above a half, and else nothing."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, images, targets=None):
        images = images if isinstance(images, torch.Tensor) else torch.stack(images)
        found = []
        for image, features in zip(images, self.body(images), strict=True):
            count = int(image.mean() > 0.5)
            boxes = torch.tensor([[4.0, 4.0, 12.0, 12.0]] * count).reshape(-1, 4) + 0 * features.sum()
            scores = features[:, 4:12, 4:12].square().mean().expand(count)
            found.append({"boxes": boxes, "labels": torch.ones(count, dtype=torch.int64), "scores": scores})
        return found


def test_a_detector_that_finds_something_in_some_images():
    net, x = Sees().eval(), torch.rand(3, 3, 16, 20)
    x[0], x[1], x[2] = x[0] * 0.3, x[1] * 0.3 + 0.7, x[2] * 0.3
    with pytest.warns(camfast.errors.DoubtWarning, match="2 of 3 heatmaps are blank"):
        result = camfast.grad_cam(net, x)
    assert result.layers == ["body"] and result.scores.shape == (3, 1)
    assert result.heatmap[1].any() and not result.heatmap[[0, 2]].any()
    assert camfast.grad_cam(net, x[1:2], layers="body").heatmap.any()
    # Copies of the image in which nothing is found count as 0.
    assert camfast.score_cam(net, x[1:2], layers="body").heatmap.isfinite().all()
    # One image in a list is an image, not an argument that lacks a dimension.
    torch.testing.assert_close(camfast.grad_cam(net, [x[1]]).heatmap, camfast.grad_cam(net, x[1:2]).heatmap)


def test_a_box_that_is_not_there_gives_a_blank_map_of_the_layer_of_those_that_are():
    net, x = Sees().eval(), torch.rand(1, 3, 16, 20) * 0.3 + 0.7
    with pytest.warns(camfast.errors.DoubtWarning, match="the heatmap is blank"):
        result = camfast.grad_cam(net, x, T.Detection([[14.0, 0.0, 19.0, 3.0]]))
    assert result.layers == ["body"] and not result.heatmap.any()


@pytest.mark.parametrize("options", [{}, {"every": 2}, {"smooth": 0.5}])
def test_frames_in_which_a_detector_finds_nothing_stay_as_they_are(options):
    from camfast.pictures.frames import draw
    from camfast.pictures.preparation import Preparation

    dark, bright = (torch.full((16, 20, 3), value, dtype=torch.uint8) for value in (30, 220))
    bright[4:9, 4:9] = 255
    preparation = Preparation(16, (16, 16), (0.0,) * 3, (1.0,) * 3)
    boxes = T.Field("scores", lambda scores: scores.sum())  # numbers of boxes mean nothing from frame to frame
    engine = camfast.Realtime(Sees().eval(), layers="body", preparation=preparation, targets=boxes, **options)
    repeats = options.get("every", 1)
    for frame, finds in [(dark, False), (bright, True), (dark, False), (dark, False), (bright, True)]:
        for _ in range(repeats):
            result = engine(frame)
        picture = result.overlay()
        assert picture.shape[-3:] == (16, 20, 3) and result.heatmap.any() == finds
        if not finds:
            cold = draw(frame[None], torch.zeros(1, 1, 1), engine.box(16, 20))[0]
            assert torch.equal(picture.reshape(-1, 16, 20, 3)[0], cold)
    assert len(engine(torch.stack([dark, bright, dark])).picture) == 3


def test_perturbation_of_a_detector(detector):
    x = torch.rand(1, 3, 96, 120, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (found,) = detector(x)
    target = T.Detection(found["boxes"][:2])
    result = camfast.score_cam(detector, x, target, "backbone.body.16", channels=4, batch_size=2)
    assert result.heatmap.shape == (1, 96, 120) and result.heatmap.isfinite().all()
