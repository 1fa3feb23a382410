"""Models that crop, pad, flip, turn or roll their images themselves: their maps do not lie over the images as they came."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import camfast
from camfast.errors import DoubtWarning


class Prepares(nn.Module):
    """Changes its images by ``step``, and looks at them by convolutions; ``rank`` dimensions of positions."""

    def __init__(self, step: Callable[[Tensor], Tensor], rank: int = 2, padded: bool = True) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
        pad = 1 if padded else 0
        self.step = step
        self.net = nn.Sequential(conv(3, 8, 3, 2, pad), nn.ReLU(), conv(8, 8, 3, 1, pad), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(self.step(x)).flatten(2).mean(2))


def explained(step: Callable[[Tensor], Tensor], shape: tuple[int, ...] = (2, 3, 64, 64), **options) -> list[str]:
    """What is warned of."""
    torch.manual_seed(0)
    model = Prepares(step, len(shape) - 2).eval()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = camfast.grad_cam(model, torch.randn(shape), 1, **options)
    assert result.heatmap.shape == (shape[0], *shape[2:])
    return [
        str(one.message) for one in caught if issubclass(one.category, DoubtWarning) and "blank" not in str(one.message)
    ]


def covered(step: Callable[[Tensor], Tensor], side: str, *args, **options) -> tuple[float, float]:
    """The part of a side that a map is said to cover, by a warning or a refusal."""
    try:
        (said,) = explained(step, *args, **options)
    except ValueError as error:
        said = str(error)
    found = re.search(rf"about (-?\d+) to (-?\d+) % of (?:the )?{side}", said)
    assert found is not None, said
    return int(found[1]) / 100, int(found[2]) / 100


@pytest.mark.parametrize("layers", [None, "net"])
@pytest.mark.parametrize(("start", "end"), [(16, 48), (8, 44), (20, 60), (4, 40)])
def test_the_map_of_a_cropped_image_says_what_it_covers(start, end, layers):
    low, high = covered(lambda x: x[..., start:end], "width", layers=layers)
    assert abs(low - start / 64) < 0.1 and abs(high - end / 64) < 0.1


def test_a_crop_of_signals_and_of_volumes_is_said():
    low, high = covered(lambda x: x[..., 32:96], "dimension 2", (2, 3, 128))
    assert abs(low - 0.25) < 0.12 and abs(high - 0.75) < 0.12
    low, high = covered(lambda x: x[:, :, :, :, 8:24], "dimension 4", (1, 3, 16, 32, 32))
    assert abs(low - 0.25) < 0.12 and abs(high - 0.75) < 0.12


@pytest.mark.parametrize("layers", [None, "net"])
@pytest.mark.parametrize(
    "step",
    [
        lambda x: x.flip(-1),
        lambda x: x.flip(-2),
        lambda x: x.flip(-1, -2),
        lambda x: x.rot90(1, (2, 3)),
        lambda x: x.roll(32, -1),
        lambda x: x[..., :32, :32],
        lambda x: F.pad(x, (0, 32, 0, 32)),
        lambda x: torch.cat([x, x.flip(-1)], -1),
        lambda x: torch.cat([x[..., :32].flip(-1), x[..., :32]], -1),
    ],
    ids=[
        "mirrored",
        "upside down",
        "both",
        "turned",
        "rolled",
        "a corner",
        "padded",
        "beside its mirror",
        "one half twice",
    ],
)
def test_a_map_that_lies_elsewhere_is_refused_with_words_that_help(step, layers):
    with pytest.raises(ValueError, match="cropping, padding or flipping, with images prepared alike") as error:
        explained(step, layers=layers)
    assert "'net'" in str(error.value) and "quantized" not in str(error.value)
    assert explained(step, layers="net", layout="NCHW") == []  # the map as it lies, as the sentence says
    model = Prepares(step).eval()
    camfast.grad_cam(
        nn.Sequential(model.net, nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.head), torch.randn(1, 3, 64, 64)
    )


@pytest.mark.parametrize(
    "step",
    [
        lambda x: x,
        lambda x: x[..., 4:-4, 4:-4],
        lambda x: F.pad(x, (2, 2, 2, 2)),
        lambda x: F.interpolate(x, (40, 96)),
        lambda x: x.mT,
        lambda x: (x - 0.4) / 0.2,
    ],
    ids=["as they came", "cropped a little", "padded a little", "resized", "transposed", "scaled"],
)
def test_maps_that_cover_the_image_are_not_doubted(step):
    assert explained(step) == []


def test_few_positions_and_convolutions_without_padding_are_not_doubted():
    class LeNet(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(
                nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
                nn.Flatten(), nn.Linear(256, 10),
            )  # fmt: skip

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DoubtWarning)
        camfast.grad_cam(LeNet().eval(), torch.randn(2, 1, 28, 28), normalize=False)
