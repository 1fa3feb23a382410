"""Colour tables: 256 RGB colours a heatmap's values are looked up in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes, _len_torch_dispatch_stack

__all__ = ["ALPHA", "COLORMAP", "names", "table"]

COLORMAP, ALPHA = "inferno", 0.6
"""The look of heat where none is asked for: cold parts are darkened, so that what counts is lit."""

# The tables of matplotlib (CC0, but turbo: Apache-2.0), each uint8 [256, 3] under its name.
_FILE = Path(__file__).with_name("colormaps.npz")
_STORED = ("hot", "inferno", "magma", "plasma", "turbo", "viridis")


def names() -> list[str]:
    """The colour tables known by name; every matplotlib colormap is known besides, where matplotlib is installed."""
    return sorted([*_STORED, "jet", "gray"])


def table(colormap: str | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """The uint8 ``[256, 3]`` RGB table of ``colormap``, on ``device``.

    ``colormap`` is a name of :func:`names`, the name of a matplotlib colormap, or such a table itself. ``jet`` is
    OpenCV's, which pytorch-grad-cam draws with. Tables by name are kept on each device: asking again costs nothing.

    Raises ``ValueError`` for an unknown name or a table of another shape or dtype.
    """
    if isinstance(colormap, Tensor):
        if colormap.shape != (256, 3) or colormap.dtype != torch.uint8:
            raise ValueError(f"colormap must be a uint8 table [256, 3], got {colormap.dtype} {list(colormap.shape)}")
        return colormap.to(device)
    if torch.compiler.is_compiling():
        return _made(colormap).to(device)
    if is_traced():  # what the mode makes of the table is the trace's own, and must not outlive it
        return torch.ops.aten.lift_fresh(_made(colormap)).to(device)
    key = (colormap, torch.device(device))
    if key not in _on_device:
        _on_device[key] = _made(colormap).to(device)
    return _on_device[key]


_on_device: dict[tuple[str, torch.device], Tensor] = {}


def is_traced() -> bool:
    """Whether tensors made now may be stand-ins, without values: under ``torch.compile``, ``torch.export`` or any mode."""
    return torch.compiler.is_compiling() or _len_torch_dispatch_stack() > 0


def _made(colormap: str) -> Tensor:
    with _disable_current_modes():
        return torch.from_numpy(_rgb(colormap))


# torch.compile calls it and keeps what it returns. torch.compiler.assume_constant_result says so too, but imports the
# whole compiler, seconds that only who compiles should wait for.
_made._dynamo_marked_constant = True  # type: ignore[attr-defined]


with np.load(_FILE) as _stored:
    _TABLES = {name: _stored[name] for name in _stored.files}


def _rgb(name: str) -> np.ndarray:
    if name in _STORED:
        return _TABLES[name]
    i = np.arange(256)
    if name == "gray":
        return np.stack([i, i, i], 1).astype(np.uint8)
    if name == "jet":
        red = np.minimum(4 * i - 382, 1148 - 4 * i)
        green = np.minimum(4 * i - 128, 892 - 4 * i)
        blue = np.minimum(4 * i + 128, 638 - 4 * i)
        blue[159] = 1  # the one kink of OpenCV's table
        return np.stack([red, green, blue], 1).clip(0, 255).astype(np.uint8)
    return _from_matplotlib(name)


def _from_matplotlib(name: str) -> np.ndarray:
    expected = f"unknown colormap {name!r}: expected one of {', '.join(names())}, or a matplotlib name"
    try:
        import matplotlib
    except ImportError:
        raise ValueError(f"{expected}, for which matplotlib must be installed") from None
    if name not in matplotlib.colormaps:
        raise ValueError(expected)
    colors = matplotlib.colormaps[name](np.arange(256))[:, :3]
    return (colors * 255 + 0.5).astype(np.uint8)
