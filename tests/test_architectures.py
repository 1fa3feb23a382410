"""A walk over architectures with random weights: the layer that is found, and the place of what it sees.

Two images that differ in one corner give activations that differ there: where a layer's output is viewed as a grid, the
difference must lie in the same corner. Tokens in the wrong order, a class token taken for a position, or height and
width exchanged would put it elsewhere.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import camfast
from camfast.model.layouts import layout_of
from camfast.model.tap import Tap

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
vision = pytest.importorskip("torchvision").models

WIDE = (64, 96)  # height and width are told apart wherever a model takes such images
TALL = (96, 64)


def model_of(make) -> nn.Module:
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # weights that start as zero would hide what depends on them
            if not parameter.any():
                parameter.normal_(0, 0.02)
    return model


def found(model: nn.Module, size: tuple[int, ...], lead: tuple[int, ...] = (1, 3)):
    """The explanation of a random image, and the layer's response to a change in the upper right corner, ``[h, w]``."""
    x = torch.randn(*lead, *size, generator=torch.Generator().manual_seed(1))
    explainer = camfast.GradCAM(model)
    result = explainer(x, normalize=False)
    changed = x.clone()
    corner = (..., slice(0, size[-2] // 3), slice(size[-1] - size[-1] // 3, None))
    changed[corner] += 3 * torch.randn(changed[corner].shape, generator=torch.Generator().manual_seed(2))
    grids = []
    for image in (x, changed):
        with Tap(model, [model.get_submodule(explainer.layers[0])], graph=False) as tap:
            tap.run(image)
            (A,) = tap.activations
        grids.append(layout_of(A.shape, x.shape, model).view(A))
    response = (grids[1] - grids[0]).abs()
    return result, response.sum((0, 1)) if response.ndim == 4 else response.sum((0, 1, 2))


def assert_in_its_corner(response: torch.Tensor) -> None:
    h, w = max(1, response.shape[0] // 2), max(1, response.shape[1] // 2)
    inside = response[:h, -w:].mean()
    elsewhere = max(response[-h:].mean(), response[:h, :w].mean())
    assert inside > 1.05 * elsewhere, (inside, elsewhere)


TIMM = {
    # name: (size, options, what the layer's name starts with)
    "vit_tiny_patch16_224": (WIDE, {"img_size": WIDE, "depth": 2}, "blocks.1.norm1"),
    "deit_tiny_distilled_patch16_224": (TALL, {"img_size": TALL, "depth": 2}, "blocks.1.norm1"),
    "deit3_small_patch16_224": (WIDE, {"img_size": WIDE, "depth": 2}, "blocks.1"),
    "vit_small_patch14_dinov2": ((56, 84), {"img_size": (56, 84), "depth": 2}, "blocks.1.norm1"),
    "vit_small_patch14_reg4_dinov2": ((56, 84), {"img_size": (56, 84), "depth": 2}, "blocks.1.norm1"),
    "vit_small_patch16_dinov3": (WIDE, {"img_size": WIDE, "depth": 2}, ""),
    "vit_base_patch16_siglip_224": (WIDE, {"img_size": WIDE, "depth": 1, "embed_dim": 96, "num_heads": 3}, "norm"),
    "vit_base_patch16_clip_224": (WIDE, {"img_size": WIDE, "depth": 2, "embed_dim": 96, "num_heads": 3}, "blocks.1"),
    "vit_medium_patch16_gap_256": (WIDE, {"img_size": WIDE, "depth": 1}, "norm"),
    "vit_relpos_small_patch16_224": (WIDE, {"img_size": WIDE, "depth": 2}, "blocks.1"),
    "beit_base_patch16_224": (WIDE, {"img_size": WIDE, "depth": 2, "embed_dim": 96, "num_heads": 3}, "blocks.1"),
    "eva02_tiny_patch14_224": ((56, 84), {"img_size": (56, 84), "depth": 2}, "blocks.1"),
    "cait_xxs24_224": ((64, 64), {"img_size": (64, 64), "depth": 2}, "blocks_token_only"),
    "swin_tiny_patch4_window7_224": ((112, 168), {"img_size": (112, 168), "embed_dim": 24, "depths": (1, 1)}, "norm"),
    "swinv2_tiny_window8_256": ((128, 128), {"img_size": (128, 128), "embed_dim": 24, "depths": (1, 1)}, "norm"),
    "coatnet_pico_rw_224": ((224, 224), {}, "norm"),
    "coat_tiny": ((128, 128), {"img_size": 128}, "parallel_blocks"),
    "pvt_v2_b0": (WIDE, {}, "stages"),
    "efficientformer_l1": ((224, 224), {}, "norm"),
    "efficientformerv2_s0": ((224, 224), {}, "norm"),
    "mobilevit_xxs": ((128, 192), {}, "final_conv"),
    "mobilevitv2_050": ((256, 256), {}, "stages"),
    "edgenext_xx_small": (WIDE, {}, "stages"),
    "poolformer_s12": (WIDE, {}, "stages"),
    "resmlp_12_224": ((64, 64), {"img_size": 64}, "blocks"),
    "convnext_atto": (WIDE, {}, "stages"),
    "convnextv2_atto": (WIDE, {}, "stages"),
    "focalnet_tiny_srf": (WIDE, {}, "norm"),
    "repvit_m0_9": (WIDE, {}, "stages"),
    "inception_next_atto": (WIDE, {}, "stages"),
    "fastvit_t8": (WIDE, {}, "final_conv"),
    "pit_ti_224": ((224, 224), {}, "transformers.2"),
    "resnet18": (WIDE, {}, "layer4"),
    "seresnet18": (WIDE, {}, "layer4"),
    "efficientnet_lite0": ((160, 224), {}, "bn2"),
    "mobilenetv3_small_050": ((160, 224), {}, "blocks"),
    "mobilenetv4_conv_small": ((160, 224), {}, "blocks"),
    "ghostnet_050": ((160, 224), {}, "blocks"),
    "regnetx_002": (WIDE, {}, "s4"),
    "hrnet_w18_small": (WIDE, {}, "final_layer"),
    "dla34": (WIDE, {}, "level5"),
    "xcit_nano_12_p16_224": (WIDE, {}, "cls_attn_blocks"),
}


@pytest.mark.parametrize("name", TIMM)
def test_timm(name):
    size, options, layer = TIMM[name]
    model = model_of(lambda: timm.create_model(name, num_classes=7, **options))
    result, response = found(model, size)
    assert result.layers[0].startswith(layer), result.layers
    assert result.heatmap.shape == (1, *size) and result.heatmap.isfinite().all() and result.heatmap.std() > 0
    assert response.numel() >= 4
    assert_in_its_corner(response)


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
WINDOWS = {"patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16]}
TOWER = {**SMALL, "intermediate_size": 48, "image_size": 64, "patch_size": 16}
HUGGINGFACE = {
    # class, configuration, size, layer
    "ViTForImageClassification": ("ViTConfig", {**TOWER, "image_size": WIDE}, WIDE, "vit.layers.1.layernorm_before"),
    "DeiTForImageClassification": ("DeiTConfig", {**TOWER, "image_size": WIDE}, WIDE, "deit.layers.1.layernorm_before"),
    "BeitForImageClassification": ("BeitConfig", TOWER, (64, 64), "beit.layers.1"),
    "Dinov2ForImageClassification": ("Dinov2Config", {**SMALL, "image_size": 64, "patch_size": 16}, WIDE, "dinov2"),
    "Dinov2WithRegistersForImageClassification": (
        "Dinov2WithRegistersConfig",
        {**SMALL, "image_size": 64, "patch_size": 16},
        WIDE,
        "dinov2_with_registers",
    ),
    "SwinForImageClassification": ("SwinConfig", {**WINDOWS, "image_size": 64}, WIDE, "swin.layernorm"),
    "Swinv2ForImageClassification": ("Swinv2Config", {**WINDOWS, "image_size": 64}, (64, 64), "swinv2.layernorm"),
    "CLIPVisionModelWithProjection": ("CLIPVisionConfig", {**TOWER, "projection_dim": 8}, (64, 64), "vision_model"),
    "CLIPVisionModel": ("CLIPVisionConfig", TOWER, (64, 64), ""),
    "SiglipVisionModel": ("SiglipVisionConfig", TOWER, (64, 64), "post_layernorm"),
    "ConvNextForImageClassification": ("ConvNextConfig", STAGES, WIDE, "convnext.encoder"),
    "ResNetForImageClassification": (
        "ResNetConfig",
        {"depths": [1, 1], "hidden_sizes": [8, 16], "embedding_size": 8},
        WIDE,
        "resnet.encoder",
    ),
    "YolosForObjectDetection": (
        "YolosConfig",
        {**TOWER, "image_size": list(WIDE), "num_detection_tokens": 5},
        WIDE,
        "vit.",
    ),
    "PoolFormerForImageClassification": ("PoolFormerConfig", STAGES, WIDE, "norm"),
    "SegformerForSemanticSegmentation": (
        "SegformerConfig",
        {**STAGES, "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 16},
        WIDE,
        "decode_head",
    ),
}


@pytest.mark.parametrize("name", HUGGINGFACE)
def test_huggingface(name):
    config, options, size, layer = HUGGINGFACE[name]
    model = model_of(lambda: getattr(transformers, name)(getattr(transformers, config)(**options)))
    result, response = found(model, size)
    assert result.layers[0].startswith(layer), result.layers
    assert result.heatmap.shape == (1, *size) and result.heatmap.isfinite().all() and result.heatmap.std() > 0
    assert_in_its_corner(response)


VIDEO = {"r3d_18": (4, 32, 48), "mc3_18": (4, 32, 48), "swin3d_t": (2, 64, 64)}


@pytest.mark.parametrize("name", VIDEO)
def test_networks_for_video(name):
    model = model_of(lambda: vision.get_model(name, weights=None, num_classes=5))
    result, response = found(model, VIDEO[name])
    assert result.layers == ["norm" if name == "swin3d_t" else "layer4"]
    assert result.heatmap.shape == (1, *VIDEO[name]) and response.numel() >= 4
    if name != "swin3d_t":  # whose last window is the whole map
        assert_in_its_corner(response)


def test_an_embedding_explained_by_a_text():
    """CLIP's image tower: what in the image is near a text's embedding."""
    options = {**TOWER, "projection_dim": 8}
    model = model_of(lambda: transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**options)))
    x, text = torch.randn(2, 3, 64, 64), torch.randn(8)
    near = camfast.grad_cam(model, x, camfast.targets.Similarity(text), normalize=False)
    named = camfast.targets.Field("image_embeds", camfast.targets.Similarity(text))
    assert near.scores.shape == (2, 8)
    torch.testing.assert_close(near.heatmap, camfast.grad_cam(model, x, named, normalize=False).heatmap)
    far = camfast.grad_cam(model, x, camfast.targets.Similarity(-text), normalize=False)
    torch.testing.assert_close(far.heatmap, -near.heatmap)


SMALL_IMAGES = {
    # The last maps have a few positions: as many as a class token and registers, or the rows of tokens elsewhere.
    "coat_lite_tiny": (WIDE, {"img_size": WIDE}, "serial_blocks4.1.norm1"),
    "davit_tiny": (WIDE, {"depths": (1,) * 4, "embed_dims": (16, 32, 48, 64), "num_heads": (1,) * 4}, "stages"),
    "hiera_tiny_224": (WIDE, {"img_size": WIDE}, "blocks.11"),
    "levit_128s": ((128, 128), {"img_size": 128}, "stages"),
    "mambaout_femto": (WIDE, {}, "stages"),
    "mobilevit_xxs": (WIDE, {}, "final_conv"),
    "mvitv2_tiny": ((64, 64), {"img_size": 64}, "norm"),
    "naflexvit_base_patch16_gap": (WIDE, {"depth": 1}, ""),
    "pit_ti_224": ((64, 64), {"img_size": 64}, "transformers.2.blocks.3"),
    "tiny_vit_5m_224": (WIDE, {}, "stages"),
    "twins_pcpvt_small": (WIDE, {"img_size": WIDE, "depths": (1,) * 4}, "norm"),
}


@pytest.mark.parametrize("name", SMALL_IMAGES)
def test_maps_of_a_few_positions(name):
    size, options, layer = SMALL_IMAGES[name]
    model = model_of(lambda: timm.create_model(name, num_classes=7, **options))
    result, response = found(model, size)
    assert result.layers[0].startswith(layer), result.layers
    assert response.numel() >= 4 and (response.shape[0] < response.shape[1]) == (size[0] < size[1])


def test_windows_and_pooled_tokens_of_videos():
    """Patches are cut in time by other steps than in the frame, and later merged within the frame only."""
    video = vision.video
    swin = model_of(
        lambda: video.swin_transformer.SwinTransformer3d([2, 4, 4], 16, [1, 1], [2, 2], [2, 4, 4], num_classes=5)
    )
    result, response = found(swin, (4, 64, 96))
    assert result.layers == ["norm"] and response.shape == (8, 12)  # [N, 2, 8, 12, C]
    assert_in_its_corner(response)
    blocks = [
        video.mvit.MSBlockConfig(1, 16, 32, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 4, 4]),
        video.mvit.MSBlockConfig(2, 32, 32, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 2, 2]),
        video.mvit.MSBlockConfig(2, 32, 32, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 1, 1]),
    ]
    mvit = model_of(lambda: video.MViT((64, 96), 8, blocks, False, False, False, False, num_classes=5))
    result, response = found(mvit, (8, 64, 96))
    assert result.layers == ["blocks.2.norm1"] and response.shape == (8, 12)  # a class token and 4 x 8 x 12
    assert result.heatmap.shape == (1, 8, 64, 96)
    assert_in_its_corner(response)


