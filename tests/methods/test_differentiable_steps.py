"""A training step with heat in its loss is a training step: modes, buffers, random numbers, wrappers, memory, errors."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from models import CutOff, DeepHead, FrozenTrunk, SmallNet, TokenNet, bystander_state, calibrated, images
from plain_training import RULES, assert_same_gradients, gradients_of, plain_heat
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import camfast

X = images(3).double()
Y = torch.tensor([1, 4, 0])


def network(kind: type[nn.Module] = SmallNet) -> nn.Module:
    torch.manual_seed(0)
    return calibrated(kind().double(), images(4).double())


def loss_of(scores: Tensor, heat: Tensor) -> Tensor:
    return F.cross_entropy(scores, Y) + (heat * X[:, 0]).sum()


# The pass


@pytest.mark.parametrize("layers", [None, "body"])
@pytest.mark.parametrize("kind", [SmallNet, DeepHead])
def test_the_pass_is_the_steps_own(kind, layers):
    """Buffers, random numbers and scores are those of one plain pass in training mode, at the first call and later."""
    model, twin = network(kind).train(), network(kind).train()
    explainer = camfast.GradCAM(model, layers)
    for _ in range(3):
        torch.manual_seed(5)
        expected = twin(X)
        state = torch.random.get_rng_state()
        torch.manual_seed(5)
        result = explainer(X, Y, differentiable=True)
        assert torch.equal(result.scores, expected)
        assert torch.equal(torch.random.get_rng_state(), state)
        for (name, ours), theirs in zip(model.named_buffers(), twin.buffers(), strict=True):
            assert torch.equal(ours, theirs), name
        assert all(module.training for module in model.modules())


def test_no_trace_but_the_graph():
    model = network().train()
    explainer = camfast.GradCAM(model)
    explainer(X, Y)
    before = bystander_state(model)
    result = explainer(X, Y, differentiable=True)
    after = bystander_state(model)
    for kind in ("hooks", "training", "requires_grad", "identity", "attributes", "grad"):
        assert before[kind] == after[kind], kind
    assert result.heatmap.requires_grad and result.scores.requires_grad


def test_after_an_error():
    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError("in the head")

    model = network().train()
    explainer = camfast.GradCAM(model, "body")
    explainer(X, Y, differentiable=True)
    before, good = bystander_state(model)["hooks"], model.dropout
    model.dropout = Fails()
    with pytest.raises(RuntimeError, match="in the head"):
        explainer(X, Y, differentiable=True)
    model.dropout = good
    assert bystander_state(model)["hooks"] == before
    assert explainer(X, Y, differentiable=True).heatmap.requires_grad


def test_training_by_heat_moves_the_heat():
    model = network().train()
    explainer, mask = camfast.GradCAM(model, "body"), torch.zeros_like(X[:, 0])
    mask[:, :8] = 1
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    inside = []
    for _ in range(20):
        result = explainer(X, Y, differentiable=True)
        share = ((result.heatmap * mask).sum((1, 2)) / (result.heatmap.sum((1, 2)) + 1e-6)).mean()
        optimizer.zero_grad()
        (F.cross_entropy(result.scores, Y) - 5 * share).backward()
        optimizer.step()
        inside.append(float(share.detach()))
    assert inside[-1] > inside[0] + 0.1


# Frozen parts, accumulation, checkpoints


@pytest.mark.parametrize("frozen", ["stem", "body", "stem body", "fc"])
@pytest.mark.parametrize("kind", [SmallNet, DeepHead])
def test_frozen_parts(kind, frozen):
    model = network(kind)
    for part in frozen.split():
        getattr(model, part).requires_grad_(False)
    result = camfast.LayerCAM(model, "body")(X, Y, differentiable=True)
    found = gradients_of(model, loss_of(result.scores, result.heatmap))
    images = X.clone().requires_grad_()  # so that there is a graph to keep by hand
    scores, heat = plain_heat(model, "body", images, Y, "layer_cam")
    assert_same_gradients(found, gradients_of(model, loss_of(scores, heat)))


def test_a_trunk_under_its_own_no_grad():
    model = network(FrozenTrunk)
    result = camfast.GradCAM(model, "body")(X, Y, differentiable=True)
    found = gradients_of(model, loss_of(result.scores, result.heatmap))
    assert bool(found["fc.weight"].any()) and not found["stem.0.weight"].any()


def test_images_keep_their_graph():
    model, own = network(DeepHead), X.clone().requires_grad_()
    result = camfast.GradCAM(model, "body")(own, Y, differentiable=True)
    (found,) = torch.autograd.grad(loss_of(result.scores, result.heatmap), own)
    scores, heat = plain_heat(model, "body", own, Y)
    torch.testing.assert_close(found, torch.autograd.grad(loss_of(scores, heat), own)[0], rtol=1e-6, atol=1e-9)


def test_accumulation_over_two_batches():
    model, explainer = network(DeepHead), None
    explainer = camfast.GradCAM(model, "body")
    total = None
    for batch in (X, X.flip(0)):
        result = explainer(batch, Y, differentiable=True)
        own = gradients_of(model, loss_of(result.scores, result.heatmap))
        total = own if total is None else {name: total[name] + own[name] for name in own}
    for batch in (X, X.flip(0)):
        result = explainer(batch, Y, differentiable=True)
        loss_of(result.scores, result.heatmap).backward()
    assert_same_gradients({name: p.grad for name, p in model.named_parameters()}, total)


class Checkpointed(DeepHead):
    """Parts of it are computed again in the backward pass."""

    def __init__(self, parts: str = "", reentrant: bool = False) -> None:
        super().__init__()
        self.parts, self.reentrant = parts, reentrant

    def part(self, name: str, function, x: Tensor) -> Tensor:
        return checkpoint(function, x, use_reentrant=self.reentrant) if name in self.parts else function(x)

    def forward(self, x: Tensor) -> Tensor:
        if "all" in self.parts:
            return checkpoint(super().forward, x, use_reentrant=self.reentrant)
        x = self.part("stem", self.stem, x)
        return self.part("head", self.head, self.part("body", self.body, x))

    def head(self, features: Tensor) -> Tensor:
        return super().head(self.dropout(features))


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("parts", ["stem", "body", "head", "stem body head", "all"])
def test_checkpoints(parts, mode):
    model, plain = network(Checkpointed), network(Checkpointed)
    model.parts = parts
    model.train(mode == "train"), plain.train(mode == "train")
    explainer = camfast.HiResCAM(model, "body")
    torch.manual_seed(5)
    result = explainer(X, Y, differentiable=True)
    found = gradients_of(model, loss_of(result.scores, result.heatmap))
    torch.manual_seed(5)
    scores, heat = plain_heat(plain, "body", X, Y, "hires_cam")
    assert_same_gradients(found, gradients_of(plain, loss_of(scores, heat)))


class Transformer(TokenNet):
    """Blocks of fused attention, in checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(nn.TransformerEncoderLayer(16, 2, 32, 0.1, batch_first=True) for _ in range(3)))
        self.checkpointed = self.reentrant = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant) if self.checkpointed else block(x)
        return self.fc(x.mean(1))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("layer", ["blocks.0", "blocks.1.norm1", "blocks.1.linear1"])
