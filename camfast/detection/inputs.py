"""From what a user has to what a detector takes, and back: where each image lies on the maps.

tensor [N, 3, H, W]         as it is
list of tensors [3, H, W]   as it is, for models that take lists (torchvision's); else of one size, as a batch
photographs, uint8          for models that take lists: their values divided by 255;
                            by ``prepare=``, such as an image processor of Hugging Face;
                            else fitted into a grey square ("letterbox"), as YOLO and its kin are trained
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..brief import Brief
from ..model.inputs import Inputs
from ..pictures.frames import rgb_frames

__all__ = ["Place", "Prepared", "prepared", "takes_lists"]

_GREY = 114  # around a photograph, as in the training of YOLO
_SIDE = 640  # of the square, where the model does not tell
_STRIDE = 32


@dataclass(repr=False)
class Place(Brief):
    """Where an image lies.

    Attributes:
        size: height and width of the image as the user gave it: what boxes and heat are for.
        seen: height and width of what the model's boxes are relative to.
        scale: pixels of the model's boxes for each of the image, down and across.
        corner: of the image, in pixels of the model's boxes, top and left.
        canvas: height and width of what the maps cover; None: that of the input, or of what the model made of it.
        part: top, left, bottom and right of the image on the canvas; None: all of it.
    """

    size: tuple[int, int]
    seen: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    corner: tuple[float, float] = (0.0, 0.0)
    canvas: tuple[int, int] | None = None
    part: tuple[int, int, int, int] | None = None

    def boxes(self, boxes: Tensor) -> Tensor:
        """Boxes ``[D, 4]`` of the model in pixels of the image."""
        top, left = self.corner
        down, across = self.scale
        corner = boxes.new_tensor((left, top, left, top))
        return (boxes - corner) / boxes.new_tensor((across, down, across, down))


@dataclass(repr=False)
class Prepared(Brief):
    """What the model is called with, and for each image its picture and its place."""

    inputs: Inputs
    frames: list[Tensor]  # uint8 [H, W, 3], or floating [C, H, W]
    places: list[Place]
    listed: bool  # whether the model takes a list, and scales the images itself

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """What boxes in shares of an image are shares of."""
        return [place.seen for place in self.places]

    def one(self, index: int) -> Prepared:
        """The same of one image alone."""
        part = slice(index, index + 1)
        return Prepared(self.inputs.one(index), self.frames[part], self.places[part], self.listed)


def takes_lists(model: nn.Module) -> bool:
    """Whether ``model`` is called with a list of images, each of its own size."""
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return False
    annotation = str(parameters[0].annotation).lower() if parameters else ""
    return "list[" in annotation or [p.name for p in parameters] == ["images", "targets"]


def prepared(
    images: Any, model: nn.Module, prepare: Callable[..., Any] | None = None, side: int | None = None
) -> Prepared:
    """Sorts ``images`` into a call of ``model``.

    Raises:
        TypeError: something else than tensors and photographs.
        ValueError: shapes that do not fit, or photographs for a model whose preparation is not known.
    """
    photos = _photos(images)
    if photos is not None:
        return _of_photos(photos, model, prepare, side)
    if isinstance(images, list) and images and all(isinstance(t, Tensor) and t.ndim == 3 for t in images):
        if takes_lists(model):
            sizes = [(t.shape[1], t.shape[2]) for t in images]
            return Prepared(Inputs.of(images, model), list(images), [Place(size, size) for size in sizes], True)
        if len({tuple(t.shape) for t in images}) > 1:
            raise ValueError(
                "images of one batch must have one size for this model, got "
                f"{', '.join(str(list(t.shape)) for t in images[:4])}; give photographs (uint8), which are fitted into one, "
                "or one image a call"
            )
        images = torch.stack(images)
    if isinstance(images, Tensor) and images.ndim != 4:
        raise ValueError(f"images must be [N, 3, H, W], a list of [3, H, W], or photographs, got {list(images.shape)}")
    inputs = Inputs.of(images, model)
    return _of_tensors(inputs, list(inputs.image.detach()), None, takes_lists(model))


def _of_tensors(inputs: Inputs, frames: list[Tensor], sizes: list[tuple[int, int]] | None, listed: bool) -> Prepared:
    """Of arguments that are ready; ``sizes`` of the photographs that they were made of, where they were."""
    image = inputs.image
    if image.ndim != 4:
        raise ValueError(f"images must be [N, 3, H, W], got {list(image.shape)}")
    canvas = (image.shape[2], image.shape[3])
    mask = inputs.kwargs.get("pixel_mask")
    places = []
    for index in range(len(image)):
        seen = canvas
        if isinstance(mask, Tensor):
            own = mask[index].bool()
            seen = (int(own.any(1).sum()), int(own.any(0).sum()))
        if sizes is None:
            places.append(Place(canvas, seen, canvas=canvas))
            continue
        size = sizes[index]
        scale = (seen[0] / size[0], seen[1] / size[1])
        places.append(Place(size, seen, scale, canvas=canvas, part=(0, 0, *seen)))
    return Prepared(inputs, frames, places, listed)


def _photos(images: Any) -> list[Tensor] | None:
    """Photographs as uint8 ``[H, W, 3]``; None for anything else."""
    if _is_photo(images):
        pictures = rgb_frames(images)
        return [pictures] if pictures.ndim == 3 else list(pictures)
    if isinstance(images, (list, tuple)) and images and all(_is_photo(one) for one in images):
        return [picture for one in images for picture in _photos(one) or ()]
    return None


def _is_photo(image: Any) -> bool:
    if hasattr(image, "convert"):
        return True
    byte = torch.uint8 if isinstance(image, Tensor) else np.uint8
    return isinstance(image, (Tensor, np.ndarray)) and image.dtype == byte and image.shape[-1:] == (3,)


def _of_photos(
    photos: list[Tensor], model: nn.Module, prepare: Callable[..., Any] | None, side: int | None
) -> Prepared:
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(0))
    sizes = [(photo.shape[0], photo.shape[1]) for photo in photos]
    if prepare is not None:
        arrays = [photo.cpu().numpy() for photo in photos]
        whole = hasattr(prepare, "model_input_names")  # a processor of Hugging Face
        made = prepare(images=arrays, return_tensors="pt") if whole else prepare(arrays)
        made = dict(made) if isinstance(made, Mapping) else made
        inputs = Inputs.of(_like(made, like), model)
        if inputs.batch != len(photos):
            raise ValueError(f"prepare must give {len(photos)} images, got {inputs.batch}")
        return _of_tensors(inputs, photos, sizes, takes_lists(model))
    values = [photo.to(like.device).permute(2, 0, 1).to(torch.float32) for photo in photos]
    if takes_lists(model):
        images = [(one / 255).to(like.dtype) for one in values]
        return Prepared(Inputs.of(images, model), photos, [Place(size, size) for size in sizes], True)
    if getattr(model, "main_input_name", None) == "pixel_values":
        raise ValueError(
            f"{type(model).__name__} does not tell how photographs are prepared; give prepare=, its image processor, or the "
            "tensors that it makes"
        )
    return _letterboxed(values, photos, model, side, like.dtype)


def _like(made: Any, like: Tensor) -> Any:
    """Tensors on the model's device, images in its dtype."""
    if isinstance(made, Tensor):
        return made.to(like.device, like.dtype) if made.is_floating_point() else made.to(like.device)
    if isinstance(made, dict):
        return {name: _like(value, like) for name, value in made.items()}
    return [_like(value, like) for value in made] if isinstance(made, list) else made


