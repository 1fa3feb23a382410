"""The result: boxes, names, scores and heatmaps of each image, and pictures of them."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..brief import few
from ..ops.colormaps import ALPHA, COLORMAP
from ..pictures import photos
from ..pictures.frames import png_bytes
from .pictures import drawn, figure_of, frame_of

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Detections"]


@dataclass(repr=False, eq=False)
class Detections:
    """What :class:`camfast.DetectionExplainer` returns: a list entry an image. It holds no graph and nothing of the model.

    Attributes:
        boxes: float ``[D, 4]``: x0, y0, x1, y1 in pixels of the images as they were given, the best box first. They may
            reach beyond the image.
        labels: int64 ``[D]``.
        scores: ``[D]``, probabilities.
        heatmaps: float32 ``[D, H, W]`` in [0, 1]: what raised each box's score. All zero where nothing did.
        names: of each box's class, a list of D; its number where there is no name.
        masks: bool ``[D, H, W]``, where the detector gives masks; else None.
        layers: names of the levels whose maps were explained.
        method: name of the method, a key of :data:`camfast.METHODS`.
        images: the images: uint8 ``[H, W, 3]``, or floating ``[3, H, W]`` as the model took them.
        min_score: what a box had to score.
    """

    boxes: list[Tensor]
    labels: list[Tensor]
    scores: list[Tensor]
    heatmaps: list[Tensor]
    names: list[list[str]]
    masks: list[Tensor] | None = None
    layers: list[str] = field(default_factory=list)
    method: str = "layer_cam"
    images: list[Tensor] = field(default_factory=list)
    min_score: float = 0.25

    def overlay(
        self,
        image: int | None = None,
        box: int | None = None,
        within: bool = True,
        *,
        frames: Any = None,
        colormap: str | Tensor = COLORMAP,
        alpha: float = ALPHA,
        labels: bool = True,
    ) -> Any:
        """Pictures with boxes, names, scores and heat.

        Args:
            image: which one; None draws all.
            box: which of an image's boxes; None draws all of them, at each place the greatest heat.
            within: each box's heat within reach of the box alone, fading out over a quarter of its size; the rest of the
                picture stays as it is. False draws the heat wherever it is, in the whole picture.
            frames: uint8 ``[H, W, 3]`` pictures to draw on, one an image, of any size; None: the images themselves.
            colormap: a name, or a uint8 table ``[256, 3]``.
            alpha: the heat's share, from 0 to 1.
            labels: draws boxes and names; False draws the heat alone.

        Returns:
            uint8 ``[H, W, 3]`` of one image, or a list of these. An image without a box says so.

        Raises:
            IndexError: an image or a box that there is not.
        """
        if image is None:
            frames = [None] * len(self) if frames is None else list(frames)
            return [
                self.overlay(i, box, within, frames=frame, colormap=colormap, alpha=alpha, labels=labels)
                for i, frame in zip(range(len(self)), frames, strict=True)
            ]
        if not -len(self) <= image < len(self):
            raise IndexError(f"expected an image from 0 to {len(self) - 1}, got {image}")
        count = len(self.boxes[image])
        if box is not None and not -count <= box < count:
            raise IndexError(f"expected a box below {count}, got {box}")
        which = list(range(count)) if box is None else [box % count]
        size = self.heatmaps[image].shape[1:] if frames is None and not self.images else None
        frame = frame_of(self.images[image] if frames is None and self.images else frames, size)
        return drawn(self, image, which, frame, within, colormap, alpha, labels)

    def figure(
        self,
        frames: Any = None,
        colormap: str | Tensor = COLORMAP,
        alpha: float = ALPHA,
        title: str | None = None,
    ) -> Image.Image:
        """All of it as one labelled figure, a PIL image: of each image all boxes, then the heat of each of the best ones.

        Raises ``ImportError`` without Pillow.
        """
        return figure_of(self, frames, colormap, alpha, title)

    def save(
        self,
        path: str | Path,
        frames: Any = None,
        colormap: str | Tensor = COLORMAP,
        alpha: float = ALPHA,
        *,
        each: bool = False,
    ) -> list[Path]:
        """Writes the :meth:`figure`, or with ``each`` the bare overlays, one an image, and returns the files' paths.

        Of several overlays ``heat.png`` becomes ``heat_0.png``, ``heat_1.png``, ...
        """
        path = Path(path)
        if not each:
            return [photos.write(self.figure(frames, colormap, alpha), path)]
        overlays = self.overlay(frames=frames, colormap=colormap, alpha=alpha)
        several = len(overlays) > 1
        places = [path.with_name(f"{path.stem}_{i}{path.suffix}") if several else path for i in range(len(overlays))]
        return [photos.write(picture.numpy(), place) for picture, place in zip(overlays, places, strict=True)]

    def to(self, device: torch.device | str) -> Detections:
        """The same with its tensors on ``device``."""
        moved: dict[str, Any] = {
            name: [tensor.to(device) for tensor in getattr(self, name)]
            for name in ("boxes", "labels", "scores", "heatmaps", "masks", "images")
            if getattr(self, name) is not None
        }
        return replace(self, **moved)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.boxes)

    def __getitem__(self, index: int | slice) -> Detections:
        """The part that belongs to some of the images; one image stays a list of one."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"expected an image from 0 to {len(self) - 1}, got {index}")
            index = slice(index % len(self), index % len(self) + 1)
        parts = {
            name: getattr(self, name)[index] for name in ("boxes", "labels", "scores", "heatmaps", "names", "images")
        }
        return replace(self, masks=None if self.masks is None else self.masks[index], **parts)

    def __iter__(self) -> Iterator[Detections]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        """Such as ``Detections(bus 0.92, person 0.88, person 0.85, ... 5 in all by layer_cam of model.16: 1 image)``."""
        found = [
            f"{name} {float(score):.2f}"
            for names, scores in zip(self.names, self.scores, strict=True)
            for name, score in zip(names, scores, strict=True)
        ]
        what = few(found, len(found)) if found else f"no box found above {self.min_score:g}"
        of = f" of {few(self.layers, len(self.layers))}" if self.layers else ""
        return f"{type(self).__name__}({what} by {self.method}{of}: {len(self)} image{'s' * (len(self) != 1)})"

    def _repr_png_(self) -> bytes | None:
        """The figure, for notebooks."""
        try:
            return png_bytes(torch.from_numpy(np.array(self.figure())))
        except (ImportError, ValueError):
            return None

    def _repr_html_(self) -> str | None:
        """Every image with all of its boxes, and in words what was found, for notebooks."""
        try:
            cells = []
            for i, picture in enumerate(self.overlay()):
                words = [f"{n} {s:.0%}" for n, s in zip(self.names[i], self.scores[i].tolist(), strict=True)]
                caption = html.escape(", ".join(words) or f"no box found above {self.min_score:g}")
                data = base64.b64encode(png_bytes(picture)).decode()
                cells.append(
                    '<figure style="display:inline-block;margin:4px">'
                    f'<img style="max-width:640px" src="data:image/png;base64,{data}">'
                    f"<figcaption>{caption}</figcaption></figure>"
                )
            return "".join(cells)
        except (ImportError, ValueError):
            return None
