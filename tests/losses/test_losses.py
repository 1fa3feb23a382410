"""Losses on heat: equal to their formulas in plain PyTorch, with finite gradients, and clear about what does not fit."""

from __future__ import annotations

import warnings
from functools import partial

import plain_losses as plain
import pytest
import torch
from models import SmallNet, images
from torch import nn

from camfast import losses
from camfast.errors import DoubtWarning

HEATS = {"one target": (3, 6, 5), "two targets": (3, 2, 6, 5)}


def random(*shape, seed=0, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


MASKS = random(3, 6, 5, seed=1) > 0.6


TEACHERS = {shape: random(*shape, seed=2, dtype=torch.float32) for shape in HEATS.values()}


def teacher(heat):
    return TEACHERS[tuple(heat.shape)]


MIRRORED = losses.View(mirrored=True)

# By name: the loss of heat alone with what it needs, and the same in plain PyTorch, a value per map.
CASES = {
    "energy_outside": (
        lambda heat, **o: losses.energy_outside(heat, MASKS, **o),
        lambda heat: plain.energy_outside(heat, MASKS),
    ),
    "right_for_the_right_reasons_heat": (
        lambda heat, **o: losses.right_for_the_right_reasons_heat(heat, MASKS, **o),
        lambda heat: plain.right_for_the_right_reasons_heat(heat, MASKS),
    ),
    "guided_attention": (
        lambda heat, **o: losses.guided_attention(heat, MASKS, **o),
        lambda heat: plain.guided_attention(heat, MASKS),
    ),
    "heat_consistency": (
        lambda heat, **o: losses.heat_consistency(heat, teacher(heat), MIRRORED, **o),
        lambda heat: plain.heat_consistency(heat, teacher(heat)),
    ),
    "heat_distillation l2": (
        lambda heat, **o: losses.heat_distillation(heat, teacher(heat), **o),
        lambda heat: plain.distillation_l2(heat, teacher(heat)),
    ),
    "heat_distillation cosine": (
        lambda heat, **o: losses.heat_distillation(heat, teacher(heat), kind="cosine", **o),
        lambda heat: plain.distillation_cosine(heat, teacher(heat)),
    ),
    "sparsity": (losses.sparsity, plain.sparsity),
    "total_variation": (losses.total_variation, plain.total_variation),
}
each_case = pytest.mark.parametrize("name", CASES)
each_heat = pytest.mark.parametrize("kind", HEATS)


def value_and_gradient(loss, heat):
    heat = heat.detach().clone().requires_grad_()
    value = loss(heat)
    (gradient,) = torch.autograd.grad(value.sum(), heat)
    return value.detach(), gradient


@each_case
@each_heat
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_equal_to_plain_pytorch(name, kind, dtype):
    ours, formula = CASES[name]
    heat = random(*HEATS[kind]).to(dtype)
    value, gradient = value_and_gradient(partial(ours, reduction="none"), heat)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    expected, slope = value_and_gradient(formula, heat.to(wide))
    assert value.dtype == wide and gradient.dtype == dtype
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient.to(wide), slope, rtol=1e-5 if dtype == wide else 1e-2, atol=1e-6)


@each_case
@each_heat
def test_reductions_and_weights(name, kind):
    ours, formula = CASES[name]
    heat = random(*HEATS[kind])
    one_by_one = formula(heat)
    weights = torch.tensor([2.0, 0.0, 1.0])
    shares = (weights if heat.ndim == 3 else weights[:, None]).to(one_by_one).expand(one_by_one.shape)
    with torch.no_grad():
        torch.testing.assert_close(ours(heat), one_by_one.mean())
        torch.testing.assert_close(ours(heat, reduction="sum"), one_by_one.sum())
        torch.testing.assert_close(ours(heat, weights=weights), (shares * one_by_one).sum() / shares.sum())
        torch.testing.assert_close(ours(heat, weights=shares, reduction="none"), shares * one_by_one)
        assert ours(heat, weights=torch.zeros(3)) == 0
        with pytest.raises(ValueError, match="reduction must be 'mean', 'sum' or 'none', got 'average'"):
            ours(heat, reduction="average")
        with pytest.raises(ValueError, match=r"weights must be \[N\] or as the maps .*, got \[4\]"):
            ours(heat, weights=torch.ones(4))
        with pytest.raises(TypeError, match="weights must be a tensor, got list"):
            ours(heat, weights=[1.0, 0.0, 1.0])