FRAMES_FIRST = {
    "VideoMAEForVideoClassification": ("VideoMAEConfig", {"tubelet_size": 2}, "videomae"),
    "VivitForVideoClassification": ("VivitConfig", {"tubelet_size": [2, 8, 8]}, "vivit.layers.1.layernorm_before"),
}


def transformer_for_video(name, config, options):
    options = {**SMALL, "intermediate_size": 48, "image_size": 32, "patch_size": 8, "num_frames": 8, **options}
    return model_of(lambda: getattr(transformers, name)(getattr(transformers, config)(**options)))


@pytest.mark.parametrize("name", FRAMES_FIRST)
def test_videos_with_the_frames_before_the_channels(name):
    config, options, layer = FRAMES_FIRST[name]
    result, response = found(transformer_for_video(name, config, options), (32, 32), lead=(1, 8, 3))
    assert result.layers[0].startswith(layer) and result.heatmap.shape == (1, 8, 32, 32)
    assert_in_its_corner(response)


def test_frames_before_the_channels_are_masked_as_frames():
    """A mask of Score-CAM covers frames, rows and columns, not the three channels."""
    config, options, _ = FRAMES_FIRST["VideoMAEForVideoClassification"]
    model = transformer_for_video("VideoMAEForVideoClassification", config, options)
    video, seen = torch.rand(1, 8, 3, 32, 32) + 0.5, []
    with model.register_forward_pre_hook(lambda module, args: seen.append(args[0])):
        camfast.score_cam(model, video)
    masks = torch.cat([images for images in seen if len(images) > 1]) / video
    torch.testing.assert_close(masks, masks[:, :, :1].expand_as(masks))
    assert (masks.amax(1) - masks.amin(1)).amax() > 0.1


