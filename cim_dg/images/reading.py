"""Reads image files as 8-bit images, with a one-sentence error for any unusable file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cim_dg.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""File name endings of images, in lower case."""
PIXELS = 2**30 // 12
"""Pillow refuses images of more than twice as many pixels: its own default, which some packages lift."""
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B")


def find_images(folder: Path) -> list[Path]:
    """Every image file in `folder` and below, by name.

    Raises:
        UserError: there is no such folder, or it has no images.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise UserError(f"there is no image in {folder} ({', '.join(sorted(SUFFIXES))})")
    return paths


def as_text(path: Path) -> str:
    """A path with slashes, as text that any file takes: bytes of a name that are not UTF-8 become \\xNN."""
    return os.fsencode(path.as_posix()).decode("utf-8", errors="backslashreplace")


def keep_limit() -> None:
    """Have Pillow refuse images of too many pixels, which the package wilds, once it has loaded FMoW, switches off."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = PIXELS


def read_image(path: Path, mode: str = "RGB") -> Image:
    """The image of a file, converted to `mode` ("RGB" or "L"), 8 bits a channel.

    16-bit grey images are scaled to 8 bits. Pillow would clip them at 255.

    Raises:
        UserError: the file is not an image, is damaged or too large, or its values have no known range (32 bits,
        float).
    """
    from PIL import Image

    keep_limit()
    try:
        with Image.open(path) as image:
            # Pillow below 11 gives PNG files of 16 bits the mode of 32.
            if image.mode in _SIXTEEN_BITS or (image.mode, image.format) == ("I", "PNG"):
                return image.convert("I").point(lambda value: value / 257, "L").convert(mode)
            if image.mode in ("I", "F"):
                raise UserError(
                    f"the image {path} has values of 32 bits (mode {image.mode}), whose range is not known; accepted "
                    "are images of 8 or 16 bits"
                )
            return image.convert(mode)
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise UserError(f"the image {path} is too large; accepted are at most {2 * PIXELS:,} pixels") from None
    except MemoryError:
        raise UserError(f"the image {path} is too large for this machine's memory") from None
    except Exception as error:  # Pillow raises many types of errors for damaged files
        raise UserError(f"the image {path} cannot be read: {error}") from None