def test_attention_in_checkpoints(layer, reentrant):
    wanted = None
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model = Transformer().double().train()
        model.checkpointed, model.reentrant = checkpointed, reentrant
        explainer = camfast.GradCAM(model, layer)
        for seed in (1, 2):
            torch.manual_seed(seed)
            result = explainer(X, Y, differentiable=True)
            found = gradients_of(model, loss_of(result.scores, result.heatmap))
        wanted = found if wanted is None else wanted
    assert_same_gradients(found, wanted)


def test_the_first_pass_counts_once():
    """Also where it was taken twice."""
    counts = []
    for parts in ("", "all"):
        model = network(Checkpointed).train()
        model.parts, model.reentrant = parts, True
        torch.manual_seed(3)
        camfast.GradCAM(model, "body")(X.clone().requires_grad_(), Y, differentiable=True)
        counts.append([buffer.clone() for buffer in model.buffers()] + [torch.random.get_rng_state()])
    assert all(map(torch.equal, *counts))


def test_reentrant_checkpoints():
    plain = network(Checkpointed)
    scores, heat = plain_heat(plain, "body", X, Y)
    wanted = gradients_of(plain, loss_of(scores, heat))
    model = network(Checkpointed)
    model.parts, model.reentrant = "stem", True  # before the layer they are as good as others
    own = X.clone().requires_grad_()
    result = camfast.GradCAM(model, "body")(own, Y, differentiable=True)
    assert_same_gradients(gradients_of(model, loss_of(result.scores, result.heatmap)), wanted)
    for parts in ("body", "head", "all", "stem body head"):
        model.parts = parts
        explainer = camfast.GradCAM(model, "body")
        for _ in range(2):
            result = explainer(own, Y, differentiable=True)
            assert_same_gradients(gradients_of(model, loss_of(result.scores, result.heatmap)), wanted)