def _letterboxed(
    values: Sequence[Tensor], photos: list[Tensor], model: nn.Module, side: int | None, dtype: torch.dtype
) -> Prepared:
    """Each photograph scaled until it fits into a square, with grey around it: of equal ones no more than the stride asks."""
    side = side or _side_of(model)
    stride = _stride_of(model)
    sizes = [(one.shape[1], one.shape[2]) for one in values]
    fitted = []
    for height, width in sizes:
        ratio = min(side / height, side / width)
        fitted.append((max(1, round(height * ratio)), max(1, round(width * ratio))))
    if len(set(sizes)) == 1:
        canvas = tuple(-(-extent // stride) * stride for extent in fitted[0])
    else:
        canvas = (-(-side // stride) * stride,) * 2
    canvas = (canvas[0], canvas[1])
    batch = values[0].new_full((len(values), 3, *canvas), _GREY)
    places = []
    for index, (one, size, fit) in enumerate(zip(values, sizes, fitted, strict=True)):
        top, left = (canvas[0] - fit[0]) // 2, (canvas[1] - fit[1]) // 2
        if fit != size:
            one = F.interpolate(one[None], fit, mode="bilinear", align_corners=False)[0].round()
        batch[index, :, top : top + fit[0], left : left + fit[1]] = one
        scale = (fit[0] / size[0], fit[1] / size[1])
        places.append(Place(size, canvas, scale, (top, left), canvas, (top, left, top + fit[0], left + fit[1])))
    return Prepared(Inputs.of((batch / 255).to(dtype), model), photos, places, False)


def _side_of(model: nn.Module) -> int:
    args = getattr(model, "args", None)
    found = args.get("imgsz") if isinstance(args, Mapping) else getattr(args, "imgsz", None)
    found = max(found) if isinstance(found, (list, tuple)) and found else found
    return found if isinstance(found, int) and found > 0 else _SIDE


def _stride_of(model: nn.Module) -> int:
    stride = getattr(model, "stride", None)
    if isinstance(stride, Tensor) and stride.numel():
        return max(int(stride.max()), 1)
    return stride if isinstance(stride, int) and stride > 0 else _STRIDE
