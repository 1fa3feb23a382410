"""The same script on torchcam and on ours: equal values, or an error of the same type."""

from __future__ import annotations

import torch
from packages import Packages
from torch import nn

OURS, PEER = "camfast.compat.torchcam", "torchcam"
X = torch.rand(2, 3, 8, 9, generator=torch.Generator().manual_seed(1))


def outcome(script, package):
    torch.manual_seed(3)
    try:
        return script(package)
    except Exception as error:  # the type is what is compared
        return type(error)


def check(script, raised=None):
    """The same outcome of both: equal values, or an error of the same type, ``raised`` where it is given."""
    theirs, ours = (outcome(script, Packages(name)) for name in (PEER, OURS))
    assert type(theirs) is type(ours), f"{theirs} {ours}"
    if isinstance(theirs, type):
        assert theirs is ours and (raised is None or theirs is raised), f"{theirs} {ours}"
        return
    assert raised is None, f"expected {raised}, got {theirs}"
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5, equal_nan=True)


class Net(nn.Sequential):
    def __init__(self, classes=3):
        torch.manual_seed(0)
        super().__init__(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, classes),
        )  # fmt: skip
