"""Layers by name, by module, or found; token layouts back to a grid."""

from __future__ import annotations

import contextlib
import copy

import models
import pytest
import torch
from models import SmallNet, images
from torch import nn

import camfast
from camfast.model import find_layer
from camfast.model.find_layer import find_layers
from camfast.model.inputs import Inputs
from camfast.model.layers import resolve
from camfast.model.layouts import layout_of

IMAGES = images(2)


def found(model: nn.Module, x: torch.Tensor = IMAGES) -> str:
    (name,) = find_layers(model.eval(), Inputs.of(x))
    return name


# Names and modules


def test_names_and_modules_in_the_order_asked_for():
    model = SmallNet()
    assert resolve(model, "body") == (["body"], [model.body])
    assert resolve(model, model.stem[0]) == (["stem.0"], [model.stem[0]])
    assert resolve(model, ["body", model.stem, "stem.1"])[0] == ["body", "stem", "stem.1"]
    assert resolve(model, (model.body,))[1] == [model.body]


def test_unknown_names_give_the_closest():
    with pytest.raises(ValueError, match=r"expected a layer of the model, got 'bdoy'; close to it: 'body'"):
        resolve(SmallNet(), "bdoy")
    with pytest.raises(ValueError, match=r"got 'stem\.9'; close to it: .*'stem\.0'"):
        camfast.GradCAM(SmallNet(), ["body", "stem.9"])
    with pytest.raises(ValueError, match=r"there are 'stem', 'body', 'dropout', 'fc', 'stem.0', "):
        resolve(SmallNet(), "qqqqqq")


def test_what_is_no_layer():
    with pytest.raises(ValueError, match="must belong to the model, got a Conv2d that does not"):
        resolve(SmallNet(), nn.Conv2d(3, 3, 1))
    with pytest.raises(TypeError, match="a layer must be a name or a module, got int"):
        resolve(SmallNet(), [3])
    with pytest.raises(ValueError, match="at least one layer, got none"):
        resolve(SmallNet(), [])


def test_names_with_and_without_wrappers():
    model = SmallNet().eval()
    expected = camfast.grad_cam(model, IMAGES, 1, "body.2").heatmap
    partly = copy.deepcopy(model)
    partly.body = torch.compile(partly.body, backend="eager")
    for wrapped, name in [
        (torch.compile(model, backend="eager"), "_orig_mod.body.2"),
        (torch.compile(model, backend="eager"), "body.2"),
        (nn.DataParallel(model), "module.body.2"),
        (nn.DataParallel(model), "body.2"),
        (partly, "body.2"),
        (partly, "body._orig_mod.2"),
    ]:
        torch.testing.assert_close(camfast.grad_cam(wrapped, IMAGES, 1, name).heatmap, expected)


# The layer that is found


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (SmallNet, "body"),
        (models.DeepHead, "body"),
        (models.InPlaceAfter, "body"),
        (models.Twice, "body"),
        (models.FrozenTrunk, "body"),
        (models.NoGradForward, "body"),
        (models.Segmenter, "body"),
        (models.TokenNet, "blocks.1.norm1"),
        (lambda: models.TokenNet(prefix=0), "norm"),
        (lambda: models.TokenNet(prefix=5), "blocks.1.norm1"),
        (models.ChannelsLastNet, "norm"),
        (lambda: models.Packed("tuple"), "body"),
        (lambda: models.Output("dict"), "body"),
    ],
)
def test_small_networks(make, expected):
    assert found(make()) == expected


@pytest.mark.parametrize(("rank", "size"), [(1, (40,)), (3, (6, 8, 10))])
def test_sequences_and_volumes(rank, size):
    assert found(SmallNet(rank=rank), images(1, size=size)) == "body"


class Tail(SmallNet):
    """A convolution, and ``tail`` between its map and the pooling."""

    def __init__(self, tail: nn.Module) -> None:
        super().__init__()
        self.body = nn.Conv2d(8, 16, 3, padding=1)
        self.tail = tail

    def head(self, features):
        return super().head(self.tail(features))


@pytest.mark.parametrize(
    "tail", [nn.Identity(), nn.Dropout(), nn.Dropout2d(), nn.AdaptiveAvgPool2d(4), nn.Sequential()]
)
def test_tails_without_features_are_passed_over(tail):
    assert found(Tail(tail)) == "body"


@pytest.mark.parametrize("tail", [nn.ReLU(inplace=True), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.AvgPool2d(2)])
def test_tails_that_change_the_features_are_taken(tail):
    assert found(Tail(tail)) == "tail"


