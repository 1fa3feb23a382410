"""A detector of light and of red squares, small enough to be seen through, for tests of what is made of boxes."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["LIGHT", "RED", "Listed", "Squares", "scene"]

LIGHT, RED, GREEN = 0, 1, 2


class Squares(nn.Module):
    """``[N, 4 + 3, places]``, as of YOLO: of each cell of 8 x 8 pixels a box around it, and how light and how red it is.

    Nothing is green to it.
    """

    names: ClassVar[dict[int, str]] = {LIGHT: "light", RED: "red", GREEN: "green"}
    stride = 8

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 2, 8, 8, bias=False), nn.ReLU())
        self.head = nn.Conv2d(2, 3, 1)
        with torch.no_grad():
            self.trunk[0].weight.zero_()
            self.trunk[0].weight[LIGHT, 1] = 1 / 64  # what is green or white
            self.trunk[0].weight[RED, 0], self.trunk[0].weight[RED, 1] = 1 / 64, -1 / 64
            self.head.weight.zero_()
            self.head.weight[LIGHT, LIGHT], self.head.weight[RED, RED] = 12.0, 11.0
            self.head.bias[:] = torch.tensor([-9.0, -9.0, -12.0])

    def forward(self, x: Tensor) -> Tensor:
        maps = self.trunk(x)
        scores = self.head(maps).flatten(2).sigmoid()
        rows, columns = maps.shape[2:]
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        places = torch.stack([8 * x + 4, 8 * y + 4, *[torch.full_like(x, 10)] * 2]).flatten(1).to(scores)
        return torch.cat([places.expand(len(scores), -1, -1), scores], 1)


class Listed(Squares):
    """The same for a list of images: mappings of the boxes that it is sure of, as torchvision's give."""

    def forward(self, images: list[Tensor], targets: None = None) -> list[dict[str, Tensor]]:  # type: ignore[override]
        found = []
        for rows in super().forward(torch.stack(list(images))):
            scores, labels = rows[4:].max(0)
            keep = scores > 0.05
            centre = rows[:2, keep].T
            boxes = torch.cat([centre - 5, centre + 5], 1)
            found.append({"boxes": boxes, "labels": labels[keep], "scores": scores[keep]})
        return found


def scene(*squares: tuple[int, int, int], height: int = 64, width: int = 96) -> np.ndarray:
    """A dark picture with squares of 8 x 8 pixels, ``(class, row, column)`` in cells."""
    picture = np.full((height, width, 3), 20, np.uint8)
    for kind, row, column in squares:
        picture[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = (
            (250, 250, 250) if kind == LIGHT else (250, 10, 10)
        )
    return picture
