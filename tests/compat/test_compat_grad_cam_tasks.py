"""Transformers, detection, segmentation, volumes and the examples of a README: pytorch-grad-cam's numbers, by the same script."""

from __future__ import annotations

import importlib
import textwrap

import pytest
from compat_scripts import CNN, DETECTOR, LOOSE, OURS, PEER, SEGMENTER, SWIN, TOLERANCE, VIT, assert_equal, result_of


@pytest.fixture
def strict(monkeypatch):
    monkeypatch.setattr(importlib.import_module(OURS), "strict", True)


@pytest.mark.parametrize("name", ["GradCAM", "LayerCAM", "XGradCAM", "ScoreCAM", "RandomCAM", "FEM"])
@pytest.mark.parametrize("network", [VIT, SWIN])
def test_a_transformer(network, name):
    script = f"""
    cam = {name}(model=model, target_layers=layers, reshape_transform=reshape_transform)
    result = cam(images, [ClassifierOutputTarget(3), ClassifierOutputTarget(0)])
    """
    assert_equal(network + textwrap.dedent(script), LOOSE if name == "ScoreCAM" else TOLERANCE)


def test_the_reshape_transform_of_the_package():
    assert_equal(VIT + "result = GradCAM(model, layers, lambda x: vit_reshape_transform(x, 4, 4))(images, None)")


@pytest.mark.parametrize("network", [VIT, SWIN])
def test_ablation_of_a_transformer(network, strict):
    script = """
    cam = AblationCAM(model, layers, reshape_transform, ablation_layer=AblationLayerVit(), batch_size=8)
    result = cam(images, [ClassifierOutputTarget(3), ClassifierOutputTarget(0)])
    """
    assert_equal(network + textwrap.dedent(script), 2e-4)


def test_ablation_of_tokens_in_the_engine():
    # Activations of which the least is 0 go to 0, where the original has no drift.
    script = """
    model.blocks[-1].norm1 = nn.Sequential(model.blocks[-1].norm1, nn.ReLU())
    layers = [model.blocks[-1].norm1]
    cam = AblationCAM(model, layers, reshape_transform, ablation_layer=AblationLayerVit(), batch_size=8)
    result = cam(images, [ClassifierOutputTarget(3), ClassifierOutputTarget(0)])
    """
    assert_equal(VIT + textwrap.dedent(script), 1e-4)


@pytest.mark.parametrize("network, name", [(VIT, "EigenCAM"), (SWIN, "EigenCAM"), (VIT, "EigenGradCAM")])
def test_components_of_a_transformer(network, name, strict):
    assert_equal(network + f"result = {name}(model, layers, reshape_transform)(images, None)", LOOSE)


def test_detection_by_components(strict):
    script = """
    cam = EigenCAM(model, [model.backbone], reshape_transform=fasterrcnn_reshape_transform)
    result = cam(images, targets)
    """
    assert_equal(DETECTOR + textwrap.dedent(script), 1e-4)


def test_detection_by_ablation():
    script = """
    cam = AblationCAM(model, [model.backbone], fasterrcnn_reshape_transform, AblationLayerFasterRCNN(), 4, 0.003)
    result = cam(images, targets)
    """
    assert_equal(DETECTOR + textwrap.dedent(script), 1e-4)


def test_detection_by_gradients_of_one_level():
    script = """
    cam = GradCAM(model, [model.backbone.body.layer4])
    result = cam(images, [lambda output: output["scores"].sum()])
    """
    assert_equal(DETECTOR + textwrap.dedent(script), 1e-4)


@pytest.mark.parametrize("target", ["SemanticSegmentationTarget(2, mask)", "Mine(2, mask)"])
@pytest.mark.parametrize("name", ["GradCAM", "LayerCAM", "AblationCAM"])
def test_segmentation(name, target):
    script = f"""
    with {name}(model=model, target_layers=[model.model.trunk[3]]) as cam:
        result = cam(input_tensor=images, targets=[{target}])[0, :]
    """
    assert_equal(SEGMENTER + textwrap.dedent(script), LOOSE if name == "AblationCAM" else TOLERANCE)


@pytest.mark.parametrize(
    "call",
    [
        "alpha=0.6",
        "comparison_categories=[1, 3], target_idx=2",
        "targets=[ClassifierOutputTarget(1), ClassifierOutputTarget(5)]",
    ],
)
@pytest.mark.parametrize("base", ["GradCAM", "LayerCAM", "ShapleyCAM"])
def test_finer_cam(base, call):
    if base == "ShapleyCAM" and "targets" not in call:
        pytest.skip("the original asks for the gradient of a target at the image here, which it cannot take")
    script = f"""
    with FinerCAM(model, [model[4]], base_method={base}) as cam:
        result = cam(images, {call})
    """
    assert_equal(CNN.replace("BATCH", "2") + textwrap.dedent(script))


@pytest.mark.parametrize(
    "options",
    [
        "",
        "base_method=LayerCAM, num_scales=3, window_size=24, step_size=12",
        "base_method=FEM, scales=[36, 50], pre_filter_ratio=0.5, smooth=False, pool='max'",
        "scales=[36, 40], theta=0.2, use_softmax_scores=False, batch_size=3",
    ],
)
def test_sess(options):
    assert_equal(CNN.replace("BATCH", "1") + f"result = SESS(model, [model[4]], {options})(images)", 1e-5)


def test_a_volume():
    script = """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(1, 6, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 3))
    volumes = torch.randn(2, 1, 12, 14, 10, generator=torch.Generator().manual_seed(1))
    result = GradCAM(model.eval(), [model[1]])(volumes, None)
    """
    assert_equal(textwrap.dedent(script), 1e-5)


def test_guided_grad_cam_of_the_readme():
    script = """
    with GradCAM(model=model, target_layers=[model[4]]) as cam:
        grayscale = cam(input_tensor=images, targets=None)[0, :]
    guided = GuidedBackpropReLUModel(model=model, device="cpu")(images.clone(), target_category=None)
    result = cv2.merge([grayscale] * 3) * guided
    result = result / np.abs(result).max()
    """
    assert_equal("import cv2\n" + CNN.replace("BATCH", "1") + textwrap.dedent(script), LOOSE)


def test_a_picture_of_the_readme():
    script = """
    cam = GradCAM(model=model, target_layers=[model[4]])
    heat = cam(input_tensor=images, targets=[ClassifierOutputTarget(2)])[0, :]
    image = np.float32(images[0].permute(1, 2, 0).sigmoid().numpy())
    result = np.int64(show_cam_on_image(image, heat, use_rgb=True)) + np.int64(cam.outputs.detach().argmax())
    """
    assert_equal(CNN.replace("BATCH", "1") + textwrap.dedent(script), 1)  # a level, where a map lies between two


@pytest.mark.parametrize("package", [PEER, OURS])
def test_an_index_error_ends_the_block_and_others_pass(package, capsys):
    script = (
        CNN.replace("BATCH", "1")
        + """
with GradCAM(model, [model[4]]) as cam:
    cam(images, [ClassifierOutputTarget(99)])
result = len(model[4]._forward_hooks)
"""
    )
    assert result_of(package, script) == 0
    assert "IndexError" in capsys.readouterr().out
    with pytest.raises(KeyError):
        result_of(package, CNN.replace("BATCH", "1") + "with GradCAM(model, [model[4]]) as cam: {}[1]")
