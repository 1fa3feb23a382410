"""camfast.compat.torchcam beside torchcam: the same script on both, by the name of the package only."""

from __future__ import annotations

import importlib
import inspect

import pytest
import torch
import torchvision
from interpreter import run_python
from torch import nn

pytest.importorskip("torchcam")
OURS, PEER = "camfast.compat.torchcam", "torchcam"
GRADIENTS = ["GradCAM", "GradCAMpp", "SmoothGradCAMpp", "XGradCAM", "LayerCAM", "FinerCAM"]


@pytest.fixture(autouse=True)
def as_the_peer(monkeypatch):
    monkeypatch.setattr(importlib.import_module(OURS), "strict", True)


def resnet():
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=10).eval()


def net3d():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(1, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 4)
    ).eval()


def both(script):
    """What ``script(methods)`` gives with each package; the largest distance must be of rounding."""
    found = []
    for package in (PEER, OURS):
        torch.manual_seed(5)
        found.append(script(importlib.import_module(package + ".methods")))
    for theirs, ours in zip(*found, strict=True):
        assert theirs.shape == ours.shape and theirs.dtype == ours.dtype
        assert theirs.abs().max() > 1e-3  # a map, not zeros; small where the epsilon outweighs a raw map
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=0)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", [*GRADIENTS, "RefineCAM"])
def test_gradient_methods(name, batch):
    model, x = resnet(), torch.randn(batch, 3, 64, 64)

    def script(methods):
        with getattr(methods, name)(model, ["layer2", "layer3"]) as extractor:
            scores = model(x)
            cams = extractor(4 if batch == 1 else [4, 0, 9], scores)
            return [*cams, extractor.fuse_cams(cams)]

    both(script)


@pytest.mark.parametrize(
    "arch, layer", [("mobilenet_v3_small", "features.11"), ("vgg11", "features"), ("densenet121", None)]
)
@pytest.mark.parametrize("name", ["GradCAM", "LayerCAM", "XGradCAM"])
def test_architectures(arch, layer, name):
    torch.manual_seed(0)
    model, x = torchvision.models.get_model(arch, num_classes=10).eval(), torch.randn(2, 3, 64, 64)

    def script(methods):
        with getattr(methods, name)(model, layer, input_shape=(3, 64, 64)) as extractor:
            return extractor(4, model(x))

    both(script)


def test_cam_needs_no_scores():
    model, x = resnet(), torch.randn(2, 3, 64, 64)

    def script(methods):
        with methods.CAM(model, "layer4", model.fc) as extractor, torch.inference_mode():
            model(x)
            return extractor([1, 2])

    both(script)


@pytest.mark.parametrize(
    "name, options", [("ScoreCAM", {}), ("SSCAM", {"num_samples": 2}), ("ISCAM", {"num_samples": 2})]
)
def test_scores_of_masked_inputs(name, options):
    model, x = resnet(), torch.randn(2, 3, 32, 32)

    def script(methods):
        with getattr(methods, name)(model, "layer1", batch_size=16, **options) as extractor, torch.no_grad():
            model(x)
            return extractor([3, 5])

    both(script)


def test_volumes_and_targets():
    model, x = net3d(), torch.randn(2, 1, 5, 6, 7)

    def script(methods):
        with methods.GradCAM(model, "1") as extractor:
            return extractor(scores=model(x), targets=[lambda scores: scores[1], lambda scores: scores[0] - scores[2]])

    both(script)


def test_legrad():
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=32, mlp_dim=64
    ).eval()
    nn.init.normal_(model.heads.head.weight)
    x = torch.randn(2, 3, 32, 32)

    def script(methods):
        with methods.LeGrad(model, ["encoder.layers.encoder_layer_1", "encoder.layers.encoder_layer_2"]) as extractor:
            model(x)
            return extractor([3, 4])

    both(script)


