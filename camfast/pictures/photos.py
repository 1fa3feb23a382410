"""Photographs from disk, whatever they hold made RGB, uint8, upright; and pictures back to it."""

from __future__ import annotations

import glob
import io
import os
import re
import threading
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import require, why_no_file

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["PhotoError", "find", "formats", "read", "real", "to_rgb", "write"]

# What a folder is searched for; a file that is named itself may have any suffix.
_PHOTO = re.compile(r"\.(avif|bmp|gif|hei[cf]|jfif|jp2|jpe?g?|p[bgnp]m|png|qoi|tga|tiff?|webp)$", re.IGNORECASE)

# What a file may hold, whatever it is called. Pillow knows more: some start other programs (EPS starts Ghostscript), others
# are read by code that hardly anyone looks after.
_FORMATS = (
    *(
        "AVIF",
        "BMP",
        "DIB",
        "GIF",
        "HEIF",
        "ICO",
        "JPEG",
        "JPEG2000",
        "MPO",
        "PCX",
        "PNG",
        "PPM",
        "PSD",
        "QOI",
        "SGI",
        "TGA",
    ),
    *("TIFF", "WEBP"),
)


class PhotoError(ValueError):
    """A photograph that cannot be read; the message is one sentence that names the file and the reason."""


def find(
    places: Iterable[str | PathLike[str]], without: Sequence[str | PathLike[str]] = ()
) -> tuple[list[Path], list[PhotoError]]:
    """The photographs that ``places`` name, and an error for each place that names none.

    A place is a file, a folder, searched recursively, or a pattern (``"photos/*.jpg"``). Each photograph appears once,
    in the order of ``places`` and sorted inside a folder or a pattern. A file that is named directly is among them
    whether it exists or not, so that reading it gives the reason. Hidden files and what lies in the folders ``without``
    are left out when a folder above them is searched.
    """
    left_out = [real(Path(folder)) for folder in without]
    found: dict[Path, Path] = {}
    errors = []
    for place in places:
        path = Path(place).expanduser()
        if os.path.isdir(path):
            matches = _in_folder(path, left_out)
            problem = f"expected photographs in the folder {path}, got none"
        elif glob.has_magic(str(path)) and not os.path.exists(path):
            named = map(Path, sorted(glob.glob(str(path), recursive=True)))
            matches = [file for file in named if os.path.isfile(file)]
            problem = f"expected photographs that match {place}, got none"
        else:
            matches, problem = [path], ""
        if not matches:
            errors.append(PhotoError(problem))
        for match in matches:
            found.setdefault(real(match), match)
    return list(found.values()), errors


def read(path: str | PathLike[str], data: bytes | None = None) -> np.ndarray:
    """The photograph in ``path`` as RGB, uint8 ``[H, W, 3]``, turned upright by its EXIF orientation.

    ``data`` is the file's content where it does not lie on disk; ``path`` is then no more than its name.

    Its format is one of those that Pillow decodes by itself, whatever the name's suffix: AVIF, BMP, GIF, HEIF (with
    pi-heif registered), ICO, JPEG, JPEG 2000, PCX, PNG, PNM, PSD, QOI, SGI, TGA, TIFF, WebP. Greyscale, palette, CMYK,
    16-bit and float images are converted (see :func:`to_rgb`); of several frames the first is taken.

    Raises ``PhotoError`` where the file is missing, is no image, is damaged or cut short, or is unreasonably large.
    """
    require("PIL", "vision")
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = Path(path)
    if data is None and (why := why_no_file(path)):
        raise PhotoError(f"cannot read {path}: {why}")
    try:
        with Image.open(path if data is None else io.BytesIO(data), formats=formats()) as image:
            return np.array(to_rgb(ImageOps.exif_transpose(image)))
    except PermissionError:
        reason = "permission denied"
    except UnidentifiedImageError:
        empty = not data if data is not None else path.stat().st_size == 0
        reason = "the file is empty" if empty else "it is no image of a known format"
    except Image.DecompressionBombError as error:
        reason = f"it is too large: {_sentence(error)}"
    except Exception as error:  # decoders of damaged files raise anything: SyntaxError, struct.error, ...
        reason = f"it is damaged or of an unsupported kind: {_sentence(error)}"
    raise PhotoError(f"cannot read {path}: {reason}")


def formats() -> list[str]:
    """The formats that are read, of those that this Pillow knows."""
    from PIL import Image

    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def real(path: Path) -> Path:
    """``path`` without links and dots; of links in a circle the name itself."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # RuntimeError: the circle, before Python 3.13
        return path.absolute()


def to_rgb(image: Image.Image) -> Image.Image:
    """``image`` of any Pillow mode as mode RGB.

    Transparent parts are laid on white. 16-bit values are divided by 257, so that full scale stays full scale. 32-bit
    integers and floats are taken as they are where they lie in [0, 255] (floats in [0, 1]: times 255), else stretched
    from their smallest to their largest value.
    """
    from PIL import Image

    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        grey = np.asarray(image)
        return Image.fromarray(_eight_bits(grey)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def write(picture: np.ndarray | Image.Image, path: str | PathLike[str]) -> Path:
    """Writes ``picture``, RGB uint8 ``[H, W, 3]``, in the format of the file's suffix, and returns the path.

    The file appears under its name once it is complete, so a reader never meets half of it. Its folder is made where it
    is missing. Raises ``ValueError`` for a suffix that stands for no picture, ``OSError`` where it cannot be written.
    """
    require("PIL", "vision")
    from PIL import Image

    path = Path(path).expanduser()
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise ValueError(f"expected a file name for a picture, such as {path.stem or 'picture'}.png, got {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    options = {"compress_level": 3} if kind == "PNG" else {"quality": 92}  # 6, the usual, is 3 times slower for 5 %
    try:
        (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(partial, kind, **options)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _eight_bits(grey: np.ndarray) -> np.ndarray:
    """Values of any range, ``[H, W]``, as uint8."""
    if not np.isfinite(grey).all():
        raise ValueError("expected finite values, got NaN or infinity")
    values = grey.astype(np.float64)
    low, high = values.min(), values.max()
    if grey.dtype == np.uint16 or (grey.dtype.kind in "iu" and low >= 0 and 255 < high <= 65535):
        values /= 257
    elif grey.dtype.kind == "f" and low >= 0 and high <= 1:
        values *= 255
    elif low < 0 or high > 255:
        values = (values - low) * (255 / ((high - low) or 1))
    return np.rint(values).astype(np.uint8)


def _in_folder(folder: Path, left_out: Sequence[Path]) -> list[Path]:
    below = [place for place in left_out if real(folder) in place.parents]
    files = []
    for file in sorted(folder.rglob("*")):
        secret = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if _PHOTO.search(file.name) and os.path.isfile(file) and not secret:
            files.append(file)
    return [file for file in files if not any(place in real(file).parents for place in below)]


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text.rstrip(".") or type(error).__name__
