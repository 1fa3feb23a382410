"""Images in and out: preparation, scaling and resizing of maps, overlays. OpenCV is needed only where a name says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ....errors import require
from ....ops.colormaps import table

__all__ = [
    "create_labels_legend",
    "deprocess_image",
    "preprocess_image",
    "scale_accross_batch_and_channels",
    "scale_cam_image",
    "show_cam_on_image",
    "show_factorization_on_image",
]

_JET = 2  # cv2.COLORMAP_JET
_RANGE_EPS = 1e-7


def preprocess_image(
    img: np.ndarray, mean: Sequence[float] = (0.5, 0.5, 0.5), std: Sequence[float] = (0.5, 0.5, 0.5)
) -> Tensor:
    """An image ``[H, W, C]`` as a batch of one, ``[1, C, H, W]``, normalised. Bytes are divided by 255."""
    image = torch.from_numpy(np.ascontiguousarray(img)).movedim(-1, 0)
    if image.dtype == torch.uint8:
        image = image.to(torch.get_default_dtype()) / 255
    means, deviations = (torch.as_tensor(v, dtype=image.dtype)[:, None, None] for v in (mean, std))
    return ((image - means) / deviations).unsqueeze(0)


def deprocess_image(img: np.ndarray) -> np.ndarray:
    """Any signed picture as bytes: mean at grey, a standard deviation is a tenth of the range."""
    img = img - np.mean(img)
    return np.uint8(255 * np.clip(0.1 * (img / (np.std(img) + 1e-5)) + 0.5, 0, 1))


def show_cam_on_image(
    img: np.ndarray, mask: np.ndarray, use_rgb: bool = False, colormap: int = _JET, image_weight: float = 0.5
) -> np.ndarray:
    """A map in [0, 1] as colours over an image in [0, 1]: uint8 ``[H, W, 3]``.

    ``use_rgb`` says that ``img`` is RGB and not BGR. ``colormap`` is OpenCV's number of a table; others than JET need
    OpenCV. Raises an ``Exception`` for an image beyond 1 or a weight outside [0, 1].
    """
    if np.max(img) > 1:
        raise Exception(f"img must be float32 in [0, 1], got values up to {np.max(img)}")
    if not 0 <= image_weight <= 1:
        raise Exception(f"image_weight must be in [0, 1], got {image_weight}")
    index = np.uint8(255 * mask)
    if colormap == _JET:
        heat = table("jet").numpy()[index]
        heat = heat if use_rgb else heat[..., ::-1]
    else:
        heat = require("cv2", "compat").applyColorMap(index, colormap)
        heat = heat[..., ::-1] if use_rgb else heat
    blend = (1 - image_weight) * (np.float32(heat) / 255) + image_weight * img
    return np.uint8(255 * (blend / np.max(blend)))


def create_labels_legend(concept_scores: np.ndarray, labels: Mapping[int, str], top_k: int = 2) -> list[str]:
    """For each concept its ``top_k`` classes with their scores, one a line."""
    best = np.argsort(concept_scores, axis=1)[:, ::-1][:, :top_k]
    return [
        "\n".join(f"{','.join(labels[k].split(',')[:3])}:{scores[k]:.2f}" for k in row)
        for scores, row in zip(concept_scores, best, strict=True)
    ]


def show_factorization_on_image(
    img: np.ndarray,
    explanations: np.ndarray,
    colors: Sequence[Any] | None = None,
    image_weight: float = 0.5,
    concept_labels: Sequence[str] | None = None,
) -> np.ndarray:
    """Each component's map ``[K, H, W]`` in its colour, the strongest one at every pixel; a legend beside it on request.

    Needs OpenCV; matplotlib for a legend, and where no colours are given.
    """
    cv2 = require("cv2", "compat")
    count = len(explanations)
    if colors is None:
        rainbow = require("matplotlib", "compat").colormaps["gist_rainbow"]
        colors = [np.array(rainbow(i)) for i in np.arange(0, 1, 1 / count)]
    strongest = explanations.argmax(0)
    colored = np.zeros((*img.shape[:2], 3), np.float32)
    for k, color in enumerate(colors[:count]):
        plane = np.broadcast_to(np.asarray(color[:3]), colored.shape)
        hsv = cv2.cvtColor(np.uint8(plane * 255), cv2.COLOR_RGB2HSV)
        hsv[..., 2] = np.uint8(255 * np.where(strongest == k, explanations[k], 0))
        colored += np.float32(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)) / 255
    result = np.uint8((img * image_weight + colored * (1 - image_weight)) * 255)
    return result if concept_labels is None else np.hstack((result, _legend(result, colors, concept_labels)))


def _legend(picture: np.ndarray, colors: Sequence[Any], labels: Sequence[str]) -> np.ndarray:
    figure_module = require("matplotlib.figure", "compat")
    canvas = require("matplotlib.backends.backend_agg", "compat").FigureCanvasAgg
    line = require("matplotlib.lines", "compat").Line2D
    height, width = picture.shape[:2]
    figure = figure_module.Figure(figsize=(width / 100, height / 100), dpi=100)
    drawn = canvas(figure)
    size = int(14 * height / 256 / max(1, len(labels) / 6))
    lines = [line([0], [0], color=color, lw=5 * height / 256) for color in colors[: len(labels)]]
    figure.legend(lines, labels, mode="expand", fancybox=True, shadow=True, fontsize=size)
    drawn.draw()
    data = np.ascontiguousarray(np.asarray(drawn.buffer_rgba())[..., :3])
    return require("cv2", "compat").resize(data, (width, height))


def scale_cam_image(cam: Any, target_size: Sequence[int] | None = None) -> np.ndarray:
    """Each map of a batch from 0 to 1, then resized: float32.

    ``target_size`` is ``(width, height)`` for pictures, resized bilinearly; volumes are resized by cubic splines, which
    need SciPy.
    """
    result = []
    for one in cam:
        one = one - np.min(one)
        one = one / (_RANGE_EPS + np.max(one))
        result.append(one if target_size is None else _resized(np.float32(one), tuple(target_size[::-1])))
    return np.asarray(result, np.float32)


def _resized(one: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    if one.ndim > 2:
        zoom = require("scipy.ndimage", "compat").zoom
        return zoom(one, [wanted / own for own, wanted in zip(one.shape, size, strict=False)])
    tensor = torch.from_numpy(np.ascontiguousarray(one))[None, None]
    return F.interpolate(tensor, tuple(map(int, size)), mode="bilinear", align_corners=False)[0, 0].numpy()


def scale_accross_batch_and_channels(tensor: np.ndarray, target_size: Sequence[int]) -> np.ndarray:
    """:func:`scale_cam_image` for every channel of ``[N, C, H, W]``."""
    flat = scale_cam_image(tensor.reshape(-1, *tensor.shape[2:]), target_size)
    return flat.reshape(*tensor.shape[:2], target_size[1], target_size[0])
