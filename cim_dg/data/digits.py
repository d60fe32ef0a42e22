"""Real handwritten digits over synthetic or photographed backgrounds, for NuisanceDigits and the WILDS digits.

Digits and photographs are those that scikit-learn ships, so nothing is downloaded. All random numbers come from the
`RandomState` that the caller passes, whose stream NumPy has frozen. The same seed always gives the same images, and
no global random state is used. Images are float32 arrays in [0, 1], channels first.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.random import RandomState
from PIL import Image
from torch.nn.functional import interpolate

CHANNELS = 3
BRIGHTEST = 0.9  # of any background, so that a white digit is visible on it
STRIPE_FREQUENCIES = (0.3, 1.0)  # radians per pixel
PHOTOS = ("china.jpg", "flower.jpg")
PHOTO_SHRINK = 3  # so that a crop of about 36 pixels shows more than a patch of sky or petal
PHOTO_BRIGHTEST = 0.7  # dimmed further, because the palace has a nearly white sky
_SMOOTH: dict[str, Any] = {"mode": "bilinear", "antialias": True}  # larger than the file, areas would be blocks


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 handwritten digits of scikit-learn.

    Returns:
        images (1797, 8, 8) in [0, 1] and labels (1797,) from 0 to 9, int64; in scikit-learn's order, by writer.
    """
    table = np.loadtxt(_sklearn_file("data/digits.csv.gz"), delimiter=",", dtype=np.int64)
    return (table[:, :-1].reshape(-1, 8, 8) / 16).astype(np.float32), table[:, -1].copy()


def enlarge(digits: np.ndarray, size: int = 28, side: int = 36, corners: np.ndarray | None = None) -> np.ndarray:
    """Digits (N, 8, 8), smoothly enlarged to `size` pixels, each in a square: opacities (N, side, side).

    `corners` (N, 2) are the row and the column of each digit's upper left pixel, from 0 to side - size; by default the
    digits are centred.
    """
    large = interpolate(torch.from_numpy(digits)[:, None], size=(size, size), mode="bicubic").clamp_(0, 1)
    if corners is None:
        corners = np.full((len(digits), 2), (side - size) // 2)
    opacities = np.zeros((len(digits), side, side), dtype=np.float32)
    for opacity, digit, (top, left) in zip(opacities, large[:, 0].numpy(), corners, strict=True):
        opacity[top : top + size, left : left + size] = digit
    return opacities


def compose(opacities: np.ndarray, backgrounds: np.ndarray) -> np.ndarray:
    """White digits of the given opacities (N, S, S) over backgrounds (N, 3, S, S): images (N, 3, S, S)."""
    opacities = opacities[:, None]
    return opacities + (1 - opacities) * backgrounds


def stripes(rng: RandomState, angles: np.ndarray, side: int, scale: float = 1) -> np.ndarray:
    """Sinusoidal stripes whose direction is `angles` (N,), in radians: (N, 3, side, side).

    0.9 (1/2 + 1/2 sin(f (u cos t + v sin t) + phase_c)): u is the column and v the row, so an angle t of 0 gives
    vertical stripes; the frequency f is drawn per image from `STRIPE_FREQUENCIES`, the phase per image and channel.
    At `scale` s the same picture has s times as many pixels: u and v are the places of the pixels' middles.
    """
    count = len(angles)
    frequencies = rng.uniform(*STRIPE_FREQUENCIES, size=(count, 1, 1, 1))
    phases = rng.uniform(0, 2 * np.pi, size=(count, CHANNELS, 1, 1))
    t = np.reshape(angles, (count, 1, 1, 1))
    v, u = (np.mgrid[:side, :side] + 0.5) / scale - 0.5
    waves = frequencies * (u * np.cos(t) + v * np.sin(t)) + phases
    np.sin(waves, out=waves)  # larger images take gigabytes
    return (BRIGHTEST * (0.5 + 0.5 * waves)).astype(np.float32)


def hues(turns: np.ndarray, side: int) -> np.ndarray:
    """Plain saturated colours at `turns` (N,) of the colour circle, where 0 and 1 are red: (N, 3, side, side)."""
    channels = np.arange(CHANNELS) / CHANNELS
    colours = BRIGHTEST * (0.5 + 0.5 * np.cos(2 * np.pi * (np.reshape(turns, (-1, 1)) - channels)))
    return _plain(colours, side)


def plain_colours(rng: RandomState, count: int, side: int) -> np.ndarray:
    """Plain colours, uniform in the RGB cube up to 0.9: (count, 3, side, side)."""
    return _plain(rng.uniform(0, BRIGHTEST, size=(count, CHANNELS)), side)


def photo_crops(rng: RandomState, count: int, side: int, scale: float = 1) -> np.ndarray:
    """Random crops of scikit-learn's photographs (a palace, a flower), shrunk and dimmed: (count, 3, side, side).

    At `scale` s the photographs are shrunk s times less, and the crops are at the same places in the photographs.
    """
    crops = np.empty((count, CHANNELS, side, side), dtype=np.float32)
    photo_index = rng.randint(2, size=count)
    for index, name in enumerate(PHOTOS):
        with Image.open(_sklearn_file(f"images/{name}")) as photo:
            pixels = torch.tensor(np.asarray(photo), dtype=torch.float32).permute(2, 0, 1)[None]
        # The sizes and places at scale 1, so that the random numbers do not depend on the scale.
        sizes = [length // PHOTO_SHRINK for length in pixels.shape[2:]]
        corners = [rng.randint(length - round(side / scale) + 1, size=count) for length in sizes]
        size = [round(length * scale) for length in sizes]
        small = interpolate(pixels, size, **({"mode": "area"} if scale == 1 else _SMOOTH))[0].numpy()
        windows = sliding_window_view(small, (side, side), axis=(1, 2))
        chosen = photo_index == index
        rows, columns = (np.rint(corner[chosen] * scale).astype(int) for corner in corners)
        crops[chosen] = windows[:, rows, columns].swapaxes(0, 1) * (PHOTO_BRIGHTEST / 255)
    return crops


def _sklearn_file(name: str) -> Path:
    """A file of `sklearn.datasets`. Importing that takes two seconds, a third of a short job."""
    spec = find_spec("sklearn")
    assert spec is not None and spec.submodule_search_locations  # a dependency of this package
    return Path(spec.submodule_search_locations[0]) / "datasets" / name


def _plain(colours: np.ndarray, side: int) -> np.ndarray:
    return np.tile(colours[:, :, None, None].astype(np.float32), (1, 1, side, side))
