"""``differentiable=True`` equals a graph kept by hand: gradients of every parameter, for methods, modes, heads and dtypes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from models import ChannelsLastNet, DeepHead, InPlaceAfter, Output, SmallNet, TokenNet, Twice, calibrated, images
from plain_training import RULES, assert_same_gradients, gradients_of, plain_heat
from torch import Tensor, nn

import camfast

X = images(3).double()
Y = torch.tensor([1, 4, 0])
CAM_RULE = {"cam": "grad_cam", "finer_cam": None}


def network(kind: type[nn.Module] = SmallNet, **options) -> nn.Module:
    torch.manual_seed(0)
    return calibrated(kind(**options).double(), images(4).double())


def loss_of(scores: Tensor, heat: Tensor) -> Tensor:
    """Cross-entropy and a weighted sum of the heat, in which every position counts differently."""
    share = torch.linspace(-1, 2, heat.numel(), dtype=heat.dtype).reshape(heat.shape)
    return F.cross_entropy(scores.double(), Y[: len(scores)]) + (heat * share).sum() + heat.square().sum()


def assert_equals_plain(model: nn.Module, layer: str, name: str, targets=Y, relative=1e-5, **call) -> None:
    explainer = camfast.METHODS[name](model, layer)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(7)
    result = explainer(X, targets, differentiable=True, **call)
    found = gradients_of(model, loss_of(result.scores, result.heatmap))
    after = torch.random.get_rng_state()
    model.load_state_dict(before)  # batch norms counted the batch
    torch.manual_seed(7)
    size = {"map": tuple(result.heatmap.shape[-2:])}.get(call.get("size"), call.get("size"))
    scores, heat = plain_heat(model, layer, X, targets, name, size, call.get("normalize", True))
    assert torch.equal(after, torch.random.get_rng_state())
    torch.testing.assert_close(result.scores, scores)
    torch.testing.assert_close(result.heatmap, heat, rtol=1e-7, atol=1e-7)
    assert_same_gradients(found, gradients_of(model, loss_of(scores, heat)), relative)


HEADS = {"pooled": SmallNet, "deep": DeepHead, "in place": InPlaceAfter, "twice": Twice}
SEVERAL = torch.tensor([[1, 2], [4, 0], [0, 3]])


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", RULES)
def test_equals_a_graph_by_hand(name, head, mode):
    model = network(HEADS[head]).train(mode == "train")
    assert_equals_plain(model, "body", name)


@pytest.mark.parametrize("call", [{"normalize": False}, {"size": "map"}, {"size": (5, 9), "normalize": False}], ids=str)
@pytest.mark.parametrize("targets", [Y, SEVERAL], ids=["one", "several"])
@pytest.mark.parametrize("name", RULES)
def test_sizes_ranges_and_several_targets(name, targets, call):
    for kind in (SmallNet, DeepHead):
        assert_equals_plain(network(kind), "body", name, targets, **call)


class Drawn(nn.Module):
    """A small CNN of drawn parts."""

    def __init__(self, draw) -> None:
        super().__init__()
        pick = lambda name, values: draw(st.sampled_from(values), label=name)  # noqa: E731
        width, depth = pick("width", [4, 6]), pick("depth", [1, 2, 3])
        acts = {"relu": nn.ReLU, "in place": lambda: nn.ReLU(True), "silu": nn.SiLU, "tanh": nn.Tanh, "gelu": nn.GELU}
        norms = {"batch": nn.BatchNorm2d, "group": lambda c: nn.GroupNorm(2, c), "none": lambda c: nn.Identity()}
        act, norm = acts[pick("activation", list(acts))], norms[pick("norm", list(norms))]
        blocks = []
        for i in range(depth):
            stride = pick(f"stride {i}", [1, 2])
            blocks.append(nn.Sequential(nn.Conv2d(3 if i == 0 else width, width, 3, stride, 1), norm(width), act()))
        self.blocks = nn.ModuleList(blocks)
        self.layer = f"blocks.{pick('layer', range(depth))}"
        self.kind = pick("head", ["pooled", "dropout", "1x1", "average", "mlp", "max", "maps"])
        self.dropout = nn.Dropout(0.3)
        side = {"mlp": 4, "max": 4}.get(self.kind, 1)
        self.pool = nn.AdaptiveAvgPool2d((side // 2, 2) if side > 1 else 1)
        if self.kind in ("1x1", "maps"):
            self.fc = nn.Conv2d(width, 5, 1)
        elif self.kind == "mlp":
            self.fc = nn.Sequential(nn.Linear(side * width, 7), act(), nn.Linear(7, 5))
        else:
            self.fc = nn.Linear(side * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        if self.kind == "maps":
            return torch.tanh(self.fc(x)).flatten(2).mean(2)
        if self.kind == "max":
            x = F.max_pool2d(x, 2)
        if self.kind == "average":
            return self.fc(F.avg_pool2d(x, x.shape[2:]).flatten(1))
        x = self.pool(x)
        return (
            self.fc(x).flatten(1)
            if self.kind == "1x1"
            else self.fc((self.dropout(x) if self.kind == "dropout" else x).flatten(1))
        )


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_random_networks(data):
    torch.manual_seed(data.draw(st.integers(0, 99), label="seed"))
    model = calibrated(Drawn(data.draw).double(), images(4).double())
    if data.draw(st.booleans(), label="frozen trunk"):
        model.blocks.requires_grad_(False)
    model.train(data.draw(st.booleans(), label="training"))
    name = data.draw(st.sampled_from(RULES), label="method")
    targets = data.draw(st.sampled_from([Y, SEVERAL]), label="targets")
    normalize = data.draw(st.booleans(), label="normalize")
    assert_equals_plain(model, model.layer, name, targets, normalize=normalize)


@pytest.mark.parametrize("name", RULES)
def test_single_precision(name):
    model = network(DeepHead).float()
    result = camfast.METHODS[name](model, "body")(X.float(), Y, normalize=False, differentiable=True)
    found = gradients_of(model, loss_of(result.scores, result.heatmap.double()))
    scores, heat = plain_heat(model, "body", X.float(), Y, name, normalize=False)
    assert_same_gradients(found, gradients_of(model, loss_of(scores, heat.double())))


@pytest.mark.parametrize("head", ["pooled", "deep"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", RULES)
def test_autocast_with_a_scaler(name, dtype, head):
    """Half precision rounds at places of its own: a few roundings apart, measured over all parameters together."""
    model = network(HEADS[head]).float()
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    with torch.autocast("cpu", dtype):
        result = camfast.METHODS[name](model, "body")(X.float(), Y, normalize=False, differentiable=True)
    found = gradients_of(model, scaler.scale(loss_of(result.scores, result.heatmap)))
    scores, heat = plain_heat(model, "body", X.float(), Y, name, normalize=False, autocast=dtype)
    wanted = gradients_of(model, scaler.scale(loss_of(scores, heat)))
    ours, theirs = (torch.cat([g.flatten() for g in gradients.values()]) for gradients in (found, wanted))
    assert result.scores.dtype == dtype and result.heatmap.dtype == torch.float32
    assert float((ours - theirs).norm() / theirs.norm()) < (0.05 if dtype == torch.bfloat16 else 0.01)


# Structure


@pytest.fixture
def second_derivatives(monkeypatch):
    """How many gradients with a graph were taken."""
    taken = []
    plain = torch.autograd.grad

    def counted(*args, **options):
        taken.append(options.get("create_graph", False))
        return plain(*args, **options)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    return taken


@pytest.mark.parametrize("name", ["grad_cam", "hires_cam", "layer_cam", "cam"])
def test_no_second_derivative_behind_pooling_and_a_linear_layer(name, second_derivatives):
    model = network()
    explainer = camfast.METHODS[name](model, "body")
    explainer(X, Y, differentiable=True)
    second_derivatives.clear()
    result = explainer(X, Y, differentiable=True)
    assert not second_derivatives
    weight = torch.autograd.grad(result.heatmap.square().sum(), [model.fc.weight, model.stem[0].weight])
    assert all(bool(gradient.any()) for gradient in weight)


def test_elsewhere_the_head_alone_is_differentiated_twice(second_derivatives):
    model = network(DeepHead)
    reached = []
    model.stem[0].register_full_backward_hook(lambda *args: reached.append(1))
    explainer = camfast.GradCAM(model, "body")
    explainer(X, Y, differentiable=True)
    second_derivatives.clear(), reached.clear()
    result = explainer(X, Y, differentiable=True)
    assert second_derivatives == [True] and not reached
    result.heatmap.square().sum().backward()
    assert reached == [1]


@pytest.mark.parametrize("targets", [Y, SEVERAL, camfast.TopK(2), "all"], ids=["one", "several", "top", "all"])
def test_cam_is_grad_cam_there(targets):
    model = network().train()
    model.dropout = nn.Identity()
    maps = {}
    for name in ("cam", "grad_cam"):
        result = camfast.METHODS[name](model, "body")(X, targets, differentiable=True)
        maps[name] = gradients_of(model, (result.heatmap * torch.linspace(0, 1, 20).double()).sum())
    assert_same_gradients(maps["cam"], maps["grad_cam"])


def test_tokens():
    for model, layer, grid in (
        (TokenNet(), "blocks.0", lambda t: t[..., 1:, :].transpose(-1, -2).unflatten(-1, (4, 5))),
        (ChannelsLastNet(), "norm", lambda t: t.movedim(-1, -3)),
    ):
        model = model.double()
        result = camfast.GradCAM(model, layer)(X, Y, differentiable=True)
        found = gradients_of(model, loss_of(result.scores, result.heatmap))
        scores, heat = plain_heat(model, layer, X, Y, grid=grid)
        assert_same_gradients(found, gradients_of(model, loss_of(scores, heat)))


def test_fused_attention_behind_the_layer():
    class Fused(TokenNet):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.blocks(self.patch(x).flatten(2).transpose(1, 2))
            return self.fc((tokens + self.mix(tokens, tokens, tokens, need_weights=False)[0]).mean(1))

    torch.manual_seed(0)
    model = Fused().double()
    flags = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()
    result = camfast.GradCAM(model, "blocks")(X, Y, differentiable=True)
    assert flags == (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled())
    found = gradients_of(model, loss_of(result.scores, result.heatmap))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        grid = lambda t: t.transpose(-1, -2).unflatten(-1, (4, 5))  # noqa: E731
        scores, heat = plain_heat(model, "blocks", X, Y, grid=grid)
    assert_same_gradients(found, gradients_of(model, loss_of(scores, heat)))


def test_several_layers_and_other_targets():
    model = network(DeepHead)
    model.body[2] = nn.Softplus()  # a gradient behind a ReLU jumps
    for targets in (Y, camfast.targets.Contrast(1, 2), lambda scores: scores[1].square()):
        explainer = camfast.GradCAM(model, ["stem", "body"])
        result = explainer(X, targets, differentiable=True)
        expected = explainer(X, targets)
        torch.testing.assert_close(result.heatmap, expected.heatmap)
        gradient = gradients_of(model, (result.heatmap * X[:, 0]).sum())
        direction = {name: torch.randn_like(value) for name, value in gradient.items()}
        slope = sum(float((gradient[name] * direction[name]).sum()) for name in gradient)
        assert slope == pytest.approx(_slope(model, explainer, targets, direction), rel=1e-4)


@pytest.mark.parametrize("name", ["shapley_cam", "finer_cam", "refine_cam", "fem"])
def test_other_methods_by_differences(name):
    """The derivative along a direction in which all parameters move."""
    torch.manual_seed(3)
    model = network(DeepHead)
    for norm in (model.body[2], model.stem[2]):
        norm.inplace = False
    model.body[2] = nn.Softplus()
    explainer = camfast.METHODS[name](model, "body")
    result = explainer(X, Y, normalize=False, differentiable=True)
    torch.testing.assert_close(result.heatmap, explainer(X, Y, normalize=False).heatmap)
    gradient = gradients_of(model, (result.heatmap * X[:, 0]).sum())
    direction = {key: torch.randn_like(value) for key, value in gradient.items()}
    slope = sum(float((gradient[key] * direction[key]).sum()) for key in gradient)
    assert slope == pytest.approx(_slope(model, explainer, Y, direction, normalize=False), rel=1e-4)


def _slope(model, explainer, targets, direction, step: float = 1e-6, **call) -> float:
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter += sign * step * direction[name]
            values.append(float((explainer(X, targets, **call).heatmap * X[:, 0]).sum()))
            for name, parameter in model.named_parameters():
                parameter -= sign * step * direction[name]
    return (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize("normalize", ["shared", (0.0, 0.2)])
def test_ranges_count_as_constants(normalize):
    model = network(DeepHead)
    explainer = camfast.GradCAM(model, "body")
    result = explainer(X, Y, normalize=normalize, differentiable=True)
    raw = explainer(X, Y, normalize=False, differentiable=True).heatmap
    low, high = result.scale
    by_hand = ((raw.clamp(min=0) - low) / (high - low)).clamp(0, 1)
    torch.testing.assert_close(result.heatmap, by_hand)
    found, wanted = (gradients_of(model, (heat * X[:, 0]).sum()) for heat in (result.heatmap, by_hand))
    assert_same_gradients(found, wanted)


@pytest.mark.parametrize("kind", ["dict", "tuple", "object"])
def test_outputs_in_structures(kind):
    torch.manual_seed(0)
    model = calibrated(Output(kind).double(), X)
    explainer = camfast.GradCAM(model, "body")
    found = explainer.layer_maps(X, Y, differentiable=True)
    result = explainer.result(found)
    features = (
        found.output["features"] if kind == "dict" else found.output[1] if kind == "tuple" else found.output.hidden
    )
    assert features.requires_grad and result.scores.requires_grad
    assert torch.equal(result.scores, model(X)["logits"] if kind == "dict" else result.scores)


def test_a_method_of_ones_own():
    @camfast.method("mine_trained")
    def mine_trained(A, G):
        return (A * G).tanh().mean(-1)

    try:
        model = network(DeepHead)
        result = camfast.METHODS["mine_trained"](model, "body")(X, Y, normalize=False, differentiable=True)
        assert all(bool(g.any()) for g in torch.autograd.grad(result.heatmap.sum(), list(model.fc.parameters())[:1]))
    finally:
        del camfast.METHODS["mine_trained"]
