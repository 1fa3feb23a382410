"""An explanation leaves no trace: not on the model, not in memory, not in torch's modes; not even when it fails."""

from __future__ import annotations

import contextlib
import copy
import gc
import threading
import weakref

import models
import pytest
import torch
from models import SmallNet, bystander_state, calibrated, images
from torch import nn

import camfast
from camfast.model import untouched

IMAGES = images(2)
METHODS = ["cam", "grad_cam", "grad_cam_plus_plus", "xgrad_cam", "hires_cam", "layer_cam", "grad_cam_elementwise"]


@pytest.fixture
def model():
    """A network in the middle of its training: mixed modes, a frozen part, gradients, a graph that is still needed."""
    net = calibrated(SmallNet(), IMAGES).train()
    net.stem.eval()
    net.stem[0].weight.requires_grad_(False)
    net(IMAGES).sum().backward()
    net.body[0].bias.grad = None
    return net


@contextlib.contextmanager
def nothing_changes(net: nn.Module):
    before = bystander_state(net)
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_cache_enabled()
    random = torch.random.get_rng_state()
    yield
    after = bystander_state(net)
    for kind in before:
        if kind in ("grad", "tensors"):
            for name, value in before[kind].items():
                now = after[kind][name]
                assert (value is None and now is None) or _same_bits(value, now), f"{kind} of {name}"
        else:
            assert before[kind] == after[kind], kind
    assert modes == (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_cache_enabled())
    assert torch.equal(random, torch.random.get_rng_state())
    assert not untouched._held


def _same_bits(a, b) -> bool:
    return a.dtype == b.dtype and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