def test_class_maps_are_no_features():
    class ConvolutionalHead(SmallNet):
        def __init__(self):
            super().__init__(classes=5)
            self.classifier = nn.Sequential(nn.Conv2d(16, 5, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1))

        def head(self, features):
            return self.classifier(features).flatten(1)

    assert found(ConvolutionalHead()) == "body"
    # As many channels as classes by accident: a linear layer follows, so they are features.
    assert found(Tail(nn.Conv2d(16, 16, 1)), IMAGES) == "tail"
    accident = SmallNet(classes=16)
    assert found(accident) == "body"


def test_an_image_too_small_for_the_last_map_takes_an_earlier_one():
    assert found(SmallNet(), images(1, size=(2, 2))) == "stem"


def test_a_network_without_a_map():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 20, 5))
    with pytest.raises(ValueError, match="expected a layer with a spatial map, got none in Sequential"):
        found(model)


def test_a_head_of_zeros_still_gives_the_last_layer():
    model = SmallNet()
    nn.init.zeros_(model.fc.weight)
    assert found(model) == "body"


def test_the_search_is_done_once(monkeypatch):
    model = SmallNet().eval()
    calls = []
    search = find_layer._search
    monkeypatch.setattr(find_layer, "_search", lambda *args: calls.append(1) or search(*args))
    explainer = camfast.GradCAM(model)
    assert explainer.layers == []
    explainer(IMAGES)
    explainer(IMAGES)
    camfast.grad_cam(model, IMAGES)
    assert explainer.layers == ["body"] and len(calls) == 1
    model.body = nn.Conv2d(8, 16, 1)  # another module: what was found before is gone
    assert camfast.grad_cam(model, IMAGES).layers == ["body"] and len(calls) == 2


_INITIALISERS = ("kaiming_normal_", "kaiming_uniform_", "normal_", "trunc_normal_", "uniform_", "xavier_uniform_")


@contextlib.contextmanager
def cheap_weights(monkeypatch):
    """Networks of the zoo without their slow initialisation: 100 million values of VGG take seconds."""
    with monkeypatch.context() as patch:
        for name in _INITIALISERS:
            patch.setattr(nn.init, name, lambda tensor, *args, **kwargs: tensor.data.fill_(0.01))
        yield


def shaken(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        if parameter.ndim > 1:
            fan_in = parameter[0].numel()
            parameter.data.uniform_(-1, 1).mul_((3 / fan_in) ** 0.5)
    return model.eval()


TORCHVISION = {
    "alexnet": (96, "features"),
    "convnext_tiny": (64, "features"),
    "densenet121": (64, "features"),
    "efficientnet_b0": (64, "features"),
    "efficientnet_v2_s": (64, "features"),
    "googlenet": (64, "inception5b"),
    "inception_v3": (128, "Mixed_7c"),
    "mnasnet0_5": (64, "layers"),
    "mobilenet_v2": (64, "features"),
    "mobilenet_v3_small": (64, "features"),
    "regnet_y_400mf": (64, "trunk_output"),
    "resnet18": (64, "layer4"),
    "resnext50_32x4d": (64, "layer4"),
    "shufflenet_v2_x0_5": (64, "conv5"),
    "squeezenet1_1": (64, "features"),
    "vgg11_bn": (64, "features"),
    "wide_resnet50_2": (64, "layer4"),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name, monkeypatch):
    torchvision = pytest.importorskip("torchvision")
    size, expected = TORCHVISION[name]
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with cheap_weights(monkeypatch):
        model = shaken(torchvision.models.get_model(name, weights=None, **options))
    assert found(model, images(1, size=(size, size))) == expected


def test_torchvision_transformers():
    vision = pytest.importorskip("torchvision").models
    vit = vision.VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=9
    )
    assert found(shaken(vit), images(1, size=(32, 32))) == "encoder.layers.encoder_layer_2.ln_1"
    swin_v1 = {"block": vision.swin_transformer.SwinTransformerBlock}
    swin_v2 = {
        "block": vision.swin_transformer.SwinTransformerBlockV2,
        "downsample_layer": vision.swin_transformer.PatchMergingV2,
    }
    for version in (swin_v1, swin_v2):
        swin = vision.SwinTransformer([4, 4], 8, [1, 1], [2, 2], window_size=[4, 4], num_classes=9, **version)
        assert found(shaken(swin), images(1, size=(32, 32))) == "permute"  # of the last norm: [N, C, h, w]
    maxvit = vision.MaxVit((64, 64), 8, 2, block_channels=[8, 16], block_layers=[1, 1], head_dim=4,
                           stochastic_depth_prob=0.0, num_classes=9)  # fmt: skip
    assert found(shaken(maxvit), images(1, size=(64, 64))) == "blocks.1"


def test_torchvision_segmentation():
    vision = pytest.importorskip("torchvision").models
    model = vision.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    x = images(1, size=(64, 64))
    name = found(shaken(model), x)
    result = camfast.grad_cam(model, x, 2)
    assert result.layers == [name] and name.startswith(("backbone", "classifier.cbr"))
    assert result.heatmap.shape == (1, 64, 64) and result.scores.shape == (1, 4, 64, 64)


