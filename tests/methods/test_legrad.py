"""LeGrad against torchcam, and against attention that is written out."""

from __future__ import annotations

import pytest
import torch
from models import SmallNet, TokenNet, bystander_state, images
from torch import nn

import camfast

SIZE = (32, 48)
X = images(2, size=SIZE)


def vit(**options) -> nn.Module:
    """torchvision's, with a head that is not zero."""
    vision = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    model = vision.VisionTransformer(32, 8, 3, 2, 32, 64, num_classes=7, **options).eval()
    nn.init.normal_(model.heads[0].weight)
    return model


@pytest.mark.parametrize("layers", [None, [1, 2]])
def test_equals_torchcam(layers):
    torchcam = pytest.importorskip("torchcam.methods")
    model, x = vit(), images(2, size=(32, 32))
    blocks = list(model.encoder.layers) if layers is None else [model.encoder.layers[i] for i in layers]
    with torchcam.LeGrad(model, blocks) as extractor:
        scores = model(x)
        (found,) = extractor([3, 5], normalized=False)
    explainer = camfast.LeGrad(model, None if layers is None else blocks)
    ours = explainer(x, [3, 5], size="map", normalize=False)
    assert found.std() > 0
    torch.testing.assert_close(ours.heatmap, found, rtol=1e-4, atol=1e-6 * float(found.max()))
    torch.testing.assert_close(ours.scores, scores.detach())
    assert ours.layers == [f"encoder.layers.encoder_layer_{i}" for i in layers or (0, 1, 2)]


def by_hand(model: TokenNet, x: torch.Tensor, index: int) -> torch.Tensor:
    """``[N, h, w]`` of TokenNet, its attention captured at its own softmax modules."""
    maps, tokens = [], None
    for block in model.blocks:
        kept = []
        handle = block.attn.softmax.register_forward_hook(lambda m, a, out, kept=kept: kept.append(out))
        if tokens is None:
            tokens = model.patch(x).flatten(2).transpose(1, 2)
            tokens = torch.cat([model.prefix.expand(len(x), -1, -1), tokens], 1)
        tokens = block(tokens.detach())
        handle.remove()
        (gradient,) = torch.autograd.grad(model.fc(model.norm(tokens.mean(1)))[:, index].sum(), kept[0])
        prefix = model.prefix.shape[1]
        maps.append(gradient.relu().mean((1, 2))[:, prefix:].unflatten(1, (x.shape[2] // 4, x.shape[3] // 4)))
    return torch.stack(maps).mean(0)


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_equals_attention_written_out(prefix, device):
    model = TokenNet(size=SIZE, prefix=prefix).eval()
    expected = by_hand(model, X, 2)
    result = camfast.LeGrad(model.to(device))(X.to(device), 2, size="map", normalize=False)
    assert result.layers == ["blocks.0", "blocks.1"] and expected.shape == (2, 8, 12)
    torch.testing.assert_close(result.heatmap.cpu(), expected, rtol=1e-4, atol=1e-6 * float(expected.max()))


class Fused(nn.Module):
    """The attention of ``models.Attention``, by the fused function."""

    def __init__(self, written: nn.Module) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = written.heads, written.qkv, written.proj

    def forward(self, x):
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c))


class MultiHead(nn.Module):
    """The same by ``nn.MultiheadAttention``, which computes it inside."""

    def __init__(self, written: nn.Module, batch_first: bool) -> None:
        super().__init__()
        width = written.proj.in_features
        self.inner = nn.MultiheadAttention(width, written.heads, batch_first=batch_first)
        self.batch_first = batch_first
        self.inner.in_proj_weight, self.inner.in_proj_bias = written.qkv.weight, written.qkv.bias
        self.inner.out_proj.weight, self.inner.out_proj.bias = written.proj.weight, written.proj.bias

    def forward(self, x):
        x = x if self.batch_first else x.transpose(0, 1)
        out = self.inner(x, x, x, need_weights=False)[0]
        return out if self.batch_first else out.transpose(0, 1)


@pytest.mark.parametrize("kind", ["fused", "multi-head", "multi-head, batch second"])
def test_every_way_of_attention_is_the_same(kind):
    model = TokenNet(size=SIZE).eval()
    targets = torch.tensor([[0, 3], [4, 1]])
    expected = camfast.legrad(model, X, targets, normalize=False).heatmap
    for block in model.blocks:
        block.attn = Fused(block.attn) if kind == "fused" else MultiHead(block.attn, "second" not in kind)
    found = camfast.legrad(model.eval(), X, targets, normalize=False).heatmap
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6 * float(expected.max()))
    for k in range(2):
        one = camfast.legrad(model, X, targets[:, k], normalize=False).heatmap
        torch.testing.assert_close(found[:, k], one, rtol=1e-4, atol=1e-6 * float(one.max()))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "eva02_tiny_patch14_224"])
