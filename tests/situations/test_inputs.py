"""Models that take something else than one batch of float images."""

from __future__ import annotations

import plain_maps
import pytest
import torch
from torch import Tensor, nn

import camfast

RAW = {"size": "map", "normalize": False}


def features(channels: int = 16) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, channels, 3, padding=1), nn.ReLU()
    )


class Clip(nn.Module):
    """T frames as the batch, one row of scores."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.fc = features(), nn.Linear(16, 3)

    def forward(self, frames: Tensor) -> Tensor:
        return self.fc(self.net(frames).mean((2, 3)).mean(0, keepdim=True))


class Bag(nn.Module):
    """Patches ``[N, K, C, H, W]``, weighed by attention."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.att, self.fc = features(), nn.Linear(16, 1), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.net(x.flatten(0, 1)).mean((2, 3)).view(*x.shape[:2], -1)
        return self.fc((self.att(rows).softmax(1) * rows).sum(1))


@pytest.mark.parametrize("layer", [None, "net"])
def test_one_score_for_all_frames(layer):
    net, frames = Clip().eval(), torch.randn(6, 3, 32, 32)
    result = camfast.grad_cam(net, frames, layers=layer, targets=1, **RAW)
    wanted = plain_maps.grad_cam(net, result.layers[0], [frames], lambda y: y[0, 1])
    plain_maps.assert_map(result.heatmap.reshape(wanted.shape), wanted)


@pytest.mark.parametrize("targets", [1, None])
def test_one_score_for_all_frames_beside_the_peer(targets):
    peer = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget as Target

    import camfast.compat.pytorch_grad_cam as ours

    net, frames = Clip().eval(), torch.randn(6, 3, 32, 32)
    found, wanted = (
        torch.from_numpy(package.GradCAM(net, [net.net])(frames, None if targets is None else [Target(targets)]))
        for package in (ours, peer)
    )
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("layer", [None, "net"])
def test_a_bag_of_patches(layer):
    net, x = Bag().eval(), torch.randn(2, 6, 3, 32, 32)
    result = camfast.grad_cam(net, x, layers=layer, targets=1, **RAW)
    wanted = plain_maps.grad_cam(net, result.layers[0], [x], lambda y: y[:, 1].sum())
    plain_maps.assert_map(result.heatmap.reshape(wanted.shape), wanted)


def test_a_bag_by_the_reshape_that_messages_ask_for():
    net, x = Bag().eval(), torch.randn(2, 6, 3, 32, 32)
    wanted = plain_maps.calls(net, "net", [x], lambda y: y[:, 1].sum())[0]
    A, G = (t.unflatten(0, (-1, 6)).transpose(1, 2) for t in wanted)  # [N, C, 6, h, w]
    explainer = camfast.GradCAM(net, layers="net", reshape=lambda t: t.unflatten(0, (-1, 6)).transpose(1, 2))
    found = explainer(x, targets=1, **RAW).heatmap
    plain_maps.assert_map(found, (G.mean((2, 3, 4), keepdim=True) * A).sum(1))
    assert explainer(x, targets=1).heatmap.shape == (2, 6, 32, 32)


