"""The compiled halves of a network: cut at the call of a layer that is meant."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from camfast.methods import METHODS
from camfast.methods.compiled import compiled


class Shared(nn.Module):
    """One activation module for two calls, as EfficientNet has it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, 2, 1)
        self.activation = nn.SiLU()
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.activation(self.second(self.activation(self.first(x))))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("layer", ["activation#1", "activation#2"])
def test_the_call_that_is_meant_is_explained(layer, monkeypatch):
    monkeypatch.setattr("camfast.model.halves.fused_if_faster", lambda trunk, images: trunk)
    torch.manual_seed(0)
    model, images = Shared().eval(), torch.randn(1, 3, 24, 24)
    plain = METHODS["grad_cam"](model, layer, layout="channels_first")
    twin = compiled(plain, images, quick=True)
    expected, found = plain(images, 2, "map"), twin(images, 2, "map")
    assert found.heatmap.shape == expected.heatmap.shape
    torch.testing.assert_close(found.heatmap, expected.heatmap, rtol=1e-3, atol=1e-4)


def test_all_calls_at_once_are_not_compiled():
    model, images = Shared().eval(), torch.randn(1, 3, 24, 24)
    with pytest.raises(ValueError, match="layer"):
        compiled(METHODS["grad_cam"](model, "activation#*"), images, quick=True)
