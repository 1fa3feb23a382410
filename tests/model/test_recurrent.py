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
