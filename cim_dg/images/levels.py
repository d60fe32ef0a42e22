"""8-bit images as a network sees them."""

from __future__ import annotations

import numpy as np

LEVELS = np.float32(255)


def normalise(pixels: np.ndarray, mean: np.ndarray, std: np.ndarray, out: np.ndarray) -> None:
    """(pixels / 255 - mean) / std, to the bit as by torchvision's ToTensor and Normalize.

    Args:
        pixels: (C, H, W), uint8.
        mean, std: (C, 1, 1), float32.
        out: (C, H, W), float32, which gets the result.
    """
    # In place: an image stays in the processor's cache between the operations, which a minibatch does not.
    out[...] = pixels
    out /= LEVELS
    out -= mean
    out /= std
