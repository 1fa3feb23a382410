"""A network compiled around the layer that is explained: the same scores and maps, and no trace in the model."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import camfast
from camfast.errors import reason
from camfast.methods.compiled import compiled
from camfast.model import onednn
from camfast.model.halves import split


@pytest.fixture
def model(device):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)).to(device)


@pytest.fixture(params=["oneDNN Graph", "torch.compile"])
def by(request, device, monkeypatch):
    """Each way to compile, whichever is faster for so small a network."""
    if request.param == "oneDNN Graph":
        if device.type != "cpu":
            pytest.skip("oneDNN Graph is for the CPU")
        monkeypatch.setattr("camfast.model.halves.fused_if_faster", onednn.fused)
    else:
        monkeypatch.setattr("camfast.model.halves.fused_if_faster", lambda trunk, images: None)
    return request.param


def engine(model, **options):
    return camfast.Realtime(model, **{"input_size": 32, "layers": "4", **options})


def frames(n, height=40, width=60, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def test_compiled_halves(model, by):
    """Scores and maps of the compiled network are those of the network; what cannot be compiled runs all the same."""
    frame = frames(1)[0]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run, plain = engine(model, compile=True), engine(model)

    def agree():
        result, expected = run(frame), plain(frame)
        torch.testing.assert_close(result.heatmap, expected.heatmap, rtol=0, atol=1e-4)
        torch.testing.assert_close(result.scores, expected.scores, rtol=0, atol=1e-4)

    agree()
    assert run.compile_problem is None and run.layers_in_use == ["4"]
    halves = dict(run._step._splits)
    run.targets = plain.targets = [1, 5]
    agree()
    run.method = plain.method = "layer_cam"
    agree()
    assert run._step._splits == halves  # without another compilation
    run.method, run.targets = "eigen_cam", None
    with pytest.warns(UserWarning, match="uncompiled"):
        assert run(frame).heatmap.shape == (8, 8)
    assert "eigen_cam" in run.compile_problem
    # The model is as it was: its modes, weights, gradients and hooks.
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not torch.jit.onednn_fusion_enabled()


def test_inside_inference_mode(model, by):
    expected = engine(model)(frames(1)[0])
    with torch.inference_mode():
        run = engine(model, compile=True)
        for frame in frames(1)[[0, 0]]:
            result = run(frame)
    assert run.compile_problem is None
    torch.testing.assert_close(result.heatmap, expected.heatmap, rtol=0, atol=1e-4)


def test_weights_are_those_of_the_first_frame(model, by):
    run, frame = engine(model, compile=True), frames(1)[0]
    first = run(frame).scores
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert torch.equal(run(frame).scores, first)


def test_auto_is_quick_or_not_at_all(model, device, monkeypatch):
    """No ``torch.compile``, which takes a minute, and no warning where oneDNN Graph is not faster."""
    asked = []
    monkeypatch.setattr("camfast.model.halves.fused_if_faster", lambda trunk, images: asked.append(images.shape))
    run, plain = engine(model, compile="auto"), engine(model)
    for frame in frames(2):
        torch.testing.assert_close(run(frame).scores, plain(frame).scores, rtol=0, atol=1e-5)
    assert asked == [(1, 3, 32, 32)] and "no faster" in run.compile_problem
    with pytest.raises(ValueError, match="compile must be"):
        engine(model, compile="fast")


def test_onednn_is_taken_where_it_is_faster(monkeypatch):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    torch.manual_seed(0)
    block = [nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    network, images = nn.Sequential(*block * 4).eval(), torch.rand(1, 32, 56, 56)
    script = onednn.fused(network, images)
    expected = network(images)
    torch.testing.assert_close(script(images), expected, rtol=0, atol=1e-4)
    assert not script(images).requires_grad
    kinds = {node.kind() for node in torch.jit.last_executed_optimized_graph().nodes()}
    if torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        assert "prim::oneDNNFusionGuard" in kinds

    # Which is faster, by a clock that they turn themselves.
    clock = [0.0]

    class Takes(nn.Module):
        def __init__(self, seconds):
            super().__init__()
            self.seconds = seconds

        def forward(self, x):
            clock[0] += self.seconds
            return x

    monkeypatch.setattr(onednn, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    for seconds, taken in [(1.0, True), (3.0, False)]:
        monkeypatch.setattr(onednn, "fused", lambda network, images, seconds=seconds: Takes(seconds))
        assert (onednn.fused_if_faster(Takes(2.0), images) is not None) == taken
    assert onednn.fused_if_faster(Takes(2.0), images.double()) is None

    class Refuses(nn.Module):
        def forward(self, x):
            raise RuntimeError("no")

    monkeypatch.undo()
    assert onednn.fused_if_faster(Refuses(), images) is None and not torch.jit.onednn_fusion_enabled()


def test_reasons():
    for error, words in [
        (ValueError("a.\nb"), "a"),
        (RuntimeError(), "RuntimeError"),
        (RuntimeError(None), "RuntimeError"),
        (RuntimeError("\n \nNone\n late. "), "late"),
    ]:
        assert reason(error) == words


def test_halves_of_what_is_no_chain(device):
    """A way around the layer and a model that looks at values are told apart, in words; a layer may run twice."""

    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return (self.conv(x) + x).mean((2, 3))

    class Twice(Around):
        def forward(self, x):
            return self.conv(self.conv(x)).mean((2, 3))

    class Looks(Around):
        def forward(self, x):
            return self.conv(x).mean((2, 3)) if x.sum() > 0 else self.conv(-x).mean((2, 3))

    class Mute(Around):
        def forward(self, x):
            raise RuntimeError

    images = torch.rand(1, 3, 8, 8, device=device)
    for kind, message in [(Around, "besides"), (Looks, "one graph"), (Mute, "one graph: RuntimeError$")]:
        model = kind().to(device)
        with pytest.raises(ValueError, match=message):
            split(model, model.conv, images)
        assert not model.conv._forward_hooks and model.training
    twice = Twice().to(device)  # the last output counts, as it does uncompiled
    explainer = camfast.GradCAM(twice, "conv")
    expected, got = explainer(images, size="map"), compiled(explainer, images)(images, size="map")
    torch.testing.assert_close(got.heatmap, expected.heatmap, rtol=0, atol=1e-4)
