"""Losses on heat in whole training steps: every parameter's gradient as by plain autograd, compiled and data-parallel too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from interpreter import run_python
from models import DeepHead, SmallNet, images
from plain_losses import attention_mining, right_for_the_right_reasons

import camfast
from camfast import losses

LABELS = torch.tensor([0, 3, 1])
MASKS = torch.zeros(3, 16, 20, dtype=torch.bool)
MASKS[:, 2:10, 4:15] = True
VIEW = losses.View((0.2, 0.0, 1.0, 0.75), mirrored=True, size=(16, 20))


def networks():
    """Behind the layer: pooling and a linear layer; two linear layers with a curve between, so that it takes a second
    derivative."""
    found = {}
    for network in (SmallNet, DeepHead):
        torch.manual_seed(0)
        model = network().double()
        model.dropout = torch.nn.Identity()
        found[network.__name__] = model
    return found


def hand_made_heat(model, x, labels):
    """Grad-CAM by plain autograd, at the images' size, with its graph."""
    A = model.body(model.stem(x))
    scores = model.head(A)
    (G,) = torch.autograd.grad(scores.gather(1, labels[:, None]).sum(), A, create_graph=True)
    raw = (G.mean((2, 3), keepdim=True) * A).sum(1).relu()

    def scaled(maps):
        low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
        return (maps - low) / (high - low + 1e-7)

    return scores, scaled(F.interpolate(scaled(raw)[:, None], x.shape[2:], mode="bilinear")[:, 0])


def with_camfast(model, x, labels):
    result = camfast.GradCAM(model, "body")(x, labels, differentiable=True)
    return result.scores, result.heatmap


TEACHER = torch.rand(3, 16, 20, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
STEPS = {
    "energy_outside": lambda heat_of, model, x: losses.energy_outside(heat_of(model, x, LABELS)[1], MASKS),
    "right_for_the_right_reasons_heat": lambda heat_of, model, x: losses.right_for_the_right_reasons_heat(
        heat_of(model, x, LABELS)[1], MASKS
    ),
    "guided_attention": lambda heat_of, model, x: losses.guided_attention(heat_of(model, x, LABELS)[1], MASKS),
    "heat_consistency": lambda heat_of, model, x: losses.heat_consistency(
        heat_of(model, x, LABELS)[1], heat_of(model, VIEW(x), LABELS)[1], VIEW
    ),
    "heat_distillation": lambda heat_of, model, x: losses.heat_distillation(
        heat_of(model, x, LABELS)[1], TEACHER, kind="cosine"
    ),
    "sparsity and smoothness": lambda heat_of, model, x: (
        losses.sparsity(heat_of(model, x, LABELS)[1]) + losses.total_variation(heat_of(model, x, LABELS)[1])
    ),
    "attention_mining": lambda heat_of, model, x: (
        losses.attention_mining(model, x, heat_of(model, x, LABELS)[1], LABELS)
        if heat_of is with_camfast
        else attention_mining(model, x, heat_of(model, x, LABELS)[1], LABELS).mean()
    ),
}


def gradients(loss, model):
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return {name: gradient for (name, _), gradient in zip(model.named_parameters(), found, strict=True)}


def assert_same(found, expected):
    assert any(gradient is not None and bool(gradient.any()) for gradient in expected.values())
    for name, gradient in expected.items():
        ours = found[name]
        if gradient is None or ours is None:
            other = ours if gradient is None else gradient
            assert other is None or other.abs().max() < 1e-12, name
            continue
        torch.testing.assert_close(ours, gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()), msg=name)


@pytest.mark.parametrize("network", ["SmallNet", "DeepHead"])
@pytest.mark.parametrize("name", STEPS)
def test_gradients_of_every_parameter(network, name):
    model, x = networks()[network].eval(), images(3).double()
    step = STEPS[name]
    found = gradients(step(with_camfast, model, x), model)
    assert_same(found, gradients(step(hand_made_heat, model, x), model))


@pytest.mark.parametrize("network", ["SmallNet", "DeepHead"])
def test_scores_with_a_graph_to_the_images(network):
    """Both kinds of right reasons, of one pass."""
    model, x = networks()[network].eval(), images(3).double()
    pixels = x.clone().requires_grad_()
    scores, heat = with_camfast(model, pixels, LABELS)
    both = losses.right_for_the_right_reasons(scores, pixels, MASKS) + losses.energy_outside(heat, MASKS)
    theirs = right_for_the_right_reasons(model, x, MASKS).mean()
    theirs = theirs + losses.energy_outside(hand_made_heat(model, x, LABELS)[1], MASKS)
    torch.testing.assert_close(both, theirs)
    assert_same(gradients(both, model), gradients(theirs, model))


@pytest.mark.parametrize("network", ["SmallNet", "DeepHead"])
def test_compiled_networks_and_losses(network):
    torch._dynamo.reset()
    model, x = networks()[network].float(), images(3)
    model.eval()
    compiled = torch.compile(model, backend="aot_eager")
    loss_of = torch.compile(losses.energy_outside, backend="aot_eager", fullgraph=True)
    explainer = camfast.GradCAM(compiled, "body")
    result = explainer(x, LABELS, differentiable=True)
    loss = F.cross_entropy(result.scores, LABELS) + loss_of(result.heatmap, MASKS)
    scores, heat = hand_made_heat(model, x, LABELS)
    expected = F.cross_entropy(scores, LABELS) + losses.energy_outside(heat, MASKS)
    torch.testing.assert_close(loss, expected)
    assert_same(gradients(loss, model), gradients(expected, model))


PARALLEL = """
import os, sys
sys.path[:0] = {paths!r}
import torch, torch.distributed as dist, torch.multiprocessing as processes
import torch.nn.functional as F
from models import DeepHead, images
import camfast
from camfast import losses

LABELS = torch.arange(4) % 5
MASKS = torch.zeros(4, 16, 20, dtype=torch.bool)
MASKS[:, 2:10, 4:15] = True

def network():
    torch.manual_seed(0)
    model = DeepHead()
    model.dropout = torch.nn.Identity()
    return model.eval()

def loss_of(model, part):
    x, labels, masks = images(4)[part], LABELS[part], MASKS[part]
    view = losses.View(mirrored=True)
    explainer = camfast.GradCAM(model, "body")
    result = explainer(x, labels, differentiable=True)
    other = explainer(view(x), labels, differentiable=True)
    heat = losses.energy_outside(result.heatmap, masks) + losses.heat_consistency(result.heatmap, other.heatmap, view)
    return F.cross_entropy(result.scores, labels) + heat

def work(rank, file):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="file://" + file, rank=rank, world_size=2)
    model = network()
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    loss_of(parallel, slice(2 * rank, 2 * rank + 2)).backward()
    alone = network()
    loss_of(alone, slice(0, 4)).backward()
    for (name, ours), theirs in zip(model.named_parameters(), alone.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6, msg=name)
    assert model.stem[0].weight.grad.any()
    dist.destroy_process_group()

if __name__ == "__main__":
    processes.spawn(work, (sys.argv[1],), 2)
    print("equal")
"""


def test_two_processes_make_the_gradients_of_one(tmp_path):
    script = tmp_path / "parallel.py"
    paths = [str(Path(__file__).resolve().parents[1]), str(Path(camfast.__file__).parents[1])]
    script.write_text(PARALLEL.format(paths=paths))
    done = run_python(script, tmp_path / "meeting")
    assert done.returncode == 0 and "equal" in done.stdout, done.stderr
