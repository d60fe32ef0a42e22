"""A featurizer that sees images of any side as if they were of a smaller one."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

FEATURIZER_SIDE = "featurizer_side"
"""The hyper-parameter of a dataset that asks for it."""


class AreaAveraged(nn.Module):
    """A featurizer behind an area average (each pixel is the mean of those that it covers) to `side` pixels.

    Args:
        featurizer: any, with `n_outputs`.
        side: height and width of the images that it gets.

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
        return self.featurizer(F.interpolate(x, (self.side, self.side), mode="area"))