@each_case
def test_derivatives_of_first_and_second_order(name):
    heat = (random(2, 3, 4, seed=5) + 0.05).requires_grad_()

    def loss(heat):
        return CASES_OF_TWO[name](heat)

    assert torch.autograd.gradcheck(loss, heat)
    assert torch.autograd.gradgradcheck(loss, heat)


TWO = random(2, 3, 4, seed=1) > 0.6
OTHER = random(2, 3, 4, seed=7)
CASES_OF_TWO = {
    "energy_outside": lambda heat: losses.energy_outside(heat, TWO),
    "right_for_the_right_reasons_heat": lambda heat: losses.right_for_the_right_reasons_heat(heat, TWO),
    "guided_attention": lambda heat: losses.guided_attention(heat, TWO),
    "heat_consistency": lambda heat: losses.heat_consistency(heat, OTHER, MIRRORED, kind="l2"),
    "heat_distillation l2": lambda heat: losses.heat_distillation(heat, OTHER),
    "heat_distillation cosine": lambda heat: losses.heat_distillation(heat, OTHER, kind="cosine"),
    "sparsity": losses.sparsity,
    "total_variation": losses.total_variation,
}


@each_case
@each_heat
@pytest.mark.parametrize("level", [0.0, 1e-9, 0.7])
def test_blank_maps_give_a_finite_loss_and_gradient(name, kind, level):
    """Zero throughout, nearly so, and the same everywhere; the map beside keeps its own."""
    ours, formula = CASES[name]
    heat = random(*HEATS[kind])
    heat[1] = level
    value, gradient = value_and_gradient(partial(ours, reduction="none"), heat)
    assert value.isfinite().all() and gradient.isfinite().all()
    assert gradient[1].abs().max() < 10
    torch.testing.assert_close(value[0], formula(heat)[0])


def test_a_blank_map_has_none_of_its_heat_inside():
    heat = torch.zeros(2, 4, 4).requires_grad_()
    inside = torch.ones(2, 4, 4, dtype=torch.bool)
    assert losses.energy_inside(heat, inside).tolist() == [0, 0]
    loss = losses.energy_outside(heat, inside)
    loss.backward()
    assert loss.item() == 1 and not heat.grad.any()


@each_case
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_heat_that_is_not_finite_names_the_image(name, value):
    heat = random(*HEATS["two targets"])
    heat[2, 1, 0, 0] = value
    with torch.no_grad(), pytest.raises(ValueError, match="heat must be finite, got NaN or infinity in image 2 of 3"):
        CASES[name][0](heat)
    heat[0] = value
    with torch.no_grad(), pytest.raises(ValueError, match="in images 0, 2 of 3; the network's activations"):
        CASES[name][0](heat)


@each_case
def test_what_is_no_heat_is_refused(name):
    of_pairs = {"heat_consistency": losses.heat_consistency, "heat_distillation": losses.heat_distillation}
    pair = of_pairs.get(name.split()[0])
    loss = CASES[name][0] if pair is None else lambda heat: pair(heat, OTHER)
    for wrong, error, message in [
        ([1, 2], TypeError, "heat must be a floating tensor, such as explainer.*, got list"),
        (torch.ones(3, 6, 5, dtype=torch.uint8), TypeError, "got uint8"),
        (torch.ones(6, 5), ValueError, r"heat must be \[N, H, W\] or \[N, K, H, W\], got \[6, 5\]"),
    ]:
        with torch.no_grad(), pytest.raises(error, match=message):
            loss(wrong)


@each_case
def test_heat_without_a_graph_is_said(name):
    heat = random(*HEATS["one target"])
    with pytest.warns(DoubtWarning, match="heat has no graph, so that its loss trains nothing"):
        CASES[name][0](heat)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CASES[name][0](heat.requires_grad_())
        with torch.no_grad():
            CASES[name][0](heat.detach())
        losses.energy_inside(heat.detach(), MASKS)


@each_case
def test_compiled_whole(name):
    """No break in the graph, and the same value and gradient."""
    heat = random(*HEATS["two targets"], dtype=torch.float32)
    loss = CASES[name][0]
    expected = value_and_gradient(loss, heat)
    torch._dynamo.reset()
    found = value_and_gradient(torch.compile(loss, fullgraph=True, backend="aot_eager"), heat)
    torch.testing.assert_close(found, expected)


