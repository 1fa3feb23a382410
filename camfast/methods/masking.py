"""Score-CAM and its kin: each channel masks the image, and the score of what is left is its weight."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..inputs import Inputs
from ..taps import Tap
from ..targets import Chosen
from .base import LayerMap
from .perturbation import PerturbationExplainer
from .registry import register
from .scoring import batch_fitting, counted, progress_bar, strongest

__all__ = ["ISCAM", "SSCAM", "ScoreCAM", "is_cam", "score_cam", "ss_cam"]

_MASK_EPS = 1e-8
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


class ScoreCAM(PerturbationExplainer):
    """Score-CAM: each channel, scaled to [0, 1], masks the image; the scores go through a softmax (Wang 2020, https://arxiv.org/abs/1910.01279).

    Masks are resized with aligned corners and scaled at full resolution, as in pytorch-grad-cam. They are made for one
    batch of copies at a time. ``channels`` limits the work to that many channels of largest variance an image, after
    Faster-Score-CAM; the others get weight 0. None scores all of them.
    """

    name: ClassVar[str] = "score_cam"
    rounds: int = 1  # how often each channel is scored

    def __init__(self, *args: Any, channels: int | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.channels = counted(channels, "channels")

    def maps(self, tap: Tap, chosen: Chosen, inputs: Inputs) -> list[LayerMap]:
        maps = []
        for name, A in zip(self.layers, tap.activations, strict=True):
            grid = self.to_grid(A, inputs, name)(A)
            if grid.ndim != inputs.image.ndim:
                raise ValueError(
                    f"{type(self).__name__} needs maps of as many dimensions as the images, "
                    f"{list(inputs.image.shape)}, got {list(grid.shape)}"
                )
            channels = strongest(grid, self.channels)
            with progress_bar(channels.numel() * self.rounds, self.progress, self.name) as bar, torch.no_grad():
                totals = self._scores(grid, channels, chosen, inputs, bar) / self.rounds  # [N, channels, (K)]
            shares = totals.softmax(1)
            weights = shares.new_zeros(*grid.shape[:2], *shares.shape[2:])
            index = channels.reshape(*channels.shape, *(1,) * (shares.ndim - 2)).expand_as(shares)
            weights.scatter_(1, index, shares)
            maps.append(LayerMap(ops.cam, grid, weights.movedim(1, -1)))
        return maps

    def _scores(self, grid: Tensor, channels: Tensor, chosen: Chosen, inputs: Inputs, bar: Any) -> Tensor:
        """Sums over the rounds of the scores of every masked image, ``[N, channels, (K)]``."""
        size = self.batch_size or batch_fitting(inputs.image[:1])
        total: Any = 0
        for turn in range(self.rounds):
            rows = []
            for i in range(inputs.batch):
                one, found = inputs.one(i), []
                for part in channels[i].split(size):
                    masks = self._masks(grid[i, part], one.image, turn)
                    masked = one.with_image(masks * one.image.detach()).cut()
                    output = self.model(*masked.args, **masked.kwargs)
                    found.append(chosen.values(i, output, len(part)))
                    bar.update(len(part))
                rows.append(torch.cat(found))
            total = total + torch.stack(rows)
        return total

    def _masks(self, maps: Tensor, image: Tensor, turn: int) -> Tensor:
        """Masks ``[B, 1, *size]`` of some channels ``[B, *map]`` of one image, in its dtype."""
        large = _resized(_wide(maps).unsqueeze(1), image.shape[2:], align_corners=True)
        return _unit_range(large).to(image.dtype)


score_cam = register(ScoreCAM)


class SSCAM(ScoreCAM):
    """SS-CAM: Score-CAM with scores averaged over noisy masks (Wang 2020, https://arxiv.org/abs/2006.14255).

    As in torchcam, masks are scaled to [0, 1] at the map's resolution and resized; Gaussian noise of standard deviation
    ``std`` is added ``samples`` times. It comes from PyTorch's global generator of the CPU, or from one of its own with
    ``seed``.
    """

    name: ClassVar[str] = "ss_cam"

    def __init__(
        self, *args: Any, samples: int = 35, std: float = 2.0, seed: int | None = None, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.rounds = counted(samples, "samples") or 1
        if not std >= 0:
            raise ValueError(f"std must not be negative, got {std!r}")
        self.std, self.seed = float(std), seed
        self._generator: torch.Generator | None = None

    def maps(self, tap: Tap, chosen: Chosen, inputs: Inputs) -> list[LayerMap]:
        self._generator = None if self.seed is None else torch.Generator().manual_seed(self.seed)
        return super().maps(tap, chosen, inputs)

    def _masks(self, maps: Tensor, image: Tensor, turn: int) -> Tensor:
        masks = _resized(_unit_range(_wide(maps).unsqueeze(1)), image.shape[2:])
        noise = torch.randn(masks.shape, dtype=masks.dtype, generator=self._generator) * self.std
        return (masks + noise.to(masks.device)).to(image.dtype)


ss_cam = register(SSCAM)


class ISCAM(ScoreCAM):
    """IS-CAM: Score-CAM with scores averaged over masks of growing strength (Naidu 2020, https://arxiv.org/abs/2010.03023).

    As in torchcam, masks are scaled to [0, 1] at the map's resolution and resized, and the mask of step i is multiplied
    by the sum of 1/n, 2/n, ..., i/n, for ``samples`` = n steps.
    """

    name: ClassVar[str] = "is_cam"

    def __init__(self, *args: Any, samples: int = 10, **options: Any) -> None:
        super().__init__(*args, **options)
        self.rounds = counted(samples, "samples") or 1

    def _masks(self, maps: Tensor, image: Tensor, turn: int) -> Tensor:
        strength = sum((step + 1) / self.rounds for step in range(turn + 1))
        masks = _resized(_unit_range(_wide(maps).unsqueeze(1)), image.shape[2:])
        return (masks * strength).to(image.dtype)


is_cam = register(ISCAM)


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _unit_range(maps: Tensor) -> Tensor:
    """Each map of ``[B, 1, *map]`` from 0 to 1."""
    dims = tuple(range(2, maps.ndim))
    maps = maps - maps.amin(dims, keepdim=True)
    return maps / (maps.amax(dims, keepdim=True) + _MASK_EPS)


def _resized(maps: Tensor, size: torch.Size, align_corners: bool = False) -> Tensor:
    return F.interpolate(maps, size=tuple(size), mode=_LINEAR[len(size)], align_corners=align_corners)
