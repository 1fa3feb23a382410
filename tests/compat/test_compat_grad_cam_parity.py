"""Every method on a small network, its options and subclasses: the numbers of pytorch-grad-cam, by the same script."""

from __future__ import annotations

import collections
import importlib
import textwrap

import numpy as np
import pytest
from compat_scripts import CNN, LOOSE, OURS, PEER, TOLERANCE, assert_equal, result_of


@pytest.fixture
def strict(monkeypatch):
    monkeypatch.setattr(importlib.import_module(OURS), "strict", True)


GRADIENTS = ["GradCAM", "HiResCAM", "XGradCAM", "GradCAMPlusPlus", "LayerCAM", "GradCAMElementWise", "ShapleyCAM"]
UNSIGNED = [
    *GRADIENTS,
    "ScoreCAM",
    "AblationCAM",
    "RandomCAM",
    "FEM",
    "KPCA_CAM",
    "SegEigenCAM",
    "FullGrad",
    "RefineCAM",
]
SIGNED = ["EigenCAM", "EigenGradCAM"]
# The original's ShapleyCAM frees its graph after the first layer, and raises at the second.
SECOND_ORDER = collections.defaultdict(lambda: ":", ShapleyCAM=":1")
LOOSELY = ("AblationCAM", "KPCA_CAM", "SegEigenCAM", "EigenCAM", "EigenGradCAM")


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("layers", ["model[4]", "model[2], model[4], model[5]"])
@pytest.mark.parametrize("name", UNSIGNED)
def test_a_cnn(name, layers, batch):
    if name == "AblationCAM":
        layers = layers.replace(", model[5]", "")  # signed there: see what the default corrects
    script = f"""
    cam = {name}(model=model, target_layers=[{layers}][{SECOND_ORDER[name]}])
    result = cam(input_tensor=images, targets=[ClassifierOutputTarget(2)] * {batch})
    """
    assert_equal(CNN.replace("BATCH", str(batch)) + textwrap.dedent(script), LOOSE if name in LOOSELY else TOLERANCE)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", [*SIGNED, *GRADIENTS])
def test_a_cnn_by_the_steps(name, batch, strict):
    script = f"result = {name}(model, [model[2], model[4]][{SECOND_ORDER[name]}])(images, None)"
    assert_equal(CNN.replace("BATCH", str(batch)) + script, LOOSE if name in SIGNED else TOLERANCE)


@pytest.mark.parametrize("name", SIGNED)
def test_signs_are_ours_by_default(name):
    script = (
        CNN.replace("BATCH", "2")
        + f"""
cam = {name}(model, [model[4]])
cam.compute_cam_per_layer = lambda *args: None
cam.aggregate_multi_layers = lambda _: 0
record = cam.activations_and_grads
cam(images, None)
result = cam.get_cam_image(images, model[4], None, record.activations[0].numpy(),
                           record.gradients[0].numpy() if record.gradients else None, False)
"""
    )
    theirs, ours = result_of(PEER, script), result_of(OURS, script)
    for own, other in zip(ours, theirs, strict=True):
        sign = np.sign((own * other).sum())
        np.testing.assert_allclose(own, sign * other, atol=1e-5)
        assert own.flat[np.abs(own).argmax()] > 0


@pytest.mark.parametrize(
    "target",
    [
        "None",
        "[ClassifierOutputTarget(1), ClassifierOutputTarget(4)]",
        "[ClassifierOutputSoftmaxTarget(1), ClassifierOutputSoftmaxTarget(4)]",
        "[ClassifierOutputReST(1), ClassifierOutputReST(4)]",
        "[FinerWeightedTarget(1, [0, 3], 0.7), FinerWeightedTarget(4, [2], 1)]",
        "[lambda scores: scores[1] - scores[2], lambda scores: -scores[0]]",
    ],
)
@pytest.mark.parametrize("name", ["GradCAM", "ScoreCAM"])
def test_targets(name, target):
    assert_equal(CNN.replace("BATCH", "2") + f"result = {name}(model, [model[4]])(images, {target})", LOOSE)


@pytest.mark.parametrize("category", [0, 1])
def test_a_binary_classifier(category):
    script = f"""
    model[-1] = nn.Linear(12, 1)
    nn.init.constant_(model[-1].weight, 0.1)
    result = GradCAM(model, [model[3]])(images, [BinaryClassifierOutputTarget({category})] * 2)
    """
    assert_equal(CNN.replace("BATCH", "2") + textwrap.dedent(script))


@pytest.mark.parametrize("scale", [1e-5, 1e-8])
@pytest.mark.parametrize("name", [*GRADIENTS, "FEM"])
def test_faint_maps(name, scale):
    script = f"""
    def faint(scores):
        return {scale} * scores[2]
    result = {name}(model, [model[4]])(images / 50, [faint] * 2)
    """
    assert_equal(CNN.replace("BATCH", "2") + textwrap.dedent(script), LOOSE)


@pytest.mark.parametrize("eigen_smooth", [False, True])
@pytest.mark.parametrize("name", [*SIGNED, *UNSIGNED])
def test_a_map_of_one_place(name, eigen_smooth):
    call = "images, None" if name == "RefineCAM" else f"images, None, eigen_smooth={eigen_smooth}"
    script = f"""
    images = images[:, :, :4, :3]
    result = {name}(model, [model[4]])({call})
    """
    if name == "FullGrad" and eigen_smooth:
        pytest.skip("the original resizes to an eighth of the image, which is nothing here")
    theirs, ours = (result_of(p, CNN.replace("BATCH", "2") + textwrap.dedent(script)) for p in (PEER, OURS))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["LayerCAM", "GradCAMElementWise", "SegEigenCAM", "FEM", "ScoreCAM"])