def test_reshape_transform():
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64
    ).eval()
    nn.init.normal_(model.heads.head.weight)
    x = torch.randn(2, 3, 32, 32)

    def script(methods):
        to_map = lambda tokens: tokens[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)  # noqa: E731
        layer = model.encoder.layers.encoder_layer_1.ln_1
        with methods.GradCAM(model, layer, reshape_transform=to_map) as extractor:
            return extractor(7, model(x))

    both(script)


def test_the_corrected_number_is_the_default(monkeypatch):
    ours = importlib.import_module(OURS)
    model, x = resnet(), torch.randn(1, 3, 64, 64)

    def weights():
        with ours.methods.GradCAMpp(model, "layer2") as extractor:
            scores = model(x)
            found = extractor._get_weights(1, scores)[0]
            return found, extractor.hook_a[0].flatten(2), extractor.hook_g[0].flatten(2)

    strict = weights()[0]
    monkeypatch.setattr(ours, "strict", None)
    W, A, G = weights()
    assert not torch.allclose(W, strict, rtol=0.1)
    alpha = torch.where(G != 0, G**2 / (2 * G**2 + A.sum(-1, keepdim=True) * G**3 + 1e-8), 0)
    torch.testing.assert_close(W, (alpha * G.clamp(min=0)).sum(-1))
    monkeypatch.setenv("CAMFAST_COMPAT_STRICT", "1")
    torch.testing.assert_close(weights()[0], strict)


def inplace_net(inplace):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=inplace), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    ).eval()


@pytest.mark.parametrize(
    "name", ["GradCAM", "GradCAMpp", "SmoothGradCAMpp", "XGradCAM", "LayerCAM", "ScoreCAM", "SSCAM", "ISCAM", "CAM"]
)
def test_an_operation_in_place_after_the_layer(name, monkeypatch):
    model, x = inplace_net(True), torch.rand(2, 3, 9, 8)
    options = {"num_samples": 2} if name in ("SSCAM", "ISCAM") else {}

    def script(methods, model=model):
        with getattr(methods, name)(model, "0", **options) as extractor:
            return extractor([1, 2], model(x))

    both(script)  # strict: the map of what the operation leaves
    ours = importlib.import_module(OURS)
    monkeypatch.setattr(ours, "strict", False)
    if name != "CAM":  # whose weights are for what the operation leaves
        found = []
        for inplace in (True, False):
            torch.manual_seed(5)
            found.append(script(ours.methods, inplace_net(inplace))[0])
        torch.testing.assert_close(*found)


def test_frozen_networks_are_explained():
    """torchcam needs an input that requires a gradient here."""
    methods, x = importlib.import_module(OURS + ".methods"), torch.randn(2, 3, 64, 64)
    maps = []
    for frozen in (False, True):
        model = resnet().requires_grad_(not frozen)
        with methods.GradCAM(model, ["layer2", "layer4"]) as extractor:
            maps.append(extractor([1, 2], model(x)))
        with methods.LayerCAM(model, "conv1") as extractor:
            maps[-1] += extractor([1, 2], model(x))
    for one, other in zip(*maps, strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=0)


def test_hook_switches():
    model, x = resnet(), torch.randn(1, 3, 64, 64)
    methods = importlib.import_module(OURS + ".methods")
    with methods.GradCAM(model, "layer4") as extractor:
        with pytest.raises(AssertionError, match="forwarded"):
            extractor(0, torch.zeros(1, 10))
        extractor.disable_hooks()
        model(x)
        assert extractor.hook_a == [None]
        extractor.enable_hooks()
        model(x)
        assert extractor.hook_a[0].shape == (1, 512, 2, 2)
        extractor.reset_hooks()
        assert extractor.hook_a == [None] and len(extractor.hook_handles) == 2
    assert not extractor.hook_handles and not model.layer4._forward_hooks