def test_timm(name):
    timm = pytest.importorskip("timm")
    side = 14 if "14" in name else 16
    model = timm.create_model(name, img_size=(2 * side, 3 * side), depth=2, num_classes=4).eval()
    result = camfast.legrad(model, images(2, size=(2 * side, 3 * side)), size="map")
    assert result.layers == ["blocks.0", "blocks.1"] and result.heatmap.shape == (2, 2, 3)
    assert result.heatmap.std() > 0.1


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_hugging_face(implementation):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=5,
        attn_implementation=implementation,
    )
    torch.manual_seed(0)
    model, x = transformers.ViTForImageClassification(config).eval(), images(2, size=(32, 32))
    result = camfast.legrad(model, {"pixel_values": x}, 1, size="map")
    assert len(result.layers) == 2 and result.heatmap.shape == (2, 4, 4) and result.heatmap.std() > 0.1
    other = camfast.legrad(model, {"pixel_values": x}, lambda scores: scores[1], size="map")
    torch.testing.assert_close(other.heatmap, result.heatmap, rtol=0, atol=1e-5)


def test_a_projection_of_ones_own():
    model = vit()
    x = images(1, size=(32, 32))
    own = camfast.LeGrad(model, score_projection=lambda tokens: model.heads(model.encoder.ln(tokens.mean(1))))(x, 2)
    torch.testing.assert_close(own.heatmap, camfast.LeGrad(model)(x, 2).heatmap, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"score_projection must return scores \[1, classes\], got \[1, 17, 32\]"):
        camfast.LeGrad(model, score_projection=lambda tokens: tokens)(x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype):
    model = TokenNet(size=SIZE).eval()
    expected = camfast.legrad(model, X, 1).heatmap
    result = camfast.legrad(model.to(dtype), X.to(dtype), 1).heatmap
    assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (result - expected).abs().max() < (1e-5 if dtype == torch.float64 else 0.1)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_leaves_no_trace(mode):
    model = TokenNet(size=SIZE).train()
    model.requires_grad_(False)
    model.fc.requires_grad_(True)
    before = bystander_state(model)
    with mode():
        result = camfast.legrad(model, X, camfast.TopK(2))
        with pytest.raises(ZeroDivisionError):
            camfast.legrad(model, X, lambda scores: 1 / 0)
    after = bystander_state(model)
    for kind in ("hooks", "training", "requires_grad", "identity", "attributes", "grad"):
        assert before[kind] == after[kind]
    assert result.heatmap.shape == (2, 2, *SIZE) and not result.scores.requires_grad


