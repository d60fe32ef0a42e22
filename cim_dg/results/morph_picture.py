"""The picture of images x, masks m and morphs psi(x) = m * x, and the file in which a job keeps what it shows."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cim_dg.runtime.files import write_atomically

FILE = "morphs.npz"
"""The file of a stand-in's job on NuisanceDigits: `Morphs` of the first test images by the last model."""
SHOWN = 8
"""Images that a job keeps, and that `cim-dg morph` draws by default."""
_COLUMNS = 16
"""Images side by side; more of them are drawn below."""


@dataclass(frozen=True)
class Morphs:
    """Images and what a method makes of them.

    Attributes:
        method: its name.
        pixels: (N, C, H, W), the images, in [0, 1].
        masks: (N, 1 or C, H, W), in [0, 1].
        names: the titles of the images, N or none.
    """

    method: str
    pixels: np.ndarray
    masks: np.ndarray
    names: Sequence[str] = ()

    def write(self, path: Path) -> None:
        """Write a compressed .npz file, with values as float16: finer than the picture's 8 bits."""
        data = io.BytesIO()
        np.savez_compressed(
            data,
            method=self.method,
            pixels=self.pixels.astype(np.float16),
            masks=self.masks.astype(np.float16),
            names=np.array(self.names, dtype=np.str_),
        )
        write_atomically(path, data.getvalue())

    def png(self) -> bytes:
        """A picture with a column per image and the rows x, m and psi(x), with each mask's mean below it."""
        from matplotlib.figure import Figure  # by itself it needs no display, and pyplot's global state stays

        mask_label = "m" if self.masks.shape[1] == 1 else "m, mean of channels"
        masks = self.masks.mean(axis=1)
        # Each row: its label, its pictures, their colours, and what stands at each picture.
        rows: Sequence[tuple[str, np.ndarray, str, list[str]]] = (
            ("x", _viewable(self.pixels), "gray", list(self.names)),
            (mask_label, masks.clip(0, 1), "viridis", [f"mean {mask.mean():.2f}" for mask in masks]),
            ("ψ(x) = m · x", _viewable(self.masks * self.pixels), "gray", []),
        )
        columns = min(len(self.pixels), _COLUMNS)
        starts = range(0, len(self.pixels), columns)
        figure = Figure(figsize=(1.3 * columns + 1.6, 4.6 * len(starts)), layout="constrained")
        axes = figure.subplots(len(starts) * len(rows), 1).reshape(len(starts), len(rows))
        for start, block in zip(starts, axes, strict=True):
            for axis, (label, pictures, colours, texts) in zip(block, rows, strict=True):
                strip, centres = _strip(pictures[start : start + columns], columns)
                axis.imshow(strip, cmap=colours, vmin=0, vmax=1)
                place = {"y": 1.02, "va": "bottom"} if pictures is rows[0][1] else {"y": -0.02, "va": "top"}
                for centre, text in zip(centres, texts[start : start + columns], strict=False):
                    axis.text(  # a tick would take three times as long
                        centre,
                        s=text,
                        **place,
                        ha="center",
                        transform=axis.get_xaxis_transform(),
                        fontsize="small",
                        parse_math=False,
                    )
                axis.set(xticks=[], yticks=[], ylabel=label)
                axis.spines[:].set_visible(False)
        figure.colorbar(axes[0, 1].images[0], ax=list(axes[0]), label="m", shrink=0.4, fraction=0.05, pad=0.02)
        figure.suptitle(self.method)
        buffer = io.BytesIO()
        # Other levels of compression take 4 times as long.
        figure.savefig(buffer, format="png", dpi=120, pil_kwargs={"compress_level": 1})
        return buffer.getvalue()


def read(path: Path) -> Morphs | None:
    """The morphs in a file; None if it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as data:
            pixels, masks = (data[name].astype(np.float32) for name in ("pixels", "masks"))
            morphs = Morphs(str(data["method"]), pixels, masks, [str(name) for name in data["names"]])
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    whole = pixels.ndim == masks.ndim == 4 and pixels.size and masks.shape[1] in (1, pixels.shape[1])
    same = pixels.shape[:1] + pixels.shape[2:] == masks.shape[:1] + masks.shape[2:]
    return morphs if whole and same and np.isfinite(pixels).all() and np.isfinite(masks).all() else None


def _viewable(pixels: np.ndarray) -> np.ndarray:
    """(N, C, H, W) -> for imshow: 3 channels as colours, 2 as red and green, else grey (N, H, W)."""
    channels = pixels.shape[1]
    if channels == 2:
        pixels = np.concatenate([pixels, np.zeros_like(pixels[:, :1])], axis=1)
    return (pixels.transpose(0, 2, 3, 1) if channels in (2, 3) else pixels.mean(axis=1)).clip(0, 1)


def _strip(pictures: np.ndarray, columns: int) -> tuple[np.ndarray, list[float]]:
    """Pictures (N, H, W) or (N, H, W, 3) side by side, as wide as `columns` of them, and where each has its middle.

    One image is drawn much faster than one for each picture. Gaps are white, in a picture without colours invalid
    values, which are not drawn.
    """
    height, width = pictures.shape[1:3]
    gap = max(1, width // 20)
    empty = 1.0 if pictures.ndim == 4 else np.nan
    strip = np.full((height, columns * (width + gap) - gap, *pictures.shape[3:]), empty, dtype=np.float32)
    lefts = [place * (width + gap) for place in range(len(pictures))]
    for left, picture in zip(lefts, pictures, strict=True):
        strip[:, left : left + width] = picture
    return strip, [left + (width - 1) / 2 for left in lefts]