# torch.compile


@pytest.mark.parametrize("what", ["model", "model, own call", "trunk", "head", "layer", "nothing, but in parallel"])
@pytest.mark.parametrize("kind", [SmallNet, DeepHead])
def test_compiled(kind, what):
    plain = network(kind)
    scores, heat = plain_heat(plain, "body", X, Y)
    wanted = gradients_of(plain, loss_of(scores, heat))
    model = network(kind)
    called = model
    if what == "model":
        called = torch.compile(model, backend="aot_eager")
    elif what == "model, own call":
        model.compile(backend="aot_eager")
    elif what == "nothing, but in parallel":
        called = nn.DataParallel(model)
    elif what == "trunk":
        model.stem = torch.compile(model.stem, backend="aot_eager")
    elif what == "head":
        model.fc = torch.compile(model.fc, backend="aot_eager")
    else:
        model.body = torch.compile(model.body, backend="aot_eager")
    called(X)  # compiled before any hook
    explainer = camfast.GradCAM(called, "body")
    for _ in range(2):
        result = explainer(X, Y, differentiable=True)
        found = gradients_of(model, loss_of(result.scores, result.heatmap))
        renamed = {name.replace("_orig_mod.", ""): value for name, value in found.items()}
        assert_same_gradients(renamed, wanted)
    torch.testing.assert_close(called(X), scores)  # compiled still


@pytest.mark.parametrize("kind", [SmallNet, DeepHead])
def test_a_compiled_step(kind):
    model = network(kind)
    explainer = camfast.GradCAM(model, "body")

    def step(x: Tensor) -> Tensor:
        result = explainer(x.mul(1), Y, differentiable=True)
        return loss_of(result.scores, result.heatmap).mul(2)

    wanted = gradients_of(model, step(X))
    compiled = torch.compile(step, backend="aot_eager")
    for _ in range(2):
        assert_same_gradients(gradients_of(model, compiled(X)), wanted)


def test_a_trunk_stays_compiled():
    model, runs = network(), []
    stem = model.stem

    class Noted(nn.Module):
        def forward(self, x):
            runs.append(torch.compiler.is_compiling())
            return x

    model.stem = torch.compile(nn.Sequential(stem, Noted()), backend="aot_eager")
    model(X)
    assert runs == [True]
    explainer = camfast.GradCAM(model, "body")
    explainer(X, Y, differentiable=True)
    runs.clear()
    explainer(X, Y, differentiable=True)
    assert runs == [True]


# Memory


def test_nothing_is_kept_alive():
    gc.collect()
    gc.disable()
    try:
        for kind in (SmallNet, DeepHead):
            model = network(kind).train()
            kept = []
            model.body.register_forward_hook(lambda module, args, output, kept=kept: kept.append(weakref.ref(output)))
            explainer = camfast.GradCAM(model, "body")
            result = explainer(X, Y, differentiable=True)
            loss_of(result.scores, result.heatmap).backward()
            heat = weakref.ref(result.heatmap)
            del result
            assert heat() is None and [ref for ref in kept if ref() is not None] == []
    finally:
        gc.enable()


def test_the_number_of_tensors_is_flat():
    model = network(DeepHead).train()
    explainer = camfast.GradCAM(model, "body")
    counts = []
    for step in range(12):
        result = explainer(X, Y, differentiable=True)
        loss_of(result.scores, result.heatmap).backward()
        del result
        if step % 4 == 3:
            counts.append(sum(type(thing) in (Tensor, nn.Parameter) for thing in gc.get_objects()))
    assert len(counts) == 3 and len(set(counts)) == 1


# Bad input


WITHOUT = [
    name
    for name, method in camfast.METHODS.items()
    if not method.derivative and name not in ("finer_cam", "refine_cam")
]