class Gated(nn.Module):
    """Attention whose output is changed, in place or not, before and after the projection."""

    def __init__(self, written: nn.Module, kind: str, in_place: bool) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = written.heads, written.qkv, written.proj
        self.kind, self.in_place = kind, in_place
        self.multi = MultiHead(written, batch_first=True)
        self.gate = nn.Parameter(torch.linspace(-1, 2, written.proj.in_features))

    def changed(self, tensor, gate):
        if not self.in_place:
            return tensor * gate + gate
        tensor *= gate
        tensor += gate
        return tensor

    def forward(self, x):
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        if self.kind == "fused":
            out = nn.functional.scaled_dot_product_attention(q, k, v)
            out = self.changed(out, self.gate[: c // self.heads])
        elif self.kind == "written":
            A = (q @ k.mT * (c // self.heads) ** -0.5).softmax(-1)
            out = self.changed(A, torch.linspace(0, 2, t)) @ v
        else:
            return self.changed(self.multi(x), self.gate)
        return self.proj(out.transpose(1, 2).reshape(n, t, c))


@pytest.mark.parametrize("kind", ["fused", "written", "multi-head"])
def test_operations_in_place_on_what_attention_returns(kind):
    """The map is that of the same block without operations in place."""
    maps = []
    for in_place in (False, True):
        torch.manual_seed(0)
        model = TokenNet(size=SIZE).eval()
        for block in model.blocks:
            block.attn = Gated(block.attn, kind, in_place)
        maps.append(camfast.legrad(model.eval(), X, [1, 3], normalize=False).heatmap)
    assert maps[0].std() > 0
    torch.testing.assert_close(maps[1], maps[0], rtol=1e-4, atol=1e-6 * float(maps[0].max()))


class Dropping(Gated):
    """Attention that drops probabilities at random."""

    def forward(self, x):
        if self.kind == "multi-head":
            self.multi.inner.dropout = 0.5
            return self.multi(x)
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        if self.kind == "fused":
            out = nn.functional.scaled_dot_product_attention(q, k, v, None, 0.5 * self.training)
        else:
            A = (q @ k.mT * (c // self.heads) ** -0.5).softmax(-1)
            out = nn.functional.dropout(A, 0.5, self.training) @ v
        return self.proj(out.transpose(1, 2).reshape(n, t, c))


@pytest.mark.parametrize("kind", ["fused", "written", "multi-head"])
def test_active_attention_dropout_is_refused(kind):
    model = TokenNet(size=SIZE)
    for block in model.blocks:
        block.attn = Dropping(block.attn, kind, False)
    model.train()
    first, again = (camfast.legrad(model, X, 1).heatmap for _ in range(2))  # in evaluation mode nothing is dropped
    torch.testing.assert_close(first, again)
    with pytest.raises(ValueError, match="must not drop probabilities at random"):
        camfast.legrad(model, X, 1, eval_mode=False)
    assert model.training


def test_other_dropout_is_not_refused():
    model = TokenNet(size=SIZE)
    for block in model.blocks:
        block.mlp = nn.Sequential(block.mlp, nn.Dropout(0.1))
    assert camfast.legrad(model.train(), X, 1, eval_mode=False).heatmap.shape == (2, *SIZE)


def test_models_that_do_not_fit():
    with pytest.raises(ValueError, match="LeGrad needs attention over all tokens of an image, got none in SmallNet"):
        camfast.legrad(SmallNet().eval(), images(1))
    with pytest.raises(ValueError, match="attention over all tokens of an image in every layer, got none in 'norm'"):
        camfast.legrad(TokenNet(size=SIZE).eval(), X, layers="norm")
    with pytest.raises(ValueError, match=r"must return tokens \[N, T, C\], got \[2, 16, 8, 12\] from 'patch'"):
        camfast.legrad(TokenNet(size=SIZE).eval(), X, layers="patch")
    timm = pytest.importorskip("timm")
    swin = timm.create_model("swin_tiny_patch4_window7_224", num_classes=3, depths=(1, 1, 1, 1), embed_dim=24).eval()
    with pytest.raises(ValueError, match="got none in SwinTransformer"):
        camfast.legrad(swin, images(1, size=(224, 224)))
    with pytest.raises(TypeError, match="score_projection must be a callable"):
        camfast.LeGrad(TokenNet(), score_projection=3)
