"""Recurrent layers run without cuDNN in a pass, since its kernels refuse a backward pass in evaluation mode."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

import camfast
from camfast.model import recurrent
from camfast.model.restored import Restored


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 4, 3, padding=1)
        self.gru = nn.GRU(4, 8, batch_first=True)
        self.head = nn.Linear(8, 3)
        self.seen = []

    def forward(self, x):
        hidden = self.conv(x).relu().mT
        self.seen.append(torch.backends.cudnn.enabled)
        return self.head(self.gru(hidden)[1][-1])


@pytest.mark.parametrize("raises", ["nothing", "before", "after"])
def test_cudnn_is_off_in_recurrent_layers_alone(monkeypatch, raises):
    monkeypatch.setattr(recurrent, "_on_cuda", lambda layer: True)  # as on a GPU
    model, inside = Recurrent().eval(), []

    def note(module, args):
        inside.append(torch.backends.cudnn.enabled)
        if raises != "nothing":
            raise RuntimeError("broken")

    restored = Restored()
    recurrent.leave_cudnn(restored, model)
    with contextlib.closing(restored):
        model.gru.register_forward_pre_hook(note, prepend=raises == "before")
        if raises != "nothing":
            with pytest.raises(RuntimeError, match="broken"):
                model(torch.randn(1, 2, 16))
        else:
            model(torch.randn(1, 2, 16))
    assert inside == [raises == "before"] and model.seen == [True]
    assert torch.backends.cudnn.enabled
    assert len(model.gru._forward_pre_hooks) == 1 and not model.gru._forward_hooks


def test_a_recurrent_head_in_evaluation_mode(device):
    model = Recurrent().eval().to(device)
    x = torch.randn(2, 2, 16, device=device)
    result = camfast.grad_cam(model, x, layers="conv")
    assert result.heatmap.shape == (2, 16)
    assert torch.backends.cudnn.enabled


class Refused(torch.autograd.Function):
    """The identity, with the backward pass that cuDNN's recurrent layers have in evaluation mode."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise RuntimeError("cudnn RNN backward can only be called in training mode")


class LikeCudnn:
    """PyTorch's recurrent functions as on a CUDA device: with cuDNN on and out of training their backward pass is refused."""

    def __init__(self, functions):
        self.functions = functions

    def __getattr__(self, name):
        function = getattr(self.functions, name)

        def call(*args):
            training = args[6]  # input, state, weights, has_biases, layers, dropout, training, ...
            outputs = function(*args)
            refused = torch.backends.cudnn.enabled and not training
            return tuple(Refused.apply(x) for x in outputs) if refused else outputs

        return call


@pytest.mark.parametrize("method", ["grad_cam", "xgrad_cam", "layer_cam"])
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_a_refused_backward_pass_is_not_run_into(monkeypatch, kind, method):
    """The same heat as without cuDNN, by the user's own modes and flags; outside of the pass cuDNN refuses as before."""

    class Head(Recurrent):
        def forward(self, x):
            return self.head(self.gru(self.conv(x).relu().mT)[0][:, -1])

    model, x = Head(), torch.randn(2, 2, 16)
    model.gru = kind(4, 8, batch_first=True)
    model.eval()
    expected = getattr(camfast, method)(model, x, targets=[0, 2], layers="conv").heatmap
    rnn = torch.nn.modules.rnn
    monkeypatch.setattr(rnn, "_VF", LikeCudnn(rnn._VF))
    monkeypatch.setattr(recurrent, "_on_cuda", lambda layer: True)
    modes = [module.training for module in model.modules()]

    def refused():
        with pytest.raises(RuntimeError, match="only be called in training mode"):
            model(x).sum().backward()

    refused()
    for _ in range(2):  # the second call may take a shorter way
        result = getattr(camfast, method)(model, x, targets=[0, 2], layers="conv")
        torch.testing.assert_close(result.heatmap, expected)
    assert torch.backends.cudnn.enabled and [module.training for module in model.modules()] == modes
    assert not model.gru._forward_hooks and not model.gru._forward_pre_hooks
    refused()
