"""The result of an explanation: heatmaps, the scores of the same pass, and pictures of them."""

from __future__ import annotations

import base64
import html
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..brief import few
from ..ops.colormaps import ALPHA, COLORMAP
from ..pictures import photos
from ..pictures.frames import as_frames, png_bytes
from ..pictures.strips import enlarged
from ..targets.words import in_words
from .chosen import count_per_image
from .figure import colours_of, figure_of, score_of, score_text
from .ranges import Scale

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Explanation"]

_NOT_SHOWN = ("targets", "images")  # in the repr, which names the targets


@dataclass(repr=False, eq=False)
class Explanation:
    """What :class:`camfast.Explainer` returns. It holds nothing of the model, and no graph unless one was asked for.

    Attributes:
        heatmap: float32 (float64 for a model in float64) ``[N, H, W]``, or ``[N, K, H, W]`` for K targets an image, on
            the images' device; ``[N, L]`` and ``[N, D, H, W]`` for sequences and volumes. In [0, 1] unless raw maps
            were asked for; NaN throughout where an image's activations or gradients were not finite.
        scores: the model's output of the same pass, ``[N, classes]``, as the model gave it. They and the heatmap have a
            graph to the model's parameters where the call was ``differentiable``; pictures are drawn without it.
        targets: what was explained: int64 ``[N]`` or ``[N, K]``, or a list of N callables, or of N
            lists of K.
        layers: names of the layers whose activations were used.
        method: name of the method, a key of :data:`camfast.METHODS`.
        images: the image tensor that was explained, the caller's own.
        class_names: names of the classes, in the order of the scores, where they are known.
        images_per_row: how many images share a row of ``scores`` and ``targets``: T frames of a clip that the model
            brings together. Their maps share one range, so that heat of one frame can be compared with that of another.
        maps_per_image: how many instances each of ``images`` ``[N, I, C, H, W]`` holds, where it is a bag: the heatmap is
            ``[N, I, H, W]`` (``[N, I, K, H, W]`` for K targets), in one range per bag. None for plain images.
        scale: what the heatmap's values are: ``"each"``: every map in [0, 1] by its own range; ``"raw"``; or ``(low, high)``:
            the raw values that 0 and 1 stand for, one range for all maps, which ``normalize=`` of another call takes.
    """

    heatmap: Tensor
    scores: Tensor
    targets: Tensor | list[Any]
    layers: list[str]
    method: str
    images: Tensor | None = None
    class_names: Sequence[str] | None = None
    images_per_row: int = 1
    maps_per_image: int | None = None
    scale: Scale = "each"

    def overlay(self, frames: Any = None, colormap: str | Tensor = COLORMAP, alpha: float = ALPHA) -> Tensor:
        """The heatmaps in colour over ``frames``.

        Args:
            frames: RGB pictures of any size: uint8 ``[N, H, W, 3]`` or ``[H, W, 3]`` (tensor or array), a PIL image, or
                a list of N of either, all of one size. None draws over the explained images, each stretched to its own
                range: three channels as RGB, others as the grey mean of their channels.
            colormap: a name, or a uint8 table ``[256, 3]`` (see :func:`camfast.colormaps.table`).
            alpha: the heat's share, from 0 (the frame alone) to 1.

        Returns uint8 ``[N, H, W, 3]``, or ``[N, K, H, W, 3]`` for K targets an image, on the heatmap's device. Raises
        ``ValueError`` for heatmaps that are no pictures and for frames that do not fit them.
        """
        heat, targets = self._planes()
        if self.maps_per_image is not None:
            plain = self._flat()
            return plain.overlay(frames, colormap, alpha).unflatten(0, (len(self), self.maps_per_image))
        frames = as_frames(self.images if frames is None else frames, len(self), heat.device)
        if targets is None:
            return ops.overlay(frames, heat, colormap, alpha)
        each = frames.repeat_interleave(targets, 0)
        return ops.overlay(each, heat.flatten(0, 1), colormap, alpha).unflatten(0, (len(self), targets))

    def figure(
        self,
        frames: Any = None,
        colormap: str | Tensor = COLORMAP,
        alpha: float = ALPHA,
        title: str | None = None,
    ) -> Image.Image:
        """All of it as one labelled figure, a PIL image: rows are images, columns are targets.

        Each heat has its target's name and score; below stand the colours and what they mean: each map's own range, or
        the range that all of them share (``normalize="shared"``). Raw maps are drawn in one range. Small images are
        enlarged. ``frames``, ``colormap`` and ``alpha`` as in :meth:`overlay`; ``title`` in place of the method's name.

        Raises ``ValueError`` as :meth:`overlay`, and for more than 400 panels; ``ImportError`` without Pillow.
        """
        plain = self if self.maps_per_image is None else self._flat()
        return figure_of(plain.detach(), frames, colormap, alpha, title)

    def save(
        self,
        path: str | Path,
        frames: Any = None,
        colormap: str | Tensor = COLORMAP,
        alpha: float = ALPHA,
        *,
        each: bool = False,
    ) -> list[Path]:
        """Writes the :meth:`figure`, or with ``each`` the bare overlays, and returns the files' paths.

        The suffix tells the format. Of several overlays ``heat.png`` becomes ``heat_0.png``, ``heat_1.png``, ...; with
        K targets an image ``heat_0_0.png``, image first. A file appears whole or not at all. ``frames``, ``colormap``
        and ``alpha`` as in :meth:`overlay`. Needs Pillow: ``pip install "camfast[vision]"``.
        """
        path = Path(path)
        if not each:
            return [photos.write(self.figure(frames, colormap, alpha), path)]
        overlays = self.overlay(frames, colormap, alpha)
        written = []
        for index in itertools.product(*map(range, overlays.shape[:-3])):
            several = overlays.shape[:-3].numel() > 1
            name = "_".join([path.stem, *map(str, index)]) + path.suffix if several else path.name
            written.append(photos.write(overlays[index].cpu().numpy(), path.with_name(name)))
        return written

    def score(self, image: int, target: int | None = None) -> float:
        """The score of what is explained in ``image`` (and ``target`` of K).

        Of a classifier's class its probability: the softmax of the scores, or the score itself where they are
        probabilities already. Of a single number that number, of a callable its value. NaN where the scores alone do not
        tell it, as for a detector's boxes. Raises as :meth:`label`.
        """
        self.label(image, target)
        found = score_of(self.detach(), image, target)
        return float("nan") if found is None else found[0]

    def label(self, image: int, target: int | None = None) -> str:
        """What is explained in ``image`` (and ``target`` of K): a class's name, or else its number, or what a
        callable is called.

        Raises ``IndexError`` for an image or target that there is not, and ``ValueError`` where K targets an image were
        explained and none of them is named.
        """
        many = count_per_image(self.targets)
        if not -len(self) <= image < len(self):
            raise IndexError(f"expected an image from 0 to {len(self) - 1}, got {image}")
        if many is None and target not in (None, 0, -1):
            raise IndexError(f"expected no target besides the image's only one, got target {target}")
        if many is not None and target is None:
            raise ValueError(f"expected which of {many} targets an image, from 0 to {many - 1}, got none")
        if many is not None and target is not None and not -many <= target < many:
            raise IndexError(f"expected a target from 0 to {many - 1}, got {target}")
        row = image % len(self) // self.images_per_row
        explained = self.targets[row] if many is None else self.targets[row][target]  # type: ignore[index]
        return in_words(explained, self.class_names)

    def detach(self) -> Explanation:
        """The same without a graph, to be kept or drawn."""
        return replace(self, heatmap=self.heatmap.detach(), scores=self.scores.detach())

    def to(self, device: torch.device | str) -> Explanation:
        """The same with its tensors on ``device``."""
        targets = self.targets.to(device) if isinstance(self.targets, Tensor) else self.targets
        images = None if self.images is None else self.images.to(device)
        heatmap, scores = self.heatmap.to(device), self.scores.to(device)
        return replace(self, heatmap=heatmap, scores=scores, targets=targets, images=images)

    def __getstate__(self) -> dict[str, Any]:
        """What is copied, pickled and saved: of tensors that are part of a batch's, their own values alone."""
        return {name: _own_storage(value) for name, value in vars(self).items()}

    def __len__(self) -> int:
        """Number of images."""
        return len(self.heatmap)

    def __getitem__(self, index: int | slice) -> Explanation:
        """The part that belongs to some of the images; one image stays a batch of one."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"expected an image from 0 to {len(self) - 1}, got {index}")
            index = slice(index % len(self), index % len(self) + 1)
        images = None if self.images is None else self.images[index]
        rows, shared = index, self.images_per_row
        if shared > 1:
            start, stop, step = index.indices(len(self))
            whole = step == 1 and start % shared == 0 and stop % shared == 0
            if not whole and stop - start != 1:
                raise IndexError(f"expected one frame, or whole clips of {shared} frames, got {index}")
            rows = slice(start // shared, -(-stop // shared))
            shared = shared if whole else 1
        return replace(
            self,
            heatmap=self.heatmap[index],
            scores=self.scores[rows],
            targets=self.targets[rows],
            images=images,
            images_per_row=shared,
        )

    def _flat(self) -> Explanation:
        """A bag's instances as images of their own."""
        assert self.maps_per_image is not None
        images = None if self.images is None else self.images.flatten(0, 1)
        flat = replace(self, heatmap=self.heatmap.flatten(0, 1), images=images, maps_per_image=None)
        return replace(flat, images_per_row=self.images_per_row * self.maps_per_image)

    def __iter__(self) -> Iterator[Explanation]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        """Such as ``Explanation('tabby', 'espresso' by grad_cam of layer4: heatmap [2, 224, 224], scores [2, 1000])``."""
        many = count_per_image(self.targets)
        places = itertools.product(range(len(self)), [None] if many is None else range(many))
        labels = list(dict.fromkeys(repr(self.label(*place)) for place in itertools.islice(places, 100)))
        named = few([label.strip("'") if label.strip("'").isdigit() else label for label in labels], len(labels))
        tensors = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _NOT_SHOWN}
        shapes = [f"{name} {list(value.shape)}" for name, value in tensors.items() if isinstance(value, Tensor)]
        device = "" if self.heatmap.device.type == "cpu" else f" on {self.heatmap.device}"
        of = f" of {few(self.layers, len(self.layers))}" if self.layers else ""
        return f"{type(self).__name__}({named} by {self.method}{of}: {', '.join(shapes)}{device})"

    def _planes(self) -> tuple[Tensor, int | None]:
        """The heatmap, checked to be of pictures, and the number of targets an image."""
        many = count_per_image(self.targets) is not None
        rank = self.heatmap.ndim - 1 - many - (self.maps_per_image is not None)
        if rank != 2:
            raise ValueError(f"only heatmaps of two dimensions can be drawn over pictures, got {rank}")
        return self.heatmap.detach(), self.heatmap.shape[1] if many else None

    def _repr_png_(self) -> bytes | None:
        """The figure, for notebooks."""
        try:
            return png_bytes(torch.from_numpy(np.array(self.figure())))
        except (ImportError, ValueError):
            return None

    def _repr_html_(self) -> str | None:
        """Every overlay with its class and score, a row an image, for notebooks; small images enlarged."""
        plain = (self if self.maps_per_image is None else self._flat()).detach()
        try:
            drawn, ends, words = colours_of(plain)
            frames = as_frames(plain.images, len(plain), plain.heatmap.device)
            overlays = drawn.overlay(enlarged(frames, 160))
            rows = []
            for i, image in enumerate(overlays):
                pictures = [image] if image.ndim == 3 else list(image)
                cells = []
                for k, picture in enumerate(pictures):
                    target = k if image.ndim == 4 else None
                    caption = html.escape(f"{plain.label(i, target)} {score_text(plain, i, target)}".strip())
                    data = base64.b64encode(png_bytes(picture)).decode()
                    cells.append(
                        '<figure style="display:inline-block;margin:4px">'
                        f'<img src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
                    )
                rows.append("".join(cells) if overlays.ndim == 4 else f"<div>{''.join(cells)}</div>")
            return "".join([*rows, f"<div><small>{words}, from {ends[0]} to {ends[1]}</small></div>"])
        except (ImportError, ValueError):
            return None


def _own_storage(value: Any) -> Any:
    """A tensor that fills its storage: a copy, where ``value`` is a part of a larger one."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        return value
    whole = value.untyped_storage().nbytes() <= value.numel() * value.element_size()
    return value if whole else value.clone()


torch.serialization.add_safe_globals(
    [Explanation]
)  # torch.load(..., weights_only=True) reads what torch.save wrote of it
