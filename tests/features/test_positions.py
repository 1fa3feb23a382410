"""Where positions are in layers' outputs is seen, not guessed from sizes."""

from __future__ import annotations

import warnings

import pytest
import torch
from models import SmallNet, images
from torch import nn

import camfast
from camfast.model.planting import Planted


class Sequences(nn.Module):
    """A batch-first LSTM between convolutions of a signal; as many hidden units as time steps."""

    def __init__(self, steps: int = 32):
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 3, padding=1)
        self.lstm = nn.LSTM(8, steps, batch_first=True)
        self.head = nn.Linear(steps, 3)

    def forward(self, x):
        return self.head(self.lstm(self.conv(x).relu().mT)[0].mean(1))


class ChannelsLast(nn.Module):
    """An image network whose blocks pass ``[N, H, W, C]`` on, with as many channels as rows."""

    def __init__(self, size: int = 16):
        super().__init__()
        self.conv = nn.Conv2d(3, size, 3, padding=1)
        self.norm = nn.LayerNorm(size)
        self.act = nn.GELU()
        self.head = nn.Linear(size, 3)

    def forward(self, x):
        return self.head(self.act(self.norm(self.conv(x).permute(0, 2, 3, 1))).mean((1, 2)))


def outputs_of(model, layer, x):
    """What ``layer`` gives for ``x``, with a graph; and the model's scores."""
    seen = []
    handle = layer.register_forward_hook(lambda module, args, output: seen.append(output))
    scores = model(x)
    handle.remove()
    return seen[0], scores


@pytest.mark.parametrize("kind", ["sequence", "channels last"])
def test_maps_and_gradients_have_channels_second(kind):
    torch.manual_seed(0)
    sequence = kind == "sequence"
    model = (Sequences() if sequence else ChannelsLast()).eval()
    name = "lstm" if sequence else "act"
    x = torch.randn(2, 4, 32) if sequence else torch.randn(2, 3, 16, 16)
    output, scores = outputs_of(model, getattr(model, name), x)
    output = output[0] if sequence else output
    expected = output.mT if sequence else output.permute(0, 3, 1, 2)
    maps = camfast.FeatureMaps(model, name)(x)
    torch.testing.assert_close(maps[name], expected.detach())
    (gradient,) = torch.autograd.grad(scores.amax(1).sum(), output)
    found = camfast.Gradients(model, name)(x)
    torch.testing.assert_close(found[name], gradient.mT if sequence else gradient.permute(0, 3, 1, 2))


def test_layers_whose_kind_tells_need_no_further_pass(monkeypatch):
    monkeypatch.setattr(Planted, "all_activations", lambda *args: pytest.fail("a change was planted"))
    model = SmallNet().eval()
    assert camfast.FeatureMaps(model)(images())
    assert camfast.Gradients(model, ["stem.1", "body.0"])(images())


def test_many_layers_share_passes_which_run_once_for_a_shape(monkeypatch):
    model = ChannelsLast().eval()
    explored = camfast.FeatureMaps(model, "*")
    turns = []
    planted = Planted.all_activations
    monkeypatch.setattr(
        Planted, "all_activations", lambda self, calls, turn: (turns.append(turn), planted(self, calls, turn))[1]
    )
    maps = explored(torch.randn(1, 3, 16, 16))
    assert all(maps[name].shape == (1, 16, 16, 16) for name in ("conv", "norm", "act"))
    assert len(turns) == len(set(turns)), "each change once, for all layers"
    turns.clear()
    explored(torch.randn(2, 3, 16, 16))
    assert turns == []


def test_what_is_not_proven_is_said():
    class Mixed(nn.Module):
        """Every position sees every other one: no change shows where it was."""

        def __init__(self):
            super().__init__()
            self.all = nn.Linear(64, 64)
            self.shape = nn.Identity()
            self.head = nn.Linear(64, 2)

        def forward(self, x):
            hidden = self.all(x.flatten(1))
            return self.head(self.shape(hidden.view(-1, 8, 8)).flatten(1))

    model = Mixed().eval()
    with pytest.warns(camfast.errors.DoubtWarning, match=r"'shape' are, so that they are taken from the shape"):
        maps = camfast.FeatureMaps(model, "shape")(torch.randn(1, 1, 64))
    assert maps["shape"].shape == (1, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        camfast.FeatureMaps(model, "shape", reshape=lambda t: t)(torch.randn(1, 1, 64))
