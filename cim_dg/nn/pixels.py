"""Conversion between a harness' normalised images and pixels in [0, 1].

CIM's mask and MS-SSIM are defined on pixels; harnesses give networks standardised images. A `PixelSpace` is the affine
map between the two. The hyper-parameter `pixel_space` chooses it per dataset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cim_dg.errors import UserError

NAMED: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    # In [0, 1] already: the MNIST variants, NuisanceDigits and Spirograph.
    "unit": ((0.0,), (1.0,)),
    # torchvision's ImageNet statistics, which DomainBed and WILDS use for natural images.
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # Zero mean and unit variance, as DomainBed's Debug noise has: two standard deviations to each side fill [0, 1].
    "standard": ((0.5,), (0.25,)),
}
ACCEPTED = f'one of {", ".join(NAMED)}, or {{"mean": [one per channel], "std": [one per channel]}}'


class PixelSpace(nn.Module):
    """The normalisation `input = (pixel - mean) / std`, channel by channel.

    Args:
        mean: one value per channel of the images, in pixels of [0, 1].
        std: likewise, positive.

    Raises:
        UserError: the lengths differ, or a std is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if not mean or len(mean) != len(std):
            raise UserError(f"pixel_space: mean has {len(mean)} values and std {len(std)}; give one each per channel")
        if not all(s > 0 for s in std):
            raise UserError(f"pixel_space: std is {list(std)}; every value must be positive")
        self.channels = len(mean)
        # Constants of the dataset, not state of the model: they stay out of checkpoints.
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    @classmethod
    def of(cls, value: str | Mapping[str, Any], channels: int) -> PixelSpace:
        """The pixel space of a value of the hyper-parameter `pixel_space`, for images of `channels` channels.

        Args:
            value: a name in `NAMED`, or {"mean": [...], "std": [...]} with one value per channel.
            channels: C of the images.

        Raises:
            UserError: the value is not accepted, or does not fit the number of channels.
        """
        if isinstance(value, str) and value in NAMED:
            mean, std = NAMED[value]
        elif isinstance(value, Mapping) and set(value) == {"mean", "std"}:
            try:
                mean, std = tuple(float(v) for v in value["mean"]), tuple(float(v) for v in value["std"])
            except (TypeError, ValueError):
                raise UserError(f"pixel_space is {dict(value)!r}; accepted is {ACCEPTED}") from None
        else:
            raise UserError(f"pixel_space is {value!r}; accepted is {ACCEPTED}")
        if len(mean) not in (1, channels):
            raise UserError(
                f"pixel_space {value!r} has {len(mean)} channels and the images {channels}; "
                f'accepted is "unit", "standard", or {{"mean": [...], "std": [...]}} with {channels} values each'
            )
        repeat = channels // len(mean)
        return cls(mean * repeat, std * repeat)

    def to_pixels(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in the harness' normalisation -> pixels (N, C, H, W), in [0, 1] if `x` was made from such."""
        if x.is_cpu:
            return x * self.std + self.mean
        return torch.addcmul(self.mean, x, self.std)  # the same in one pass

    def from_pixels(self, pixels: Tensor) -> Tensor:
        """Pixels (N, C, H, W) -> (N, C, H, W) in the harness' normalisation; the inverse of `to_pixels`."""
        return (pixels - self.mean) / self.std

    def extra_repr(self) -> str:
        """Mean and std, for `print`."""
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"