@each_case
@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 0, 4, 4), (1, 1, 1)])
def test_no_images_and_maps_of_one_position(name, shape):
    masks = torch.ones(shape[0], *shape[-2:], dtype=torch.bool)
    heat = torch.rand(shape).requires_grad_()
    call = {
        "energy_outside": lambda: losses.energy_outside(heat, masks),
        "right_for_the_right_reasons_heat": lambda: losses.right_for_the_right_reasons_heat(heat, masks),
        "guided_attention": lambda: losses.guided_attention(heat, masks),
        "heat_consistency": lambda: losses.heat_consistency(heat, heat, MIRRORED),
        "heat_distillation l2": lambda: losses.heat_distillation(heat, heat),
        "heat_distillation cosine": lambda: losses.heat_distillation(heat, heat, kind="cosine"),
        "sparsity": lambda: losses.sparsity(heat),
        "total_variation": lambda: losses.total_variation(heat),
    }[name]()
    call.backward()
    assert call.isfinite() and heat.grad.isfinite().all()


# Pairs of heat


def test_consistency_of_views():
    """Heat that moves with the image costs nothing, whatever the view; heat that stays where it was does."""
    heat = images(2, 1, (32, 32))[:, 0].double().requires_grad_()
    for view in (MIRRORED, losses.View((0.25, 0, 0.75, 0.5)), losses.View((0, 0.25, 0.75, 1), True, 48)):
        other = view(heat)
        assert losses.heat_consistency(heat, other, view) < 1e-12
        assert losses.heat_consistency(heat, 3 * other + 1, view) < 1e-12  # each by its own range
        assert losses.heat_consistency(heat, other, view, rescale=False, kind="l2") < 1e-12
        assert losses.heat_consistency(heat, other.flip(-2), view) > 0.05
    small = losses.View(size=8)(heat)
    torch.testing.assert_close(losses.heat_consistency(small, heat, rescale=False, reduction="none").shape, (2,))


def test_both_sides_of_consistency_have_a_gradient():
    heat, other = random(2, 6, 6).requires_grad_(), random(2, 6, 6, seed=3).requires_grad_()
    losses.heat_consistency(heat, other, MIRRORED).backward()
    assert heat.grad.any() and other.grad.any()


def test_no_gradient_goes_to_the_teacher_and_its_size_may_differ():
    heat, taught = random(2, 6, 6).requires_grad_(), random(2, 3, 3, seed=3).requires_grad_()
    losses.heat_distillation(heat, taught).backward()
    assert heat.grad.any() and taught.grad is None
    large = torch.nn.functional.interpolate(taught.detach()[:, None], (6, 6), mode="bilinear")[:, 0]
    torch.testing.assert_close(losses.heat_distillation(heat, taught), losses.heat_distillation(heat, large))


@pytest.mark.parametrize("loss", [losses.heat_consistency, losses.heat_distillation])
def test_pairs_that_do_not_fit(loss):
    heat = random(2, 6, 6).requires_grad_()
    with pytest.raises(ValueError, match=r"must have a map for each of heat \[2, 6, 6\], got \[3, 6, 6\]"):
        loss(heat, random(3, 6, 6))
    with pytest.raises(ValueError, match="kind must be"):
        loss(heat, heat, kind="l3")
    broken = random(2, 6, 6)
    broken[1] = torch.nan
    with pytest.raises(ValueError, match="must be finite, got NaN or infinity in image 1 of 2"):
        loss(heat, broken)


# Losses that run the network


@each_heat
def test_attention_mining(kind):
    model, x = SmallNet().double().eval(), images(3, size=(6, 5)).double()
    heat = random(*HEATS[kind])
    targets = torch.arange(heat[..., 0, 0].numel()).reshape(heat.shape[:-2]) % 5
    found = value_and_gradient(lambda h: losses.attention_mining(model, x, h, targets, reduction="none"), heat)
    expected = value_and_gradient(lambda h: plain.attention_mining(model, x, h, targets), heat)
    torch.testing.assert_close(found, expected)
    many = losses.attention_mining(model, x, heat.requires_grad_(), targets, probabilities=torch.sigmoid)
    assert 0 < many < 1 and many != found[0].mean()


