"""Boxes, names and heat over photographs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..errors import require
from ..pictures import figures
from ..pictures.frames import as_frames, rgb_frames
from ..pictures.strips import enlarged, strip
from ..pictures.text import Color, font, legend, write_line

if TYPE_CHECKING:
    from PIL import Image

    from .detections import Detections

__all__ = ["drawn", "figure_of", "frame_of", "outlined", "reach_of"]

# Colours of classes that differ for most eyes, on light and dark ground.
_COLORS: tuple[Color, ...] = (
    (255, 176, 0),
    (100, 143, 255),
    (220, 38, 127),
    (34, 197, 94),
    (254, 97, 0),
    (120, 94, 240),
    (20, 184, 190),
    (236, 200, 210),
)
_FADE = 0.25  # of a box's size: how far beyond it its heat fades out
_BOXES, _ACROSS = 11, 4  # of one image in a figure: boxes that have a panel, panels in a row
_WIDTH, _SMALL = 1600, 320


def frame_of(frame: Any, size: Any = None) -> Tensor:
    """One picture, uint8 ``[H, W, 3]`` on the CPU; black of ``size`` where there is none."""
    if frame is None:
        return torch.zeros(*(size or (1, 1)), 3, dtype=torch.uint8)
    if isinstance(frame, Tensor) and frame.is_floating_point():
        frame = as_frames(frame[None].cpu(), 1, torch.device("cpu"))[0]
    picture = rgb_frames(frame).cpu()
    if picture.ndim != 3:
        raise ValueError(f"a frame must be one picture [H, W, 3], got {list(picture.shape)}")
    return picture


def drawn(
    result: Detections,
    image: int,
    which: list[int],
    frame: Tensor,
    within: bool,
    colormap: str | Tensor,
    alpha: float,
    labels: bool,
) -> Tensor:
    """``frame``, uint8 ``[H, W, 3]``, with the heat of the boxes ``which`` of ``image``, their outlines and names."""
    if not which:
        return legend(frame.clone(), [(f"no box found above {result.min_score:g}", math.nan)]) if labels else frame
    size = (frame.shape[0], frame.shape[1])
    shape = result.images[image].shape if result.images else (*size, 3)
    given = shape[1:] if shape[0] in (1, 3) and shape[-1] != 3 else shape[:2]
    boxes = result.boxes[image].cpu()[which] * torch.tensor([size[1] / given[1], size[0] / given[0]] * 2)
    heat = torch.zeros(size)
    for k, box in zip(which, boxes, strict=True):  # one at a time: of a large photograph all would be gigabytes
        own = result.heatmaps[image][k].cpu().float()
        if tuple(own.shape) != size:
            own = ops.resize_normalize(own[None].contiguous(), size, normalize=False)[0]
        heat = torch.maximum(heat, own * reach_of(box[None], size)[0] if within else own)
    picture = ops.overlay(frame.contiguous(), heat, colormap, alpha)
    if within:  # the colour of no heat is no colour
        share = (2 * heat).clamp(max=1)[..., None]
        picture = (frame + (picture.float() - frame) * share).round().to(torch.uint8)
    if not labels:
        return picture
    numbers = [int(result.labels[image][k]) for k in which]
    words = [f"{result.names[image][k]} {float(result.scores[image][k]):.0%}" for k in which]
    return outlined(picture, boxes, numbers, words)


def reach_of(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """``[D, H, W]``: 1 inside each box, down to 0 at a quarter of its width and height beyond it."""
    sides = []
    for axis, extent in ((1, size[0]), (0, size[1])):
        low, high = boxes[:, axis, None], boxes[:, axis + 2, None]
        fade = (_FADE * (high - low)).clamp(min=1)
        at = torch.arange(extent) + 0.5
        outside = torch.maximum(low - at, at - high).clamp(min=0)
        sides.append((1 - outside / fade).clamp(min=0))
    return sides[0][:, :, None] * sides[1][:, None]


def outlined(picture: Tensor, boxes: Tensor, labels: Sequence[int], words: Sequence[str]) -> Tensor:
    """``picture``, uint8 ``[H, W, 3]``, with a line around each of ``boxes`` ``[D, 4]``, and its words; a colour per label."""
    require("PIL", "vision")
    from PIL import Image, ImageDraw

    page = Image.fromarray(picture.numpy())
    draw = ImageDraw.Draw(page)
    height, width = picture.shape[:2]
    line = max(1, round(min(height, width) / 240))
    text = max(10, round(min(height, width) / 34))
    edges = boxes.clone()
    edges[:, 0::2] = edges[:, 0::2].clamp(0, width - 1)
    edges[:, 1::2] = edges[:, 1::2].clamp(0, height - 1)
    for label, line_of, (x0, y0, x1, y1) in reversed(
        list(zip(labels, words, edges.tolist(), strict=True))
    ):  # best on top
        color = _COLORS[label % len(_COLORS)]
        if x1 < x0 or y1 < y0:
            continue
        draw.rectangle((x0, y0, x1, y1), outline=color, width=line)
        room = draw.textlength(line_of, font(text, line_of)) + text
        top = y0 - 1.4 * text if y0 >= 1.4 * text else y0
        left = max(0.0, min(x0, width - room))
        draw.rectangle((left, top, left + room, top + 1.4 * text), fill=color)
        ink = (0, 0, 0) if sum(color) > 380 else (255, 255, 255)
        write_line(draw, (left + 0.5 * text, top + 0.08 * text), line_of, text, ink, width)
    return torch.from_numpy(np.array(page))


def figure_of(result: Detections, frames: Any, colormap: str | Tensor, alpha: float, title: str | None) -> Image.Image:
    """The figure; see :meth:`camfast.Detections.figure`."""
    rows: list[list[figures.Panel]] = []
    for image in range(len(result)):
        frame = None if frames is None else frames[image]
        frame = frame_of(
            result.images[image] if frame is None and result.images else frame, result.heatmaps[image].shape[1:]
        )
        frame = enlarged(frame[None], _SMALL)[0]
        count = len(result.boxes[image])
        paint = partial(drawn, result, image, frame=frame, colormap=colormap, alpha=alpha)
        whole = paint(list(range(count)), within=True, labels=True)
        words = f"{count} box{'es' * (count != 1)}" if count else f"no box found above {result.min_score:g}"
        panels = [figures.Panel(whole.numpy(), f"image {image}", words)]
        for k in range(min(count, _BOXES)):
            note = f"{float(result.scores[image][k]):.1%}"
            panels.append(figures.Panel(paint([k], within=False, labels=True).numpy(), result.names[image][k], note))
        rows += [panels[start : start + _ACROSS] for start in range(0, len(panels), _ACROSS)]
    most = max(len(row) for row in rows)
    by = f"{result.method} at {', '.join(result.layers)}" if result.layers else result.method
    words = "first each box's heat within reach of the box; then the whole heat of each, by its own range"
    foot = lambda width, size, margin: strip(width, size, colormap, ("none", "most"), [words], margin=margin)  # noqa: E731
    found = any(len(boxes) for boxes in result.boxes)
    width = max(640, _WIDTH * most // _ACROSS)
    return figures.compose(
        rows, title or "Why is this box here?", by, width, _WIDTH / 1600 * 0.8, foot if found else None
    )
