"""The size at which a part of a method works on images, whatever the images' own."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

FEATURIZER_SIDE = "featurizer_side"
"""The hyper-parameter of a dataset that asks for `AreaAveraged`."""


def average_to(images: Tensor, side: int | None) -> Tensor:
    """(N, C, H, W), area-averaged so that the smaller side is `side` pixels.

    Images are never enlarged, and with None they stay as they are.
    """
    smaller = min(images.shape[-2:])
    if side is None or side >= smaller:
        return images
    return F.interpolate(images, size=[round(each * side / smaller) for each in images.shape[-2:]], mode="area")


class AreaAveraged(nn.Module):
    """A featurizer that sees images of any side as if their smaller side had `side` pixels.

    Args:
        featurizer: any, with `n_outputs`.
        side: of the images that it gets.

    Shape:
        (N, C, H, W) -> (N, n_outputs).
    """

    def __init__(self, featurizer: nn.Module, side: int) -> None:
        super().__init__()
        self.featurizer = featurizer
        self.side = side
        self.n_outputs = featurizer.n_outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> features (N, n_outputs)."""
        return self.featurizer(average_to(x, self.side))