@pytest.mark.parametrize("method", ["grad_cam", "layer_cam", "score_cam", "is_cam", "recipro_cam", "ablation_cam"])
def test_as_many_prompts_as_images(method):
    """Prompts belong to classes: two images at once, and one after the other, give the same."""
    transformers = pytest.importorskip("transformers")
    text = dict(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=50,
        max_position_embeddings=12, eos_token_id=49, bos_token_id=1,
    )  # fmt: skip
    vision = dict(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    net = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    ).eval()
    pixels, ids = torch.randn(2, 3, 32, 32), torch.randint(2, 49, (2, 6))
    ids[:, -1] = 49

    def heat(images: Tensor) -> Tensor:
        inputs = {"pixel_values": images, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        explainer = camfast.METHODS[method](net, layers="vision_model.encoder.layers.0")
        return explainer(inputs, targets=1, **RAW).heatmap

    alone = torch.cat([heat(pixels[i : i + 1]) for i in range(2)])
    assert alone.isfinite().all()
    torch.testing.assert_close(heat(pixels), alone, rtol=1e-3, atol=1e-4 * float(alone.abs().max()))


class OfBytes(nn.Module):
    """Takes uint8 and scales inside."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.fc = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.c(x.float() / 255).mean((2, 3)))


@pytest.fixture
def of_bytes() -> tuple[nn.Module, Tensor]:
    return OfBytes().eval(), torch.randint(0, 255, (2, 3, 16, 16), dtype=torch.uint8)


@pytest.mark.parametrize("layer", [None, "c"])
def test_a_model_of_bytes(of_bytes, layer):
    net, x = of_bytes
    result = camfast.grad_cam(net, x, layers=layer, targets=1, **RAW)
    wanted = plain_maps.grad_cam(net, result.layers[0], [x], lambda y: y[:, 1].sum())
    plain_maps.assert_map(result.heatmap, wanted)


def test_a_model_of_bytes_beside_the_peers(of_bytes):
    peer = pytest.importorskip("pytorch_grad_cam")
    captum = pytest.importorskip("captum.attr")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget as Target

    import camfast.compat.pytorch_grad_cam as ours
    from camfast.compat.captum.attr import LayerGradCam

    net, x = of_bytes
    found, wanted = (torch.from_numpy(p.GradCAM(net, [net.c])(x, [Target(1)] * 2)) for p in (ours, peer))
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6)
    found, wanted = (kind(net, net.c).attribute(x, target=1) for kind in (LayerGradCam, captum.LayerGradCam))
    torch.testing.assert_close(found, wanted)


class OneDict(nn.Module):
    """Volumes of two modalities, in one dict."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv3d(1, 8, 3, padding=1), nn.Conv3d(1, 8, 3, padding=1)
        self.fc = nn.Linear(16, 3)

    def forward(self, volumes: dict[str, Tensor]) -> Tensor:
        rows = [self.a(volumes["mri"]).relu().mean((2, 3, 4)), self.b(volumes["ct"]).relu().mean((2, 3, 4))]
        return self.fc(torch.cat(rows, 1))


@pytest.mark.parametrize("layer, key", [("a", "mri"), ("b", "ct")])
@pytest.mark.parametrize("form", ["(dict,)", "dict"])
def test_one_dict(form, layer, key):
    """``(dict,)`` is ``model(dict)``. The bare dict means keywords; a model that takes none is called with it, or one
    sentence says so: the script wants one of the two forms to work."""
    net = OneDict().eval()
    volumes = {"mri": torch.randn(1, 1, 8, 8, 8), "ct": torch.randn(1, 1, 8, 8, 8)}
    try:
        result = camfast.grad_cam(net, (volumes,) if form == "(dict,)" else volumes, layers=layer, targets=1, **RAW)
    except (TypeError, ValueError) as error:
        assert form == "dict" and "\n" not in str(error) and "(" in str(error), error
        return
    plain_maps.assert_map(result.heatmap, plain_maps.grad_cam(net, layer, [volumes], lambda y: y[:, 1].sum()))
    assert result.images is volumes[key]


def test_the_image_drawn_is_the_one_that_the_layer_sees():
    class Keywords(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = OneDict()

        def forward(self, mri: Tensor, ct: Tensor) -> Tensor:
            return self.net({"mri": mri, "ct": ct})

    volumes = {"mri": torch.randn(1, 1, 8, 8, 8), "ct": torch.randn(1, 1, 8, 8, 8)}
    result = camfast.grad_cam(Keywords().eval(), volumes, layers="net.b", targets=1)
    assert result.images is volumes["ct"]


@pytest.mark.parametrize("form", ["[a, b]", "([a, b],)", "[a]"])
def test_a_detector_takes_its_own_list_of_images(form):
    """Of different sizes; each heatmap is of the size of its image, or of the largest one."""
    detection = pytest.importorskip("torchvision.models.detection")
    torch.manual_seed(0)
    net = detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, min_size=96, max_size=128, box_score_thresh=0.0, box_detections_per_img=5
    ).eval()
    a, b = torch.rand(3, 96, 128), torch.rand(3, 80, 64)
    images = {"[a, b]": [a, b], "([a, b],)": ([a, b],), "[a]": [a]}[form]
    heat = camfast.grad_cam(net, images).heatmap
    assert len(heat) == (1 if form == "[a]" else 2)
    assert all(bool(torch.isfinite(own).all()) and bool(own.any()) for own in heat)
    if form == "[a]":
        torch.testing.assert_close(heat[0], camfast.grad_cam(net, a[None]).heatmap[0])