def test_channels_last_without_a_transform(name):
    script = """
    class Last(nn.Module):
        def forward(self, x):
            return x.permute(0, 2, 3, 1)
    class First(nn.Module):
        def forward(self, x):
            return x.permute(0, 3, 1, 2)
    model = nn.Sequential(model[:5], Last(), First(), model[5:])
    result = NAME(model, [model[1]])(images, None)
    """.replace("NAME", name)
    assert_equal(CNN.replace("BATCH", "2") + textwrap.dedent(script), LOOSE)


@pytest.mark.parametrize("name", ["GradCAM", "LayerCAM", "FEM", "ScoreCAM"])
def test_a_layer_that_runs_twice(name):
    script = """
    model[4] = model[2]
    result = NAME(model, [model[2]])(images, [ClassifierOutputTarget(2)] * 2)
    """.replace("NAME", name)
    assert_equal(CNN.replace("BATCH", "2") + textwrap.dedent(script))


def test_a_subclass_with_weights_of_its_own():
    script = """
    class Mine(BaseCAM):
        def __init__(self, model, target_layers, reshape_transform=None):
            super(Mine, self).__init__(model, target_layers, reshape_transform)
        def get_cam_weights(self, input_tensor, target_layer, target_category, activations, grads):
            return np.maximum(grads, 0).mean(axis=(2, 3))
    cam = Mine(model, [model[2], model[4]])
    result = cam(images, [ClassifierOutputTarget(2)] * 2)
    """
    assert_equal(CNN.replace("BATCH", "2") + textwrap.dedent(script))


@pytest.mark.parametrize("name", ["GradCAM", "LayerCAM", "EigenGradCAM", "ScoreCAM", "ShapleyCAM"])
def test_a_subclass_with_an_image_of_its_own(name):
    script = f"""
    class Mine({name}):
        def get_cam_image(self, input_tensor, target_layer, targets, activations, grads, eigen_smooth=False):
            return np.abs(super().get_cam_image(input_tensor, target_layer, targets, activations, grads, eigen_smooth))
    result = Mine(model, [model[2], model[4]][{SECOND_ORDER[name]}])(images, [ClassifierOutputTarget(2)] * 2)
    """
    assert_equal(CNN.replace("BATCH", "2") + textwrap.dedent(script), LOOSE)


@pytest.mark.parametrize(
    "step",
    [
        "def get_target_width_height(self, input_tensor): return 20, 10",
        "def aggregate_multi_layers(self, cams): return scale_cam_image(np.max(np.concatenate(cams, axis=1), axis=1))",
    ],
)
def test_a_subclass_with_another_step(step):
    script = f"""
class Mine(GradCAM):
    {step}
result = Mine(model, [model[2], model[4]])(images, None)
"""
    assert_equal(CNN.replace("BATCH", "2") + script)


@pytest.mark.parametrize(
    "name, aug", [("GradCAM", True), *((n, False) for n in ("GradCAM", "LayerCAM", "HiResCAM", "GradCAMElementWise"))]
)
def test_smoothing(name, aug, strict):
    script = f"result = {name}(model, [model[4]])(images, [ClassifierOutputTarget(2)] * 2, {aug}, True)"
    assert_equal(CNN.replace("BATCH", "2") + script, LOOSE)


@pytest.mark.parametrize("name", ["GradCAM", "FEM", "FullGrad"])
def test_aug_smooth(name):
    script = f"result = {name}(model, [model[4]])(input_tensor=images, targets=None, aug_smooth=True)"
    assert_equal(CNN.replace("BATCH", "2") + script)


def test_full_grad_with_eigen_smooth(strict):
    assert_equal(CNN.replace("BATCH", "2") + "result = FullGrad(model, [])(images, None, eigen_smooth=True)", LOOSE)


@pytest.mark.parametrize("what", ["activations", "gradients"])
def test_what_was_recorded_can_be_read(what):
    script = f"""
    cam = GradCAM(model, [model[2], model[4]])
    cam(images, None)
    result = np.concatenate([part.numpy().ravel() for part in cam.activations_and_grads.{what}])
    """
    assert_equal(CNN.replace("BATCH", "2") + textwrap.dedent(script))


# Where the original is wrong: the default is right, strict is equal.

IN_PLACE = CNN.replace("nn.ReLU(), nn.Ada", "nn.ReLU(inplace=True), nn.Ada").replace("BATCH", "2")
WRONG = {
    "an operation in place changes what was recorded": "result = GradCAM(model, [model[5]])(images, None)",
    "layers in the order of execution": "result = LayerCAM(model, [model[4], model[2]])(images, None)",
    "too few targets": "result = GradCAM(model, [model[4]])(images, [ClassifierOutputTarget(2)])",
    "ablated values drift": "model[6] = nn.Identity()\nresult = AblationCAM(model, [model[5]])(images, None)",
    "eigen_smooth of RefineCAM is aug_smooth": "result = RefineCAM(model, [model[2], model[4]])(images, None, True)",
}


@pytest.mark.parametrize("what", WRONG)
def test_strict_reproduces(what, strict):
    assert_equal(IN_PLACE + WRONG[what], LOOSE)


@pytest.mark.parametrize("what", [key for key in WRONG if "order" not in key and "few" not in key])
def test_the_default_corrects(what):
    theirs, ours = (result_of(package, IN_PLACE + WRONG[what]) for package in (PEER, OURS))
    assert np.abs(theirs - ours).max() > 1e-3
