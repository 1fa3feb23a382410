"""torchcam's LeGrad: what it refuses, what it keeps and what it leaves, the same script on torchcam and on ours."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from packages import Packages
from torch import nn
from torchcam_beside import OURS, PEER, outcome

pytest.importorskip("torchcam")


def check(script, raised=None):
    theirs, ours = (outcome(script, Packages(name).methods.LeGrad) for name in (PEER, OURS))
    if raised is not None:
        assert (theirs, ours) == (raised, raised)
        return
    assert not isinstance(theirs, type) and not isinstance(ours, type), f"{theirs} {ours}"
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


class Block(nn.Module):
    """A transformer's block in torchvision's shape: the residual is added in place."""

    def __init__(self, call="plain", **options):
        super().__init__()
        self.call = call
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.self_attention = nn.MultiheadAttention(8, 2, **{"batch_first": True, **options})
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def attended(self, x):
        if self.call == "positional":
            return self.self_attention(x, x, x, None, False, None, True)[0]
        if self.call == "cross":
            return self.self_attention(x, x.flip(1), x.flip(1), need_weights=False)[0]
        if self.call == "keywords":
            return self.self_attention(query=x, key=x, value=x)[0]
        if self.call == "weights":
            out, weights = self.self_attention(x, x, x)
            return out + weights @ x
        if self.call == "head weights":
            out, weights = self.self_attention(x, x, x, average_attn_weights=False)
            return out + weights.amax(1) @ x
        if self.call == "masked":
            mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
            return self.self_attention(x, x, x, attn_mask=mask, need_weights=False)[0]
        return self.self_attention(x, x, x, need_weights=False)[0]

    def forward(self, tokens):
        x = self.attended(self.norm1(tokens))
        x += tokens
        x = x + self.mlp(self.norm2(x))
        return x.mean(1) if self.call == "pooled" else x[:, :-1] if self.call == "shorter" else x


class ViT(nn.Module):
    def __init__(self, *calls, prefix=1, **options):
        super().__init__()
        torch.manual_seed(0)
        self.patch = nn.Conv2d(3, 8, 2, 2)
        self.prefix = nn.Parameter(torch.randn(1, prefix, 8))
        self.blocks = nn.ModuleList([Block(call, **options) for call in calls or ("plain", "plain")])
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def project(self, tokens):
        return self.head(self.norm(tokens.mean(1)))

    def forward(self, x):
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.prefix.expand(len(x), -1, -1), tokens], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.project(tokens)


X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def explained(LeGrad, model, x=X, class_idx=1, normalized=False, **options):
    options.setdefault("score_projection", model.project)
    with LeGrad(model, list(model.blocks), **options) as extractor:
        scores = model(x)
        return [*extractor(class_idx, normalized=normalized), scores.detach()]


# What it gives


@pytest.mark.parametrize("class_idx", [1, [4, 0]])
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("call", ["plain", "positional", "weights", "head weights", "masked"])
def test_maps(call, class_idx, normalized):
    check(partial(explained, model=ViT("plain", call).eval(), class_idx=class_idx, normalized=normalized))


@pytest.mark.parametrize("prefix, size, grid", [(0, (4, 4), None), (3, (4, 6), (2, 3)), (1, (4, 6), (3, 2))])
def test_prefixes_and_grids(prefix, size, grid):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
    check(partial(explained, model=ViT(prefix=prefix).eval(), x=x, prefix_tokens=prefix, grid_shape=grid))


def test_what_is_kept_and_a_kept_graph():
    model = ViT().eval()

    def script(LeGrad):
        with LeGrad(model, list(model.blocks), score_projection=model.project) as extractor:
            model(X)
            first = extractor(1, retain_graph=True)
            again = extractor(1)
            torch.testing.assert_close(first, again)
            return [*extractor.hook_a, *extractor.hook_attn, torch.tensor(extractor._token_counts), *again]

    def detached(LeGrad):
        return [tensor.detach() for tensor in script(LeGrad)]

    check(detached)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_frozen_models_and_their_state(frozen, dtype):
    def script(LeGrad):
        model = ViT().to(dtype).train()
        model.requires_grad_(not frozen)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        found = explained(LeGrad, model, X.to(dtype))
        assert all(parameter.requires_grad is not frozen and parameter.grad is None for parameter in model.parameters())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(module.training for module in model.modules())
        assert found[0].dtype == dtype
        return found

    check(script)


def test_torchvision_without_a_projection():
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(16, 4, 2, 2, 16, 32, num_classes=5).eval()
    nn.init.normal_(model.heads.head.weight)

    def script(LeGrad):
        with LeGrad(model, model.encoder.layers[-1]) as extractor:
            model(torch.randn(2, 3, 16, 16))
            return extractor([3, 0])

    check(script)


def test_other_passes_are_not_recorded():
    model = ViT().eval()

    def script(LeGrad):
        with LeGrad(model, model.blocks[0], score_projection=model.project, enable_hooks=False) as extractor:
            with torch.no_grad():
                model(X)  # refused where hooks are enabled
            seen = [extractor.hook_a[0] is None, extractor.hook_attn[0] is None]
            extractor.enable_hooks()
            model(X)
            extractor.reset_hooks()
            seen += [extractor.hook_a[0] is None, extractor.hook_attn[0] is None]
        return torch.tensor(seen)

    check(script)


# What it leaves


@pytest.mark.parametrize("end", ["with", "error", "remove", "refused"])
def test_hooks_are_gone(end):
    def script(LeGrad):
        model = ViT("plain", "plain").train()
        forward = nn.MultiheadAttention.forward
        targets = [model.blocks[0], model.norm] if end == "refused" else [model.blocks[0]]
        try:
            with LeGrad(model, targets, score_projection=model.project) as extractor:
                assert model.blocks[0].self_attention.forward.__func__ is forward
                if end == "error":
                    raise ZeroDivisionError
                if end == "remove":
                    extractor.remove_hooks()
                    assert extractor.hook_handles == []
        except (ZeroDivisionError, TypeError):
            assert end in ("error", "refused")
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
        return torch.tensor([*hooks, *(m.training for m in model.modules())])

    check(script)


# What it refuses


@pytest.mark.parametrize(
    "raised, options",
    [
        (ValueError, {"batch_first": False}),
        (ValueError, {"kdim": 4, "vdim": 4}),
        (ValueError, {"add_bias_kv": True}),
        (ValueError, {"add_zero_attn": True}),
    ],
)
def test_kinds_of_attention(raised, options):
    model = ViT(**options)
    check(lambda LeGrad: LeGrad(model, model.blocks[0], score_projection=model.project), raised)


@pytest.mark.parametrize(
    "raised, change",
    [
        (TypeError, {"target_layer": "norm"}),
        (TypeError, {"target_layer": "patch"}),
        (ValueError, {"target_layer": []}),
        (ValueError, {"target_layer": None}),
        (ValueError, {"target_layer": "blocks.9"}),
        (TypeError, {"target_layer": 3}),
        (ValueError, {"score_projection": None}),
        (TypeError, {"score_projection": 3}),
        (TypeError, {"prefix_tokens": 1.0}),
        (ValueError, {"prefix_tokens": -1}),
        (TypeError, {"grid_shape": [2, 2]}),
        (TypeError, {"grid_shape": (2, 2.0)}),
        (TypeError, {"grid_shape": (2, 2, 1)}),
        (ValueError, {"grid_shape": (2, 0)}),
        (TypeError, {"reshape_transform": len}),
    ],
)
def test_arguments(raised, change):
    model = ViT()

    def script(LeGrad):
        return LeGrad(model, **{"target_layer": "blocks.0", "score_projection": model.project, **change})

    check(script, raised)
    assert all(not module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("options", [{"grid_shape": (3, 3)}, {"prefix_tokens": 5}, {"prefix_tokens": 9}])
def test_grids_that_do_not_fit(options):
    check(partial(explained, model=ViT().eval(), **options), ValueError)
    check(partial(explained, model=ViT().eval(), x=torch.randn(1, 3, 4, 6)), ValueError)  # six tokens are no square


@pytest.mark.parametrize("call", ["cross", "keywords", "pooled", "shorter"])
def test_blocks_that_do_something_else(call):
    check(partial(explained, model=ViT(call).eval()), ValueError)


class Without(nn.MultiheadAttention):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)[0], None


class Averaged(nn.MultiheadAttention):
    def forward(self, *args, **kwargs):
        out, weights = super().forward(*args, **kwargs)
        return out, weights.mean(1)


class Short(nn.MultiheadAttention):
    def forward(self, *args, **kwargs):
        out, weights = super().forward(*args, **kwargs)
        return out, weights[..., :-1]


@pytest.mark.parametrize("kind", [Without, Averaged, Short])
def test_attention_that_returns_something_else(kind):
    model = ViT().eval()
    model.blocks[0].self_attention = kind(8, 2, batch_first=True)
    check(partial(explained, model=model), ValueError)


def test_active_dropout_of_attention():
    model = ViT(dropout=0.1).train()
    check(partial(explained, model=model), ValueError)
    check(partial(explained, model=model.eval()))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_passes_without_a_graph(mode):
    model = ViT().eval()

    def script(LeGrad):
        with mode():
            return explained(LeGrad, model)

    check(script, RuntimeError)


@pytest.mark.parametrize(
    "raised, projection",
    [
        (RuntimeError, lambda model, tokens: model.project(tokens.detach())),
        (ValueError, lambda model, tokens: tokens.mean()),
        (ValueError, lambda model, tokens: model.head(tokens)),
        (ValueError, lambda model, tokens: None),
    ],
)
def test_scores_that_are_none(raised, projection):
    model = ViT().eval()
    check(partial(explained, model=model, score_projection=partial(projection, model)), raised)


@pytest.mark.parametrize(
    "raised, call",
    [
        (AssertionError, lambda e, m: e(0)),
        (AssertionError, lambda e, m: (m(X), setattr(e, "hook_attn", [None]), e(0))),
        (AssertionError, lambda e, m: (m(X), e.hook_a.__setitem__(0, None), e.compute_cams(0))),
        (ValueError, lambda e, m: (m(X), e._token_counts.__setitem__(0, None), e(0))),
        (ValueError, lambda e, m: (m(X), e(targets=lambda row: row[0]))),
        (ValueError, lambda e, m: (m(X), e.compute_cams(targets=lambda row: row[0]))),
        (ValueError, lambda e, m: (m(X), e(-1))),
        (ValueError, lambda e, m: (m(X), e([0]))),
        (ValueError, lambda e, m: (m(X), e())),
        (IndexError, lambda e, m: (m(X), e(9))),
        (ValueError, lambda e, m: m.blocks[0].self_attention(X.flatten(), None, X)),
        (ValueError, lambda e, m: m.blocks[0].self_attention(*[torch.randn(5, 8)] * 3) and None),
        (ValueError, lambda e, m: m.blocks[0].self_attention(*[(q := torch.randn(5, 8)), q, q])),
    ],
)
def test_calls(raised, call):
    model = ViT().eval()

    def script(LeGrad):
        with LeGrad(model, model.blocks[0], score_projection=model.project) as extractor:
            call(extractor, model)

    check(script, raised)


def test_attention_whose_options_were_lost():
    model = ViT().eval()
    x = torch.randn(1, 5, 8)

    def script(LeGrad):
        with LeGrad(model, model.blocks[0], score_projection=model.project) as extractor:
            model(X[:1])
            extractor._weight_options[0] = None
            extractor._capture_attention(model.blocks[0].self_attention, (x, x, x), {}, (x, extractor.hook_attn[0]))

    check(script, RuntimeError)