CALLS = {
    "one target": lambda explainer: explainer(IMAGES, 1),
    "top class": lambda explainer: explainer(IMAGES),
    "several targets": lambda explainer: explainer(IMAGES, camfast.TopK(3)),
    "raw": lambda explainer: explainer(IMAGES, 1, size="map", normalize=False),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", METHODS)
def test_model_is_as_it_was(name, call, model):
    explainer = camfast.METHODS[name](model)
    with nothing_changes(model):
        CALLS[call](explainer)  # with the search for a layer
    with nothing_changes(model):
        CALLS[call](explainer)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("eval_mode", [True, False])
def test_buffers_in_either_mode(name, eval_mode, model):
    model.dropout = nn.Identity()  # which would draw random numbers in training mode
    with nothing_changes(model):
        camfast.METHODS[name](model, "body", eval_mode=eval_mode)(IMAGES, 1)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("name", METHODS)
def test_modes_of_the_caller(name, mode, model):
    expected = camfast.METHODS[name](model)(IMAGES, 1)
    with mode(), nothing_changes(model):
        result = camfast.METHODS[name](model)(IMAGES, 1)
    torch.testing.assert_close(result.heatmap, expected.heatmap)
    torch.testing.assert_close(result.scores, expected.scores)


class Fails(RuntimeError):
    pass


class FailingHead(nn.Module):
    def forward(self, x):
        raise Fails("in the head")


def failing_target(scores):
    raise Fails("in the target")


@pytest.mark.parametrize("name", METHODS)
def test_after_an_error_in_the_model(name, model):
    explainer = camfast.METHODS[name](model)
    explainer(IMAGES)
    model.dropout = FailingHead()
    with nothing_changes(model), pytest.raises(Fails):
        explainer(IMAGES)
    with nothing_changes(model), pytest.raises(Fails):
        camfast.METHODS[name](model)(images(2, size=(12, 12)))  # in the search for a layer
    model.dropout = nn.Identity()
    assert explainer(IMAGES).heatmap.shape == (2, 16, 20)


@pytest.mark.parametrize("name", METHODS[1:])
def test_after_an_error_in_a_target(name, model):
    explainer = camfast.METHODS[name](model)
    for target, error in (
        (failing_target, Fails),
        (lambda scores: scores, ValueError),
        (lambda scores: scores[0].detach(), ValueError),
        (99, ValueError),
    ):
        with nothing_changes(model), pytest.raises(error):
            explainer(IMAGES, target)


def test_after_errors_of_the_caller(model):
    for call in (
        lambda: camfast.GradCAM(model)(IMAGES.to(torch.uint8)),
        lambda: camfast.GradCAM(model, "no such layer"),
        lambda: camfast.GradCAM(model, "fc")(IMAGES),
        lambda: camfast.GradCAM(model)(IMAGES, 1, size=(1, 2, 3)),
        lambda: camfast.CAM(model, "stem")(IMAGES),
    ):
        with nothing_changes(model), pytest.raises((TypeError, ValueError)):
            call()


@pytest.mark.parametrize(
    "make",
    [
        models.FrozenTrunk,
        models.NoGradForward,
        models.CustomBackward,
        models.TokenNet,
        models.InPlaceAfter,
        models.Twice,
    ],
)
def test_networks_of_other_kinds(make):
    net = make().train()
    with nothing_changes(net):
        camfast.grad_cam(net, IMAGES, camfast.TopK(2))


def test_parameters_made_in_inference_mode():
    with torch.inference_mode():
        net = SmallNet()
    with nothing_changes(net):
        camfast.grad_cam(net, IMAGES, 1)
        camfast.grad_cam(net, IMAGES, 1)


def test_a_training_step_is_not_disturbed(model):
    def step(explain: bool):
        net = copy.deepcopy(model)
        torch.manual_seed(3)
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        optimizer.zero_grad()
        loss = net(IMAGES).square().sum()
        if explain:  # between the forward and the backward pass of a step
            camfast.grad_cam(net, IMAGES, camfast.TopK(2))
        loss.backward()
        optimizer.step()
        return net.state_dict()

    with_, without = step(True), step(False)
    assert all(torch.equal(with_[name], without[name]) for name in without)


def test_images_are_not_touched(model):
    x = IMAGES.clone().requires_grad_()
    result = camfast.grad_cam(model, x, camfast.TopK(2))
    assert x.grad is None and x.requires_grad and torch.equal(x, IMAGES) and x._version == 0
    assert result.images is x
    for tensor in (result.heatmap, result.scores, result.targets):
        assert not tensor.requires_grad and tensor.grad_fn is None


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("fail", [False, True])
def test_activations_are_freed_at_once(name, fail, model):
    """Without the garbage collector: nothing of the pass is in a reference cycle."""
    alive = []

    class Watched(nn.Module):
        def forward(self, x):
            out = x * 1.0
            alive.append(weakref.ref(out))
            alive.append(weakref.ref(out.untyped_storage()))
            return out

    model.body.append(Watched())
    model.dropout = Watched()
    explainer = camfast.METHODS[name](model, "body")
    gc.collect()
    gc.disable()
    try:
        if fail:
            with contextlib.suppress(ValueError):
                explainer(IMAGES, 99)
            result = None
        else:
            result = explainer(IMAGES, camfast.TopK(2))
        assert len(alive) in (4, 8)  # of the pass, and of the one that reads the layer's axes
        assert not any(reference() is not None for reference in alive)
    finally:
        gc.enable()
    del result


def test_no_tensor_is_left_behind(model):
    explainer = camfast.GradCAM(model)
    explainer(IMAGES, camfast.TopK(2))

    def tensors():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    before = tensors()
    for _ in range(3):
        explainer(IMAGES, camfast.TopK(2))
        with contextlib.suppress(ValueError):
            explainer(IMAGES, 99)
    assert tensors() == before


def test_memory_on_cuda(model, cuda):
    net, x = model.to(cuda), IMAGES.to(cuda)
    explainer = camfast.GradCAM(net)
    del explainer(x).heatmap
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        explainer(x, camfast.TopK(2))
    assert torch.cuda.memory_allocated() == before


def test_the_model_may_be_collected():
    net = SmallNet().eval()
    gone = weakref.ref(net)
    explainer = camfast.GradCAM(net)
    result = explainer(IMAGES)
    del net
    assert gone() is not None
    explainer.close()
    gc.collect()
    assert gone() is None and result.heatmap.shape == (2, 16, 20)


def test_two_explainers_on_one_model(model):
    alone = [camfast.GradCAM(model, "body")(IMAGES, 1).heatmap, camfast.LayerCAM(model, "stem")(IMAGES, 2).heatmap]
    first, second = camfast.GradCAM(model, "body"), camfast.LayerCAM(model, "stem")
    for _ in range(2):
        assert torch.equal(first(IMAGES, 1).heatmap, alone[0])
        assert torch.equal(second(IMAGES, 2).heatmap, alone[1])


def test_an_explainer_inside_another(model):
    expected = camfast.grad_cam(model, IMAGES, 1, "body").heatmap
    inner = []

    def target(scores):
        inner.append(camfast.layer_cam(model, IMAGES, 2, "body").heatmap)
        return scores[1]

    with nothing_changes(model):
        result = camfast.grad_cam(model, IMAGES, target, "body")
    torch.testing.assert_close(result.heatmap, expected)
    torch.testing.assert_close(inner[0], camfast.layer_cam(model, IMAGES, 2, "body").heatmap)


@pytest.mark.parametrize("shared", [True, False])
def test_threads_on_one_model(shared, model):
    """Each thread explains other images in its own way; passes overlap; results are those of one thread alone."""
    jobs = [(images(2, seed=i), i % 5, ("body", "stem")[i % 2]) for i in range(8)]
    alone = [camfast.grad_cam(model, x, target, layer) for x, target, layer in jobs]
    explainers = {layer: camfast.GradCAM(model, layer) for layer in ("body", "stem")}
    together: dict[int, camfast.Explanation] = {}
    barrier = threading.Barrier(4)

    def work(mine):
        barrier.wait()
        for _ in range(5):
            for i in mine:
                x, target, layer = jobs[i]
                explainer = explainers[layer] if shared else camfast.GradCAM(model, layer)
                together[i] = explainer(x, target)

    with nothing_changes(model):
        threads = [threading.Thread(target=work, args=([i, i + 4],)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for i, expected in enumerate(alone):
        torch.testing.assert_close(together[i].heatmap, expected.heatmap)
        torch.testing.assert_close(together[i].scores, expected.scores)


def test_plain_calls_in_another_thread(model):
    """A model that serves predictions meanwhile gives them as ever."""
    model.eval()
    with torch.no_grad():
        expected = model(IMAGES)
    stop, wrong = threading.Event(), []

    def serve():
        while not stop.is_set() and not wrong:
            try:
                with torch.inference_mode():
                    scores = model(IMAGES)
            except Exception as error:
                wrong.append(error)
            else:
                if scores.requires_grad or not torch.equal(scores, expected):
                    wrong.append(scores)

    thread = threading.Thread(target=serve)
    thread.start()
    for i in range(30):  # of several sizes, so that the layer is searched for as well
        camfast.grad_cam(model, images(1, size=(16, 10 + i // 3)), camfast.TopK(2))
    stop.set()
    thread.join()
    assert not wrong
