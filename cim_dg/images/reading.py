"""Image files as 8-bit pictures, with one sentence for whatever is wrong with a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cim_dg.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Endings, in lower case, of the names of image files."""
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B")


def find_images(folder: Path) -> list[Path]:
    """Every image file in `folder` and below, by name.

    Raises:
        UserError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise UserError(f"there is no image in {folder} ({', '.join(sorted(SUFFIXES))})")
    return paths


def read_image(path: Path, mode: str = "RGB") -> Image:
    """The image of a file, converted to `mode` ("RGB" or "L"), 8 bits a channel.

    Grey images of 16 bits are scaled to 8; Pillow would cut them off at 255.

    Raises:
        UserError: the file is no image, is damaged or too large, or its values have no known range (32 bits, float).
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode in _SIXTEEN_BITS:
                return image.convert("I").point(lambda value: value / 257, "L").convert(mode)
            if image.mode in ("I", "F"):
                raise UserError(
                    f"the image {path} has values of 32 bits (mode {image.mode}), whose range is not known; accepted "
                    "are images of 8 or 16 bits"
                )
            return image.convert(mode)
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"the image {path} cannot be read: {error}") from None