@pytest.mark.parametrize("name", WITHOUT)
def test_methods_without_a_derivative_say_so(name):
    explainer = camfast.METHODS[name](network())
    title = type(explainer).__name__
    with pytest.raises(
        ValueError, match=f"^differentiable=True needs a method with a derivative, got {title}; use GradCAM"
    ):
        explainer(X, differentiable=True)


def test_those_without_a_derivative():
    assert {"score_cam", "ss_cam", "is_cam", "ablation_cam", "eigen_cam", "eigen_grad_cam", "recipro_cam"} <= set(
        WITHOUT
    )
    with_one = set(camfast.METHODS) - set(WITHOUT)
    assert {"cam", "grad_cam", "hires_cam", "layer_cam", "shapley_cam", "finer_cam", "refine_cam"} <= with_one
    made = camfast.RefineCAM(network(), ["stem", "body"], base_method=camfast.EigenCAM)
    with pytest.raises(ValueError, match="needs a method with a derivative, got RefineCAM"):
        made(X, differentiable=True)


def test_other_refusals():
    model = network()
    for options, message in (
        ({"eigen_smooth": True}, "eigen_smooth, whose component"),
        ({"aug_smooth": True}, "takes six"),
    ):
        with pytest.raises(ValueError, match=message):
            camfast.GradCAM(model, "body", **options)(X, differentiable=True)
    for context in (torch.no_grad, torch.inference_mode):
        with context(), pytest.raises(ValueError, match=r"needs a graph, got a call under no_grad\(\)"):
            camfast.GradCAM(model, "body")(X, differentiable=True)
    with pytest.raises(TypeError, match=r"grad_cam\(\) explains one call.*GradCAM\(model\)"):
        camfast.grad_cam(model, X, differentiable=True)
    with pytest.raises(ValueError, match="differentiable operations, got no gradient for 'body'"):
        camfast.GradCAM(network(CutOff), "body")(X, differentiable=True)


def test_scores_that_are_nan_name_the_image():
    model, bad = network(), X.clone()
    bad[1, 0, 3, 3] = torch.nan
    explainer = camfast.GradCAM(model, "body")
    with pytest.raises(
        ValueError, match="^expected scores that are numbers, got NaN for image 1 of 3: look for NaN in it$"
    ):
        explainer(bad, Y, differentiable=True)
    with torch.no_grad():
        model.fc.bias[0] = torch.nan
    with pytest.raises(ValueError, match="got NaN for every image of 3: the weights may be NaN too"):
        explainer(X, Y, differentiable=True)


@pytest.mark.filterwarnings("ignore::camfast.errors.DoubtWarning")
@pytest.mark.parametrize("name", ["cam", *RULES])
@pytest.mark.parametrize("kind", ["zero weights", "negative weights", "constant activations", "zero activations"])
def test_blank_maps_have_finite_gradients(kind, name):
    for layers in ("body", ["body", "stem"]):
        if name == "cam" and layers != "body":
            continue
        model = network().float()
        last = model.body[1]
        with torch.no_grad():
            if kind == "zero weights":
                model.fc.weight.zero_()
            elif kind == "negative weights":
                model.fc.weight.copy_(-model.fc.weight.abs())
            else:
                last.weight.zero_()
                last.bias.fill_(1.0 if kind == "constant activations" else -1.0)
        result = camfast.METHODS[name](model, layers)(X.float(), Y, differentiable=True)
        inside = result.heatmap[:, :4].sum((1, 2)) / (result.heatmap.sum((1, 2)) + 1e-6)
        found = gradients_of(model, inside.sum() + result.heatmap.square().sum())
        assert all(gradient.isfinite().all() for gradient in found.values())
        assert max(float(gradient.abs().max()) for gradient in found.values()) < 1e4


def test_pictures_of_what_has_a_graph(tmp_path):
    result = camfast.GradCAM(network(), "body")(X, Y, differentiable=True)
    assert result.overlay().shape == (3, 16, 20, 3) and not result.overlay().requires_grad
    result.save(tmp_path / "heat.png")
    assert 0 <= result.score(0) <= 1 and "Explanation(" in repr(result)
    assert not result.detach().heatmap.requires_grad and not result.detach().scores.requires_grad
    assert result[1:].heatmap.requires_grad and result._repr_html_()
