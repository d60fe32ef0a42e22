"""The size at which a part of a method works on images, whatever the images' own."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def average_to(images: Tensor, side: int | None) -> Tensor:
    """(N, C, H, W), area-averaged so that the smaller side is `side` pixels.

    Images are never enlarged, and with None they stay as they are.
    """
    smaller = min(images.shape[-2:])
    if side is None or side >= smaller:
        return images
    return F.interpolate(images, size=[round(each * side / smaller) for each in images.shape[-2:]], mode="area")