def test_images_without_a_channel_dimension():
    """[N, H, W], to which the model itself gives its channel."""
    layers = nn.Unflatten(1, (1, -1)), nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 7 * 11, 3)
    result = camfast.grad_cam(model_of(lambda: nn.Sequential(*layers)), torch.randn(2, 16, 24))
    assert result.layers == ["2"] and result.heatmap.shape == (2, 16, 24)


def test_the_image_among_several_inputs():
    """The tokens of a text are no map, though they may be as many as a grid has positions."""
    towers = {
        "vision_config": TOWER,
        "text_config": {**SMALL, "intermediate_size": 48, "vocab_size": 50, "max_position_embeddings": 16},
    }
    model = model_of(lambda: transformers.SiglipModel(transformers.SiglipConfig(**towers)))
    images = torch.randn(1, 3, 64, 64)
    for tokens in (4, 6, 16):
        inputs = {"input_ids": torch.randint(0, 47, (3, tokens)), "pixel_values": images}
        result = camfast.grad_cam(model, inputs)
        assert result.layers == ["vision_model.post_layernorm"] and result.heatmap.shape == (1, 64, 64)
        assert result.scores.shape == (1, 3)  # the image against each text


def test_not_supported():
    """Tokens whose order cannot be told: one sentence, and a way out."""
    timesformer = transformer_for_video("TimesformerForVideoClassification", "TimesformerConfig", {})
    video = torch.randn(1, 8, 3, 32, 32)
    # By itself it finds the part of a block in which each frame is a picture of its own.
    assert camfast.grad_cam(timesformer, video).heatmap.shape == (1, 8, 32, 32)
    layer = "timesformer.encoder.layer.0"
    with pytest.raises(ValueError, match=r"must give \[N, C, \*map\] or tokens.* got \[1, 129, 32\].*pass reshape="):
        camfast.grad_cam(timesformer, video, layers=layer)

    def grid(tokens):  # a row of frames at each position
        return tokens[:, 1:].unflatten(1, (4, 4, 8)).permute(0, 4, 3, 1, 2)

    result = camfast.grad_cam(timesformer, video, layers=layer, reshape=grid)
    assert result.heatmap.shape == (1, 8, 32, 32) and result.heatmap.std() > 0

    options = {**SMALL, "intermediate_size": 48, "patch_size": 16, "num_mel_bins": 32, "max_length": 64}
    spectra = model_of(lambda: transformers.ASTForAudioClassification(transformers.ASTConfig(**options)))
    layer = "audio_spectrogram_transformer.layernorm"
    with pytest.raises(ValueError, match=r"must give \[N, C, \*map\] or tokens.*pass reshape="):
        camfast.grad_cam(spectra, torch.randn(1, 64, 32), layers=layer)
