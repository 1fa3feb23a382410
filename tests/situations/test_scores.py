"""What a class number or a name means, by the kind of scores a model returns."""

from __future__ import annotations

import plain_maps
import pytest
import torch
from torch import Tensor, nn

import camfast
from camfast.targets import Field

RAW = {"size": "map", "normalize": False}
LAYER = "model.encoder"
NAMES = ["person", "dog", "cat", "car", "bus", "no object"]
QUERIES = 7


@pytest.fixture(scope="module")
def detr() -> nn.Module:
    """Scores ``[N, 7 queries, 5 classes and "no object"]``."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic", out_features=["stage4"]
    )
    config = transformers.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone_config=backbone, backbone=None,
        num_queries=QUERIES, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_labels=5,
    )  # fmt: skip
    return transformers.DetrForObjectDetection(config).eval()


@pytest.fixture(scope="module")
def photo() -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(1, 3, 128, 96, generator=torch.Generator().manual_seed(0))}


def heat(detr: nn.Module, photo: dict[str, Tensor], target: object) -> camfast.Explanation:
    return camfast.GradCAM(detr, layers=LAYER, class_names=NAMES)(photo, targets=target, **RAW)


@pytest.mark.parametrize("target", [2, "cat", [2], Field("logits", 2)], ids=["number", "name", "list", "field"])
def test_a_class_of_queries_is_never_a_query(detr, photo, target):
    """Class 2 over the queries: their mean, best or sum. Not query 2, averaged over the classes."""
    try:
        found = heat(detr, photo, target).heatmap
    except (ValueError, TypeError) as error:  # one sentence that offers a reduction is right as well
        assert "\n" not in str(error)
        return
    reductions = [lambda s: s[:, 2].mean(), lambda s: s[:, 2].amax(), lambda s: s[:, 2].sum()]
    wanted = [heat(detr, photo, reduction).heatmap for reduction in reductions]
    assert any((found - w).abs().max() < 1e-4 * w.abs().max() for w in wanted)


def test_a_class_that_is_only_a_query_is_refused(detr, photo):
    """There is a query 6; the classes end at 5."""
    with pytest.raises(ValueError, match="class"):
        heat(detr, photo, QUERIES - 1)


@pytest.mark.parametrize("target", [None, "cat", 2])
def test_labels_are_names_of_classes(detr, photo, target):
    try:
        result = heat(detr, photo, target)
    except (ValueError, TypeError) as error:
        assert "\n" not in str(error)
        return
    assert result.label(0) in ([NAMES[2]] if target is not None else NAMES)


class Own:
    """Scores in an object of a model's own class."""

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores


class ReturnsOwn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Own:
        return Own(self.fc(self.c(x).mean((2, 3))))


@pytest.mark.parametrize("layer", [None, "c"])
def test_the_only_tensor_of_an_object_is_the_scores(layer):
    net, x = ReturnsOwn().eval(), torch.randn(2, 3, 16, 16)
    result = camfast.grad_cam(net, x, layers=layer, targets=1, **RAW)
    wanted = plain_maps.grad_cam(net, result.layers[0], [x], lambda out: out.scores[:, 1].sum())
    plain_maps.assert_map(result.heatmap, wanted)


class ReturnsSeveral(ReturnsOwn):
    def forward(self, x: Tensor) -> Own:
        own = super().forward(x)
        own.ages = own.scores.square()
        return own


@pytest.mark.parametrize("layer", [None, "c"])
def test_an_object_of_several_tensors_is_named_in_the_message(layer):
    net, x = ReturnsSeveral().eval(), torch.randn(1, 3, 16, 16)
    with pytest.raises((TypeError, ValueError), match=r"\bOwn with scores, ages\b"):
        camfast.grad_cam(net, x, layers=layer)
    result = camfast.grad_cam(net, x, layers=layer, targets=Field("ages", 2), **RAW)
    wanted = plain_maps.grad_cam(net, result.layers[0], [x], lambda out: out.ages[:, 2].sum())
    plain_maps.assert_map(result.heatmap, wanted)


@pytest.mark.parametrize("layer", [None, "c"])
def test_a_field_of_an_object_is_honoured(layer):
    """The script was content with a message that names the class; an explicit Field is always honoured, so here is its map."""
    net, x = ReturnsOwn().eval(), torch.randn(1, 3, 16, 16)
    result = camfast.grad_cam(net, x, layers=layer, targets=Field("scores", 1), **RAW)
    wanted = plain_maps.grad_cam(net, result.layers[0], [x], lambda out: out.scores[:, 1].sum())
    plain_maps.assert_map(result.heatmap, wanted)