TIMM = {
    "convnext_atto": (64, "stages"),
    "deit_tiny_distilled_patch16_224": ({"img_size": 64, "depth": 3}, "blocks.2.norm1"),
    "densenet121": (64, "features"),
    "efficientnet_b0": (64, "bn2"),
    "eva02_tiny_patch14_224": ({"img_size": 56, "depth": 3}, "blocks.2"),  # scores from the mean of the tokens
    "inception_v3": (128, "Mixed_7c"),
    "maxvit_rmlp_pico_rw_256": ({"img_size": 64}, "norm"),
    "mixer_s16_224": ({"img_size": 64}, "norm"),
    "mobilenetv2_050": (64, "bn2"),
    "mobilenetv3_small_050": (64, "blocks"),
    "pvt_v2_b0": (64, "stages"),
    "regnety_002": (64, "s4"),
    "resnet18": (64, "layer4"),
    "semnasnet_075": (64, "bn2"),
    "swin_tiny_patch4_window7_224": ({"img_size": 64, "window_size": 2, "depths": (1, 1, 1, 1)}, "norm"),
    "vgg11_bn": (64, "features"),
    "vit_small_patch14_reg4_dinov2": ({"img_size": 56, "depth": 3}, "blocks.2.norm1"),
    "vit_tiny_patch16_224": ({"img_size": 64, "depth": 3}, "blocks.2.norm1"),
}


@pytest.mark.parametrize("name", TIMM)
def test_timm(name, monkeypatch):
    timm = pytest.importorskip("timm")
    options, expected = TIMM[name]
    size = options if isinstance(options, int) else options["img_size"]
    with cheap_weights(monkeypatch):
        model = timm.create_model(
            name, pretrained=False, num_classes=11, **({} if isinstance(options, int) else options)
        )
    x = images(1, size=(size, size))
    assert found(shaken(model), x) == expected
    assert camfast.layer_cam(model, x, normalize=False).heatmap.any()


# Layouts


def test_grids_of_tokens():
    net = models.TokenNet(patch=4)
    for shape, image, expected in [
        ((2, 20, 16), (2, 3, 16, 20), ("tokens", (4, 5), 0)),
        ((2, 21, 16), (2, 3, 16, 20), ("tokens", (4, 5), 1)),
        ((2, 25, 16), (2, 3, 16, 20), ("tokens", (4, 5), 5)),
        ((21, 2, 16), (2, 3, 16, 20), ("tokens_batch_second", (4, 5), 1)),
        ((2, 24, 16), (2, 3, 24, 64), ("tokens", (3, 8), 0)),  # merged 2 x 2 after the embedding
        ((2, 4, 5, 16), (2, 3, 16, 20), ("channels_last", (4, 5), 0)),
        ((2, 16, 4, 5), (2, 3, 16, 20), ("channels_first", (4, 5), 0)),
        ((2, 7, 7, 7), (2, 3, 28, 28), ("channels_first", (7, 7), 0)),
        ((2, 8, 2, 3, 4), (2, 1, 8, 12, 16), ("channels_first", (2, 3, 4), 0)),
        ((2, 2, 3, 4, 8), (2, 1, 8, 12, 16), ("channels_last", (2, 3, 4), 0)),
    ]:
        layout = layout_of(shape, image, net)
        assert layout is not None and (layout.kind, layout.map, layout.prefix) == expected, (shape, image)
    layout = layout_of((2, 16, 40), (2, 3, 80), nn.Conv1d(3, 16, 3))
    assert layout is not None and (layout.kind, layout.map) == ("channels_first", (40,))
    assert layout_of((2, 16, 40), (2, 3, 80), net) is None  # patches of a spectrogram


def test_grids_without_a_patch_embedding():
    net = nn.Linear(3, 3)
    for count, image, expected in [
        (197, (224, 224), ((14, 14), 1)),
        (196, (224, 224), ((14, 14), 0)),
        (201, (224, 224), ((14, 14), 5)),
        (14 * 28 + 1, (224, 448), ((14, 28), 1)),
        (28 * 14, (448, 224), ((28, 14), 0)),
    ]:
        layout = layout_of((1, count, 8), (1, 3, *image), net)
        assert layout is not None and (layout.map, layout.prefix) == expected
    assert layout_of((1, 62, 8), (1, 3, 224, 224), net) is None
    with pytest.raises(ValueError, match="9 tokens fit several grids, 3x3 or 2x2: pass reshape="):
        layout_of((1, 9, 8), (1, 3, 224, 224), net)


def test_other_batches_have_no_layout():
    net = models.TokenNet()
    assert layout_of((8, 5, 16), (2, 3, 16, 20), net) is None  # windows, not images
    assert layout_of((8, 16, 4, 5), (2, 3, 16, 20), net) is None
    assert layout_of((2, 5), (2, 3, 16, 20), net) is None