def test_attention_mining_reads_scores_from_objects_and_refuses_what_does_not_fit():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = SmallNet()

        def forward(self, x):
            return {"logits": self.net(x), "other": x}

    model, x = Wrapped().eval(), images(3, size=(6, 5))
    heat = random(*HEATS["one target"], dtype=torch.float32).requires_grad_()
    labels = torch.tensor([0, 1, 2])
    inside = losses.attention_mining(model, x, heat, labels)
    torch.testing.assert_close(inside, losses.attention_mining(model.net, x, heat, labels))
    with pytest.raises(TypeError, match="targets must be an int64 tensor of classes, got list"):
        losses.attention_mining(model, x, heat, [0, 1, 2])
    with pytest.raises(ValueError, match=r"targets must be a class for each map of \[3, 6, 5\], got \[2\]"):
        losses.attention_mining(model, x, heat, labels[:2])
    with pytest.raises(ValueError, match="images must be .* of the heat's size"):
        losses.attention_mining(model, images(3), heat, labels)
    x[2] = torch.nan
    with pytest.raises(
        ValueError, match="scores of the erased images must be finite, got NaN or infinity in image 2 of 3"
    ):
        losses.attention_mining(model, x, heat, labels)


def test_soft_erasing():
    x = images(2, size=(4, 4))
    heat = torch.zeros(2, 4, 4)
    heat[:, :2] = 1
    with torch.no_grad():
        erased = losses.soft_erase(x, heat, sharpness=100)
        torch.testing.assert_close(erased[:, :, 2:], x[:, :, 2:])
        assert erased[:, :, :2].abs().max() < 1e-6
        grey = losses.soft_erase(x, heat, sharpness=100, fill=torch.full((3, 1, 1), 0.5))
        torch.testing.assert_close(grey[:, :, :2], torch.full((2, 3, 2, 4), 0.5))
        half = losses.soft_erase(x, torch.full((2, 4, 4), 0.3), threshold=0.3)
        torch.testing.assert_close(half, x / 2)
        several = losses.soft_erase(x, heat[:, None].expand(2, 3, 4, 4))
        torch.testing.assert_close(several[:, 1], losses.soft_erase(x, heat))
        assert losses.soft_erase(x.bfloat16(), heat).dtype == torch.bfloat16


def test_right_for_the_right_reasons_in_the_image():
    """Equal for every parameter, where the images' passes are one or many."""
    model, x = SmallNet().double().eval(), images(3, size=(6, 5)).double()
    pixels = x.clone().requires_grad_()
    ours = losses.right_for_the_right_reasons(model(pixels), pixels, MASKS, reduction="none")
    theirs = plain.right_for_the_right_reasons(model, x, MASKS)
    torch.testing.assert_close(ours, theirs)
    found = torch.autograd.grad(ours.mean(), list(model.parameters()), allow_unused=True)
    expected = torch.autograd.grad(theirs.mean(), list(model.parameters()), allow_unused=True)
    assert sum(gradient is not None and bool(gradient.any()) for gradient in found) > 4
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a if a is not None else b, b if b is not None else a)


def test_right_for_the_right_reasons_needs_a_graph_to_the_images():
    model, x = SmallNet().eval(), images(3, size=(6, 5))
    with pytest.raises(ValueError, match=r"got none; call images.requires_grad_\(\) before the pass"):
        losses.right_for_the_right_reasons(model(x), x, MASKS)
    x.requires_grad_()
    scores = model(x.clone())
    with pytest.raises(ValueError, match="pass the very tensor that the network saw"):
        losses.right_for_the_right_reasons(scores, images(3, size=(6, 5)).requires_grad_(), MASKS)
    with pytest.raises(ValueError, match=r"scores must be \[N, classes\] of images"):
        losses.right_for_the_right_reasons(scores[:2], x, MASKS)
    with pytest.raises(TypeError, match="scores must be a floating tensor"):
        losses.right_for_the_right_reasons(scores.argmax(1), x, MASKS)
    broken = scores * torch.tensor([1, float("nan"), 1])[:, None]
    with pytest.raises(ValueError, match="scores must be finite, got NaN or infinity in image 1 of 3"):
        losses.right_for_the_right_reasons(broken, x, MASKS)
    none = losses.right_for_the_right_reasons(scores, x, [None, None, None])
    assert none == 0
