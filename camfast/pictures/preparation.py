"""From a photograph to a network's input, and where on the photograph that input lies.

Both libraries prepare a photograph in the same steps: resize, cut out the centre, scale to [0, 1], subtract a mean and
divide by a deviation. :class:`Preparation` holds those steps as numbers. It gives the same values as the libraries' own
transforms to the last bit, and it can say which part of the photograph the network saw, which a transform cannot.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import require
from .frames import Box

__all__ = ["Preparation"]

MAX_PIXELS = 100_000_000  # of the resized photograph, before the cut: reached only by absurdly long and thin ones


@dataclass(frozen=True)
class Preparation:
    """The steps from a photograph (RGB, uint8 ``[H, W, 3]``) to a network's input (fp32 ``[3, h, w]``).

    ``resize`` is the length the shorter side gets, or the whole ``(height, width)``; ``crop`` is ``(height, width)`` of
    the part that is cut out of the centre; ``mean`` and ``std`` belong to values in [0, 1], one number a channel;
    ``interpolation`` is Pillow's: "nearest", "bilinear", "bicubic", "lanczos", ...
    """

    resize: int | tuple[int, int]
    crop: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"

    def __call__(self, photo: np.ndarray) -> Tensor:
        """The network's input, fp32 ``[3, h, w]``, for ``photo``, uint8 ``[H, W, 3]``."""
        return self.scaled(self.cut(photo))

    def cut(self, photo: np.ndarray) -> Tensor:
        """The part that the network sees, uint8 ``[h, w, 3]``: resized and cut out, not yet scaled."""
        require("PIL", "vision")
        from PIL import Image

        height, width = photo.shape[:2]
        rows, columns = self._resized(height, width)
        if rows * columns > MAX_PIXELS:
            raise ValueError(f"expected a photograph of usual proportions, got {width} x {height} pixels")
        top, left = self._corner(height, width)
        image = Image.fromarray(photo)
        if (rows, columns) != (height, width):
            image = image.resize((columns, rows), Image.Resampling[self.interpolation.upper()])
        image = image.crop((left, top, left + self.crop[1], top + self.crop[0]))
        return torch.from_numpy(np.array(image))

    def scaled(self, cut: Tensor) -> Tensor:
        """fp32 ``[..., 3, h, w]`` of what :meth:`cut` gave, uint8 ``[..., h, w, 3]``, on its device."""
        values = cut.movedim(-1, -3).contiguous().to(torch.float32).div_(255)
        mean, std = (
            torch.tensor(numbers, dtype=torch.float32, device=cut.device).view(-1, 1, 1)
            for numbers in (self.mean, self.std)
        )
        return values.sub_(mean).div_(std)

    def box(self, height: int, width: int) -> Box:
        """``(left, top, right, bottom)`` of the network's input, in pixels of a photograph of ``height`` x ``width``.

        Edges, not pixel centres: the whole photograph is ``(0, 0, width, height)``. A network that sees a margin around
        the photograph has a box that reaches beyond it.
        """
        rows, columns = self._resized(height, width)
        top, left = self._corner(height, width)
        down, across = height / rows, width / columns
        return left * across, top * down, (left + self.crop[1]) * across, (top + self.crop[0]) * down

    def stretched(self) -> Preparation:
        """The same input size, without the cut: the whole photograph is squeezed into it, whatever its proportions."""
        return dataclasses.replace(self, resize=self.crop)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if not isinstance(self.resize, int):
            return self.resize
        # Rounded down, as torchvision.transforms.Resize does.
        if height <= width:
            return self.resize, int(self.resize * width / height)
        return int(self.resize * height / width), self.resize

    def _corner(self, height: int, width: int) -> tuple[int, int]:
        """``(top, left)`` of the cut in the resized photograph."""
        rows, columns = self._resized(height, width)
        return _centred(rows, self.crop[0]), _centred(columns, self.crop[1])


def _centred(length: int, cut: int) -> int:
    # As torchvision.transforms.CenterCrop: halves to even where it cuts, rounded down where it adds a black margin.
    return round((length - cut) / 2) if length >= cut else -((cut - length) // 2)