@pytest.mark.parametrize(
    "error, call",
    [
        (ValueError, lambda e, s: e(scores=s)),
        (ValueError, lambda e, s: e(-1, s)),
        (ValueError, lambda e, s: e([1, 2], s)),
        (ValueError, lambda e, s: e(1)),
        (TypeError, lambda e, s: e(1, [s])),
        (ValueError, lambda e, s: e.fuse_cams([])),
        (TypeError, lambda e, s: e.fuse_cams(s)),
    ],
)
def test_errors_are_of_the_peers_types(error, call):
    model = resnet()
    for package in (PEER, OURS):
        with importlib.import_module(package + ".methods").GradCAM(model, "layer4") as extractor:
            scores = model(torch.randn(1, 3, 64, 64))
            with pytest.raises(error):
                call(extractor, scores)


def test_unknown_layers_name_the_closest():
    with pytest.raises(ValueError, match="layer4"):
        importlib.import_module(OURS + ".methods").GradCAM(resnet(), "layre4")


@pytest.mark.parametrize("module", ["methods", "methods.core", "methods.activation", "methods.gradient", "utils"])
def test_every_public_name_and_argument(module):
    theirs, ours = (importlib.import_module(f"{package}.{module}") for package in (PEER, OURS))
    for name in getattr(theirs, "__all__", [name for name in vars(theirs) if not name.startswith("_")]):
        if not getattr(getattr(theirs, name), "__module__", "").startswith("torchcam"):
            continue
        pairs = [(getattr(theirs, name), getattr(ours, name))]
        if inspect.isclass(pairs[0][0]):
            members = [key for key in dir(pairs[0][0]) if not key.startswith("_") or key in ("__init__", "__call__")]
            pairs = [(getattr(pairs[0][0], key), getattr(pairs[0][1], key)) for key in members]
        for one, other in pairs:
            if inspect.isfunction(one):
                expected, found = (inspect.signature(f).parameters for f in (one, other))
                assert list(expected) == list(found), name
                assert [p.default for p in expected.values()][1:] == [p.default for p in found.values()][
                    1:
                ] or name in (
                    "FinerCAM",
                    "RefineCAM",  # whose default is a class of their own
                )


def test_overlay_mask():
    from PIL import Image

    picture = torchvision.transforms.functional.to_pil_image(torch.rand(3, 40, 50))
    mask = Image.fromarray(torch.rand(5, 5).numpy())
    found = [
        importlib.import_module(package + ".utils").overlay_mask(picture, mask, alpha=0.4) for package in (PEER, OURS)
    ]
    assert found[0].tobytes() == found[1].tobytes() and found[0].size == found[1].size == (50, 40)


def test_installed_name_needs_nothing_else():
    code = (
        "import sys\n"
        "for name in ('matplotlib', 'PIL', 'cv2'): sys.modules[name] = None\n"
        "from camfast.compat import install\n"
        "install('torchcam')\n"
        "import torchcam, torchcam.utils\n"
        "from torchcam.methods import GradCAM\n"
        "assert torchcam.methods.GradCAM is GradCAM and GradCAM.__module__.startswith('camfast.compat')\n"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr


def test_compiled_models():
    model, x = resnet(), torch.randn(2, 3, 32, 32)
    methods = importlib.import_module(OURS + ".methods")
    maps = []
    for own, layer in (
        (model, "layer3"),
        (torch.compile(model, backend="eager"), "layer3"),
        (torch.compile(model, backend="eager"), model.layer3),
    ):
        with methods.GradCAM(own, layer) as extractor:
            assert extractor.target_names == ["layer3"]
            maps.append(extractor([1, 2], own(x))[0])
    torch.testing.assert_close(maps[1], maps[0])
    torch.testing.assert_close(maps[2], maps[0])


@pytest.mark.parametrize("name", ["GradCAM", "SmoothGradCAMpp", "XGradCAM", "LayerCAM", "FinerCAM", "ScoreCAM", "CAM"])
def test_the_default_is_equal_where_nothing_is_corrected(name, monkeypatch):
    monkeypatch.setattr(importlib.import_module(OURS), "strict", None)
    model, x = resnet(), torch.randn(2, 3, 64, 64)

    def script(methods):
        with getattr(methods, name)(model, "layer4" if name == "CAM" else "layer2") as extractor:
            return extractor([4, 7], model(x))

    both(script)
