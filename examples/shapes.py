"""For the examples whose networks are trained on the spot: pictures of discs, squares and crosses, and a sheet of results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn

__all__ = ["NAMES", "SIDE", "on_shapes", "pictures", "sheet", "trained"]

NAMES = ["disc", "square", "cross"]
COLORS = torch.tensor([[0.7, 0.3, 0.2], [0.2, 0.6, 0.3], [0.3, 0.3, 0.8]])  # about: each shape has its own
SIDE, RADIUS = 64, 9  # pixels of a picture, and of a shape from its centre to its edge


def pictures(count: int, generator: torch.Generator, each: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pictures with ``each`` different shapes in random places that do not touch.

    Returns:
        images ``[N, 3, 64, 64]`` in [0, 1]; kinds int64 ``[N, each]``, numbers into ``NAMES``; boxes ``[N, each, 4]``,
        x0, y0, x1, y1 in pixels; masks bool ``[N, each, 64, 64]``.
    """
    kinds = torch.stack([torch.randperm(len(NAMES), generator=generator)[:each] for _ in range(count)])
    centres = torch.stack([_apart(each, generator) for _ in range(count)])  # [N, each, 2]: y, x
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    dy, dx = y - centres[:, :, :1, None], x - centres[:, :, 1:, None]  # [N, each, 64, 64]
    inside = torch.stack(
        [
            dy**2 + dx**2 <= RADIUS**2,
            (dy.abs() <= RADIUS * 0.8) & (dx.abs() <= RADIUS * 0.8),
            ((dy.abs() <= 2) | (dx.abs() <= 2)) & (dy.abs() <= RADIUS) & (dx.abs() <= RADIUS),
        ]
    )  # one of each kind: [kinds, N, each, 64, 64]
    masks = torch.gather(inside, 0, kinds[None, :, :, None, None].expand(1, *inside.shape[1:]))[0]
    images = 0.45 * torch.rand(count, 3, SIDE, SIDE, generator=generator)
    colors = (COLORS[kinds] + 0.3 * torch.rand(count, each, 3, generator=generator)).clamp(max=1)
    for number in range(each):
        images = torch.where(masks[:, number, None], colors[:, number, :, None, None], images)
    low, high = centres.flip(-1) - RADIUS, centres.flip(-1) + RADIUS + 1
    return images, kinds, torch.cat([low, high], -1).float(), masks


def trained(
    network: Callable[[], nn.Module],
    loss_of: Callable[..., Tensor],
    rate: float,
    steps: int = 120,
    count: int = 32,
    each: int = 2,
) -> nn.Module:
    """A ``network()`` after ``steps`` of Adam on fresh pictures of ``each`` shapes, ``count`` at a time, in evaluation mode.

    ``loss_of(model, images, kinds, boxes, masks)`` is a scalar; see :func:`pictures`.
    """
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), rate)
    for step in range(1, steps + 1):
        loss = loss_of(model, *pictures(count, generator, each))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % (steps // 3) == 0:
            print(f"step {step}: loss {loss.item():.3f}")
    return model.eval()


def on_shapes(heat: Tensor, masks: Tensor) -> str:
    """Which share of ``heat`` lies on the shapes or within 4 pixels of them, both ``[..., H, W]``, and which would by chance."""
    near = F.max_pool2d(masks.flatten(0, -3).float(), 9, 1, 4).view_as(heat)
    share = (heat * near).sum((-2, -1)) / heat.sum((-2, -1)).clamp(min=1e-6)
    return f"{share.mean():.2f} of the heat is on the shape (by chance {near.mean():.2f})"


def sheet(rows: dict[str, Tensor], path: str | Path, scale: int = 3) -> None:
    """Writes pictures ``[M, H, W, 3]``, RGB uint8, as rows of one file, each under its name."""
    first = next(iter(rows.values()))
    wide, high, gap, line = first.shape[2] * scale, first.shape[1] * scale, 6, 18
    page = Image.new("RGB", (len(first) * (wide + gap) + gap, len(rows) * (high + line + gap) + gap), "white")
    draw = ImageDraw.Draw(page)
    for row, (name, pictures_of_row) in enumerate(rows.items()):
        top = gap + row * (high + line + gap)
        draw.text((gap, top), name, fill="black")
        for column, picture in enumerate(pictures_of_row):
            tile = Image.fromarray(picture.cpu().numpy()).resize((wide, high), Image.Resampling.NEAREST)
            page.paste(tile, (gap + column * (wide + gap), top + line))
    page.save(path)


def _apart(count: int, generator: torch.Generator) -> Tensor:
    """Centres ``[count, 2]`` of shapes that do not touch."""
    while True:
        centres = torch.randint(RADIUS + 1, SIDE - RADIUS - 1, (count, 2), generator=generator)
        gaps = (centres[:, None] - centres[None]).abs().amax(-1) + 2 * SIDE * torch.eye(count, dtype=torch.int64)
        if gaps.min() > 2 * RADIUS + 2:
            return centres
