"""Colour tables: 256 RGB colours a heatmap's values are looked up in."""

from __future__ import annotations

import base64
import zlib

import numpy as np
import torch
from torch import Tensor

__all__ = ["names", "table"]

# The listed maps of matplotlib (hot, viridis, inferno, magma, plasma: CC0; turbo: Apache-2.0), 256 x 3 bytes each, stored as
# zlib-compressed differences along each colour channel, in base 85.
_TABLES = {
    "hot": "c-rG;VrF87AR5pNBOFi^gv2Of9N_`X%mM*0nuSz80Az3i{r",
    "viridis": (
        "c-"
        "n<hi4lY#3{0@KE8+St<xsL4Sjp&Rzu+jyOg`opECkc)X`Q6qnhK3HNo_OG;RhV>kb4UegZDb1pdhW1hA(9608i7%o<`5u+O6#W6M"
        "I|R-q~_nLKyo3Fq1@l=e3($blyl0DjP1z=#&|HsQxfvb9OjPgHv1mpkyG8q{bp%?-(;)vb7T{kBAB"
    ),
    "inferno": (
        "c-"
        "nnYff9uv2!rhX{~u?`HW6PJ%pqLTG0e>d{DJHs!U>Qs;e$R4<q|F;;(*eOB!nkOv@Yrca*^RRewRH^w6*urP6u^geWN|pynv!x9d"
        "(YM%G6!t7O)v|#%cbNLw)LdoUU&gNobki>0F5>sw(}<pOS}zaOtF1yLP_vOejQK(?U6N(<p5Kb`Gcg5T42nM;>jU"
    ),
    "magma": (
        "c-nnZ0TRO?2ov1@zwB-SL$G!b1Lv7mfnj3+W>_$1*l-"
        "6$vculB^q1sG_f&LnT*IwwB;bXl<Uh79*?xVvf`0)m>K0|9YP!<*pnj$WHo~<BT6(W=N!o!IuJjWh_vy5m1SCzK_+2Be79*q0Xg#"
        "o_&`SykB*7c7NQn@fO{<x$$z{pxF?9O+h+oRdEx7"
    ),
    "plasma": (
        "c-nnZ(Gq|l2qSyxrSI;mJ2C|}$P4BM#ifDg-mSHcVVl!tfQC>Ip2!euQVL*FB1t3_0_pB#FoG&XUyx78p<ZRRMYVp1H;99feg3sA"
        ")Bo4RL9{ZMiYEd{uGmd51vLB9=;&~m0@2nNV?h=Pr?S>RSw0n~IbOAM`Rx3X4DD6-1AJtl3j"
    ),
    "turbo": (
        "c-mc(TNcA02t@Ijes?AP@BVjXw88+=3?t_>G4=v}a*850CxSK6LRzee*jiZo7kj@Ye33Fo;n=DiRhFt$dA8r>V-"
        "L0oCpnyiX(5zK(GH#vLN{CDmc<&f#=DrZ=UgIHL<=FD0k<%$5N}*C=SN=+KN-"
        "K5;Pj3j=&giMgjeyWd1J#vcHpu>P3;ux`?^HEU%mD1)>_@hn6xE23yeU4^$vvAn(@#O$MMj%V;}DV(n1?la`8^0)2uV<>Fx4jre6"
        "Y5<4`x9zaYQZ=?AISX^{"
    ),
}


def names() -> list[str]:
    """The colour tables known by name; every matplotlib colormap is known besides, where matplotlib is installed."""
    return sorted([*_TABLES, "jet", "gray"])


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
    key = (colormap, torch.device(device))
    if key not in _on_device:  # a plain dict, which torch.compile can look through
        _on_device[key] = torch.from_numpy(_rgb(colormap)).to(device)
    return _on_device[key]


_on_device: dict[tuple[str, torch.device], Tensor] = {}


def _rgb(name: str) -> np.ndarray:
    i = np.arange(256)
    if name in _TABLES:
        steps = np.frombuffer(zlib.decompress(base64.b85decode(_TABLES[name])), np.uint8).reshape(3, 256)
        return np.ascontiguousarray(np.cumsum(steps, axis=1, dtype=np.uint8).T)
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