@pytest.mark.parametrize(
    ("shape", "image", "expected"),
    [
        ((2, 21, 6), (2, 3, 16, 20), lambda t: t[:, 1:].reshape(2, 4, 5, 6).permute(0, 3, 1, 2)),
        ((21, 2, 6), (2, 3, 16, 20), lambda t: t[1:].reshape(4, 5, 2, 6).permute(2, 3, 0, 1)),
        ((2, 4, 5, 6), (2, 3, 16, 20), lambda t: t.permute(0, 3, 1, 2)),
        ((2, 6, 4, 5), (2, 3, 16, 20), lambda t: t),
    ],
)
def test_views(shape, image, expected):
    layout = layout_of(shape, image, models.TokenNet(patch=4))
    tensor = torch.randn(shape)
    view = layout.view(tensor)
    assert torch.equal(view, expected(tensor))
    assert view.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
    many = torch.randn(3, *shape)
    assert torch.equal(layout.view(many), torch.stack([expected(t) for t in many]))


def test_reshape_of_ones_own():
    model = models.TokenNet().eval()
    automatic = camfast.GradCAM(model, "blocks.0")

    def grid(tokens):
        return tokens[:, 1:].unflatten(1, (4, 5)).permute(0, 3, 1, 2)

    by_hand = camfast.GradCAM(model, "blocks.0", reshape=grid)
    for targets in (1, camfast.TopK(3)):
        torch.testing.assert_close(by_hand(IMAGES, targets).heatmap, automatic(IMAGES, targets).heatmap)


def test_reshape_that_gives_no_map():
    with pytest.raises(ValueError, match=r"reshape must turn \[2, 21, 16\] into \[N, C, \*map\], got \[2, 16\]"):
        camfast.grad_cam(models.TokenNet(), IMAGES, 1, "blocks.0", reshape=lambda tokens: tokens.mean(1))
    with pytest.raises(TypeError, match="reshape must be a callable"):
        camfast.GradCAM(models.TokenNet(), reshape=3)


class Halves(SmallNet):
    """A layer that treats half the channels as images of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.halves = nn.Conv2d(8, 8, 1)

    def head(self, features):
        halves = self.halves(features.unflatten(1, (2, 8)).flatten(0, 1))
        return super().head(halves.unflatten(0, (-1, 2)).flatten(1, 2))


def test_layer_whose_output_is_no_map():
    with pytest.raises(ValueError, match=r"layer 'halves' must give \[N, C, \*map\] or tokens.* got \[4, 8, 8, 10\]"):
        camfast.grad_cam(Halves(), IMAGES, 1, "halves")
    assert found(Halves()) == "body"


class Partly(nn.Module):
    """A convolution, and behind it something that has no gradient or no hooks."""

    def __init__(self, rest):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)
        self.rest = rest

    def forward(self, x):
        return self.rest(self.stem(x))


class Rounded(nn.Module):
    def forward(self, x):
        return (x.mean((2, 3)).detach() * 16).round()


def test_a_head_without_gradients():
    model, x = Partly(Rounded()), torch.randn(2, 3, 16, 16)
    with pytest.raises(ValueError, match="through differentiable operations, got none: what follows 'stem'"):
        camfast.grad_cam(model, x)
    result = camfast.eigen_cam(model, x)
    assert result.layers == ["stem"] and result.heatmap.std() > 0.05


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_part_compiled_by_torchscript():
    rest = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model, x = Partly(torch.jit.trace(rest.eval(), torch.randn(1, 4, 8, 8))), torch.randn(2, 3, 16, 16)
    expected = camfast.grad_cam(Partly(rest).requires_grad_(False), x, 1, "stem")
    model.stem = nn.Conv2d(3, 4, 3, 2, 1)
    result = camfast.grad_cam(model, x, 1)
    assert result.layers == ["stem"] and result.heatmap.shape == expected.heatmap.shape
    assert camfast.ablation_cam(model, x, 1).heatmap.isfinite().all()
    assert list(camfast.FeatureMaps(model)(x)) == ["stem"]
    with pytest.raises(ValueError, match=r"a layer must run in Python, got 'rest.1', which TorchScript compiled"):
        camfast.GradCAM(model, "rest.1")


def test_a_model_of_one_batch_size():
    class Fixed(Partly):
        def forward(self, x):
            if len(x) != 2:
                raise RuntimeError("exported for two images")
            return super().forward(x)

    model = Fixed(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    assert camfast.grad_cam(model, torch.randn(2, 3, 16, 16)).layers == ["stem"]
    with pytest.raises(RuntimeError, match="exported for two images"):
        camfast.grad_cam(model, torch.randn(3, 3, 16, 16))
