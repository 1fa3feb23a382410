"""Taps: true activations of the layers asked for, gradients to them and no further."""

from __future__ import annotations

import threading

import models
import pytest
import torch
from models import SmallNet, calibrated, images
from tolerances import TOLERANCES
from torch import nn

from camfast.model.outputs import replace_first, scores_in, tensors_in
from camfast.model.tap import Quirks, Tap

IMAGES = images(3)


def by_hand(model, layers, x, index):
    """Activations of ``layers`` and gradients of the scores' column ``index``, by one whole graph of plain autograd."""
    kept = []

    def hook(module, args, output):
        kept.append(output)
        return output.clone()  # the next operation may work in place

    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        scores = model(x)
    finally:
        for handle in handles:
            handle.remove()
    return [a.detach() for a in kept], torch.autograd.grad(scores[:, index].sum(), kept)


@pytest.mark.parametrize("make", [SmallNet, models.DeepHead, models.TokenNet, models.ChannelsLastNet])
@pytest.mark.parametrize("several", [False, True])
def test_equals_plain_autograd(make, several, device):
    model = calibrated(make(), IMAGES).to(device)
    x = IMAGES.to(device)
    children = [child for child in model.children() if not isinstance(child, (nn.Linear, nn.Dropout))][:2]
    layers = children if several else children[-1:]
    activations, gradients = by_hand(model, layers, x, 2)
    with Tap(model, layers) as tap:
        scores = tap.run(x)
        found = tap.gradients(scores[:, 2].sum())
        for ours, theirs in zip([*tap.activations, *found], [*activations, *gradients], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_order_is_the_order_asked_for():
    model = SmallNet().eval()
    with Tap(model, [model.body, model.stem]) as tap:
        scores = tap.run(IMAGES)
        gradients = tap.gradients(scores.sum())
        assert [a.shape[1] for a in tap.activations] == [16, 8] == [g.shape[1] for g in gradients]


def test_graph_starts_at_the_tap():
    model = SmallNet().eval()
    seen = {}
    for name in ("stem", "body", "fc"):
        getattr(model, name).register_forward_hook(lambda m, a, out, name=name: seen.update({name: out.requires_grad}))
    x = IMAGES.clone().requires_grad_()
    with Tap(model, [model.body]) as tap:
        scores = tap.run(x)
        assert scores.requires_grad
        assert not any(a.requires_grad for a in tap.activations)
        tap.gradients(scores.sum())
    assert seen == {"stem": False, "body": False, "fc": True}
    assert x.grad is None and all(p.grad is None for p in model.parameters())


def test_in_place_operation_after_the_layer():
    model = models.InPlaceAfter().eval()
    true = model.body(model.stem(IMAGES)).detach()
    assert (true < 0).any()
    with Tap(model, [model.body]) as tap:
        scores = tap.run(IMAGES)
        (gradient,) = tap.gradients(scores[:, 0].sum())
        torch.testing.assert_close(tap.activations[0], true)
        assert not gradient[true < 0].any() and gradient[true > 0].all()


def test_module_called_twice_gives_its_last_call():
    model = models.Twice().eval()
    with torch.no_grad():
        last = model.body(model.body(model.stem(IMAGES)))
    with Tap(model, [model.body]) as tap:
        scores = tap.run(IMAGES)
        (gradient,) = tap.gradients(scores[:, 1].sum())
        torch.testing.assert_close(tap.activations[0], last)
    expected = (model.fc.weight[1] / last[0, 0].numel()).detach()
    torch.testing.assert_close(gradient, expected[None, :, None, None].expand_as(gradient))


def test_module_called_several_times_has_a_graph_from_its_last_call_on():
    """From the second pass on, when the number of calls is known; also where that number changes."""

    class Often(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.calls, self.recorded = nn.Conv2d(3, 3, 3, padding=1), 3, []

        def forward(self, x):
            self.recorded.clear()
            for _ in range(self.calls):
                x = self.body(x).relu()
                self.recorded.append(x.requires_grad)
            return x.mean((2, 3))

    model, quirks = Often().eval(), Quirks()
    for calls, recorded in [
        (3, [True] * 3),
        (3, [False, False, True]),
        (2, [False, True]),
        (4, [False, True, True, True]),
    ]:
        model.calls = calls
        with torch.no_grad():
            last = IMAGES
            for i in range(calls):
                last = model.body(last.relu() if i else last)
        with Tap(model, [model.body], quirks=quirks) as tap:
            scores = tap.run(IMAGES)
            (gradient,) = tap.gradients(scores[:, 1].sum())
            torch.testing.assert_close(tap.activations[0], last)
        assert model.recorded == recorded and gradient[:, 0].abs().sum() == 0
        expected = (last[:, 1] > 0).float() / last[0, 0].numel()
        torch.testing.assert_close(gradient[:, 1], expected)


@pytest.mark.parametrize("kind", ["tuple", "list", "namedtuple", "dict", "dataclass", "nested"])
def test_structured_outputs(kind):
    model = models.Packed(kind).eval()
    with torch.no_grad():
        conv, scores = model.body.conv(model.stem(IMAGES)), model(IMAGES)
    with Tap(model, [model.body]) as tap:
        output = tap.run(IMAGES)
        torch.testing.assert_close(output.detach(), scores)
        torch.testing.assert_close(tap.activations[0], conv)
        assert tap.gradients(output.sum())[0].any()


def test_structures_are_rebuilt_not_modified():
    inner = torch.zeros(1, 2, 3)
    for value in ({"a": 1, "b": inner}, [inner, 5], (5, inner), models.Parts(1, inner), models.Record(2, inner)):
        changed, found = replace_first(value, lambda t: True, lambda t: t + 1)
        assert found and type(changed) is type(value)
        assert next(tensors_in(changed)).sum() == 6 and next(tensors_in(value)).sum() == 0
    assert replace_first({"a": 1}, lambda t: True, lambda t: t) == ({"a": 1}, False)


def test_scores_in_structures():
    scores, other = torch.zeros(2, 5), torch.zeros(2, 3)
    assert scores_in(scores) is scores
    assert scores_in({"features": other, "logits": scores}) is scores
    assert scores_in({"aux": other, "out": scores}) is scores
    assert scores_in((torch.zeros(2, dtype=torch.int64), scores, other)) is scores
    assert scores_in([{"x": scores}]) is scores
    assert scores_in(torch.zeros(2, dtype=torch.int64)) is None
    assert scores_in("nothing") is None


@pytest.mark.parametrize("make", [models.FrozenTrunk, models.NoGradForward])
def test_model_with_its_own_no_grad(make):
    model = make().eval()
    plain = SmallNet().eval()
    plain.load_state_dict(model.state_dict())
    quirks = Quirks()
    for _ in range(2):
        with Tap(model, [model.body], quirks=quirks) as tap, Tap(plain, [plain.body]) as expected:
            ours = tap.gradients(tap.run(IMAGES)[:, 3].sum())
            theirs = expected.gradients(expected.run(IMAGES)[:, 3].sum())
            torch.testing.assert_close(ours, theirs)
    assert quirks.whole_graph == (make is models.FrozenTrunk)


def test_frozen_parameters():
    model = SmallNet().eval().requires_grad_(False)
    with Tap(model, [model.body]) as tap:
        assert tap.gradients(tap.run(IMAGES)[:, 0].sum())[0].any()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inside_a_mode_without_gradients(mode):
    model = SmallNet().eval()
    with Tap(model, [model.body]) as tap:
        expected = tap.gradients(tap.run(IMAGES)[:, 0].sum())
    with mode():
        x = IMAGES.clone()
        assert x.is_inference() == (mode is torch.inference_mode)
        with Tap(model, [model.body]) as tap:
            found = tap.gradients(tap.run(x)[:, 0].sum())
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    torch.testing.assert_close(found, expected)


def test_parameters_made_in_inference_mode():
    ordinary = SmallNet().eval()
    with torch.inference_mode():
        model = SmallNet().eval()
        model.load_state_dict(ordinary.state_dict())
    assert next(model.parameters()).is_inference()
    quirks = Quirks()
    for _ in range(2):
        with Tap(model, [model.body], quirks=quirks) as tap, Tap(ordinary, [ordinary.body]) as expected:
            ours = tap.gradients(tap.run(IMAGES)[:, 0].sum())
            torch.testing.assert_close(ours, expected.gradients(expected.run(IMAGES)[:, 0].sum()))
    assert quirks.inference_weights
    assert next(model.parameters()).is_inference()


def test_parallel_branches():
    model = models.Branches().eval()
    activations, gradients = by_hand(model, [model.left, model.right], IMAGES, 1)
    with Tap(model, [model.left, model.right]) as tap:
        found = tap.gradients(tap.run(IMAGES)[:, 1].sum())
        torch.testing.assert_close(tap.activations, activations)
    torch.testing.assert_close(found, list(gradients))


def test_layers_that_begin_a_graph_each():
    """Of three layers in a row each gets what reaches the score past the others; what is passed on makes up for it."""

    class Row(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

        def forward(self, x):
            a = self.a(x)
            b = self.b(a.tanh())
            c = self.c(b.tanh())
            return torch.stack([(one.tanh() ** 2).sum((1, 2, 3)) for one in (a, b, c)], 1)

    model = Row().eval()
    layers = [model.b, model.a, model.c]
    for seeds in (torch.eye(3)[:, None].expand(3, len(IMAGES), 3), torch.ones(1, len(IMAGES), 3)):
        with Tap(model, layers) as tap:
            whole = tap.gradients(tap.run(IMAGES), seeds)
        with Tap(model, layers) as tap:
            tap.separate = True
            own = tap.gradients(tap.run(IMAGES), seeds, missing_ok=True)
            passed = tap.passed_on(own)
        assert not torch.allclose(own[1], whole[1])
        torch.testing.assert_close(own[2], whole[2])  # nothing follows the last one
        torch.testing.assert_close(passed, whole)


def test_some_of_the_layers():
    model = models.Branches().eval()
    with Tap(model, [model.left, model.right]) as tap:
        scores = tap.run(IMAGES)
        both = tap.gradients(scores[:, 1].sum(), keep=True)
        torch.testing.assert_close(tap.gradients(scores[:, 1].sum(), only=[1]), both[1:])


def test_layer_that_feeds_no_score():
    model = models.Branches().eval()
    with Tap(model, [model.left, model.unused], names=["left", "unused"]) as tap:
        scores = tap.run(IMAGES)
        with pytest.raises(ValueError, match="got no gradient for 'unused'"):
            tap.gradients(scores.sum())
    with Tap(model, [model.unused]) as tap, pytest.raises(ValueError, match="got no gradient for 'Conv2d'"):
        tap.gradients(tap.run(IMAGES).sum())


def test_output_cut_off_from_the_layer():
    model = models.CutOff().eval().requires_grad_(False)
    with Tap(model, [model.body], names=["body"]) as tap, pytest.raises(ValueError, match="no gradient for 'body'"):
        tap.run(IMAGES)


def test_layer_that_does_not_run():
    model = SmallNet().eval()
    model.spare = nn.Conv2d(3, 3, 1)
    with Tap(model, [model.spare], names=["spare"]) as tap, pytest.raises(ValueError, match="got no call of 'spare'"):
        tap.run(IMAGES)


def test_layer_without_positions():
    model = SmallNet().eval()
    with Tap(model, [model.fc], names=["fc"]) as tap, pytest.raises(ValueError, match="got none from 'fc'"):
        tap.run(IMAGES)


def test_layer_inside_the_models_own_inference_mode():
    class Sealed(SmallNet):
        def forward(self, x):
            with torch.inference_mode():
                return super().forward(x)

    model = Sealed().eval()
    with Tap(model, [model.body]) as tap, pytest.raises(ValueError, match="inference_mode"):
        tap.run(IMAGES)


def test_without_graph():
    model = SmallNet().eval()
    with Tap(model, [model.body], graph=False) as tap:
        assert not tap.run(IMAGES).requires_grad
        torch.testing.assert_close(tap.activations[0], model.body(model.stem(IMAGES)).detach())


def test_evaluation_mode_and_its_absence():
    model = SmallNet()
    model.stem.eval()
    with torch.no_grad():
        expected = SmallNet.forward(model.eval(), IMAGES)
    model.train()
    model.stem.eval()
    with Tap(model, [model.body]) as tap:
        torch.testing.assert_close(tap.run(IMAGES).detach(), expected)
    assert model.body[1].training and not model.stem[1].training
    with Tap(model, [model.body], eval_mode=False) as tap:
        assert not torch.allclose(tap.run(IMAGES).detach(), expected)


def test_other_threads_are_ignored():
    model = SmallNet().eval()
    entered, done = threading.Event(), threading.Event()
    result = {}

    class Waiting(nn.Module):
        def forward(self, x):
            if threading.current_thread() is threading.main_thread():
                entered.set()
                assert done.wait(20)
            return x

    model.stem.append(Waiting())

    def other():
        entered.wait(20)
        with torch.no_grad():
            result["scores"] = model(IMAGES[:1] * 2)
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with Tap(model, [model.body]) as tap:
        tap.run(IMAGES)
        thread.join()
        assert tap.activations[0].shape[0] == 3
    assert not result["scores"].requires_grad


def test_dormant_between_runs():
    model = SmallNet().eval()
    with Tap(model, [model.body]) as tap:
        tap.run(IMAGES)
        with torch.no_grad():
            assert not model(IMAGES[:1]).requires_grad
        assert len(tap.activations[0]) == 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_dtypes_and_memory_formats(dtype, memory, device):
    reference = SmallNet().eval().to(device)
    model = SmallNet().eval()
    model.load_state_dict(reference.state_dict())
    model = model.to(device, dtype, memory_format=memory)
    x = IMAGES.to(device, dtype).contiguous(memory_format=memory)
    with Tap(model, [model.body]) as tap, Tap(reference, [reference.body]) as expected:
        (gradient,) = tap.gradients(tap.run(x)[:, 0].sum())
        (theirs,) = expected.gradients(expected.run(IMAGES.to(device))[:, 0].sum())
        assert gradient.dtype == dtype == tap.activations[0].dtype
        plain: list[torch.Tensor] = []
        model.body.register_forward_hook(lambda *arguments: plain.append(arguments[2]))
        model(x)  # a layer may give another memory format than it was given: cuDNN does, in fp64
        assert tap.activations[0].stride() == plain[0].stride()
        atol = max(TOLERANCES[dtype]["atol"], 1e-6)
        torch.testing.assert_close(gradient.to(theirs), theirs, rtol=0, atol=atol)


def test_autocast_leaves_its_cache_alone():
    model = SmallNet().eval()

    def gradients(explain: bool):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            if explain:
                with Tap(model, [model.body]) as tap:
                    scores = tap.run(IMAGES)
                    assert scores.dtype == torch.bfloat16
                    tap.gradients(scores.sum())
            loss = model(IMAGES).square().sum()
        loss.backward()
        return [p.grad.clone() for p in model.parameters()]

    before = torch.is_autocast_cache_enabled()
    for ours, theirs in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert torch.is_autocast_cache_enabled() == before
