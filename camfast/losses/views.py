"""Views of a picture: a window, mirrored, at another size. What is done to images is done to their heat alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops import reference

__all__ = ["View"]


@dataclass(frozen=True)
class View:
    """A window of a picture, mirrored or not, at a size of its own: flips, crops and scales are views.

    ``View(mirrored=True)``, ``View((0.25, 0, 1, 0.75))``, ``View(size=112)``; ``random`` draws one. It takes images and
    heat of any size, since the window is in shares of the picture.

    Args:
        window: left, top, right, bottom, in shares of width and height, 0 <= left < right <= 1, 0 <= top < bottom <= 1.
        mirrored: left and right change places.
        size: height and width of the result, an int for both; None: those of the window, in whole pixels.
    """

    window: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    mirrored: bool = False
    size: int | tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if len(self.window) != 4:
            raise ValueError(f"window must be left, top, right, bottom, got {self.window!r}")
        left, top, right, bottom = self.window
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise ValueError(f"window must lie in [0, 1], left before right and top before bottom, got {self.window!r}")

    def __call__(self, pictures: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """The view of ``pictures``, floating ``[..., H, W]``, images or heat; ``size`` in place of the view's own.

        Linear, with antialiasing where it becomes smaller, as ``camfast.reference.preprocess``; a window of whole pixels
        that keeps its size is cut out as it is. Returns ``[..., h, w]`` in the dtype of ``pictures``, with gradients.
        """
        if not isinstance(pictures, Tensor) or not pictures.is_floating_point():
            raise TypeError(f"pictures must be a floating tensor, got {type(pictures).__name__}")
        if pictures.ndim < 3:
            raise ValueError(f"pictures must be [..., H, W], got {list(pictures.shape)}")
        height, width = pictures.shape[-2:]
        left, top, right, bottom = self.window
        down, across = (top * height, bottom * height), (left * width, right * width)
        h, w = size or self._size(round(down[1] - down[0]), round(across[1] - across[0]))
        rows = _weights(height, h, *down, pictures)
        columns = _weights(width, w, *across, pictures)
        if self.mirrored:
            columns = columns.flip(0)
        with torch.autocast(pictures.device.type, enabled=False):
            found = rows @ pictures.to(rows.dtype) @ columns.mT
        return found.to(pictures.dtype)

    @classmethod
    def random(
        cls,
        area: tuple[float, float] = (0.3, 1.0),
        mirror: float = 0.5,
        size: int | tuple[int, int] | None = None,
        generator: torch.Generator | None = None,
    ) -> View:
        """A view drawn by chance.

        Args:
            area: least and greatest share of the picture that the window holds; it has the picture's proportions.
            mirror: how probably it is mirrored.
            size: of the result, as in the class.
            generator: of the numbers; None: PyTorch's own.
        """
        if not 0 < area[0] <= area[1] <= 1:
            raise ValueError(f"area must be least and greatest share, above 0 and up to 1, got {area!r}")
        share, x, y, chance = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        side = (area[0] + (area[1] - area[0]) * share) ** 0.5
        left, top = x * (1 - side), y * (1 - side)
        return cls((left, top, min(left + side, 1.0), min(top + side, 1.0)), chance < mirror, size)

    def _size(self, height: int, width: int) -> tuple[int, int]:
        if self.size is None:
            return max(height, 1), max(width, 1)
        return (self.size, self.size) if isinstance(self.size, int) else self.size


def _weights(length: int, out: int, start: float, end: float, like: Tensor) -> Tensor:
    """Weights ``[out, length]`` of a resize of the interval, in fp32, or fp64 for fp64."""
    weights = reference.triangles(length, out, start, end, like.device)
    return weights.to(torch.float64 if like.dtype == torch.float64 else torch.float32)
