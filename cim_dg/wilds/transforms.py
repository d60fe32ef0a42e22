"""Transforms from images on disk to a network's input, as in WILDS.

The transform determines the pixel space (`cim_dg.nn.pixels`): WILDS normalises natural images with ImageNet's
statistics, and standardises each image of RxRx1 separately.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import transforms
from torchvision.transforms import functional as TF

from cim_dg.errors import UserError
from cim_dg.nn.pixels import NAMED, PixelSpace

Step = Callable[[Any], Any]


class CropAndFlip:
    """A random part of the image, resized, and mirrored in half of the cases, as by torchvision's transforms.

    Args:
        size: height and width of the result.
    """

    def __init__(self, size: Sequence[int]) -> None:
        self._crop = transforms.RandomResizedCrop(size)

    def draw(self, height: int, width: int) -> Any:
        """The part and whether to mirror it, for an image of this size, from torch's global generator."""
        size = torch.empty(1, height, width, device="meta")
        return self._crop.get_params(size, self._crop.scale, self._crop.ratio), _flips()

    def __call__(self, image: Any, drawn: Any) -> Any:
        """The PIL image, changed as drawn."""
        (top, left, height, width), flip = drawn
        crop = self._crop
        image = TF.resized_crop(image, top, left, height, width, crop.size, crop.interpolation, crop.antialias)
        return TF.hflip(image) if flip else image


class TurnAndFlip:
    """The image rotated by 0, 90, 180 or 270 degrees, and mirrored in half of the cases."""

    def draw(self, height: int, width: int) -> Any:
        """The quarter turns and whether to mirror, from torch's global generator."""
        return int(torch.randint(4, ())), _flips()

    def __call__(self, image: Any, drawn: Any) -> Any:
        """The PIL image, changed as drawn."""
        turns, flip = drawn
        image = TF.rotate(image, 90 * turns) if turns else image
        return TF.hflip(image) if flip else image


def _flips() -> bool:
    """What torchvision's RandomHorizontalFlip draws."""
    return bool(torch.rand(1) < 0.5)


@dataclass(frozen=True)
class Transform:
    """From a PIL image to the (3, H, W) tensor that the network sees.

    Attributes:
        fixed: steps from a PIL image to another, the same at every use.
        random: what follows and is drawn at every use; None for nothing.
        space: the name of the pixel space (`cim_dg.nn.pixels.NAMED`) that it ends in.
    """

    fixed: tuple[Step, ...] = ()
    random: CropAndFlip | TurnAndFlip | None = None
    space: str = "imagenet"

    def __call__(self, image: Any) -> Tensor:
        """The image as the network sees it."""
        image = self.start(image)
        image = self.finish(image, self.draw(image.height, image.width))
        pixels = TF.to_tensor(image)
        return pixels if self.space == "unit" else TF.normalize(pixels, *NAMED[self.space], inplace=True)

    def start(self, image: Any) -> Any:
        """The PIL image after the fixed steps."""
        for step in self.fixed:
            image = step(image)
        return image

    def draw(self, height: int, width: int) -> Any:
        """The random numbers for an image that has this size after the fixed steps."""
        return None if self.random is None else self.random.draw(height, width)

    def finish(self, image: Any, drawn: Any) -> Any:
        """The PIL image in RGB after all steps, from that after the fixed ones."""
        return (image if self.random is None else self.random(image, drawn)).convert("RGB")


def make_transform(
    name: str,
    original_resolution: Sequence[int] | None,
    target_resolution: Sequence[int] | None,
    resize_scale: float | None,
    training: bool,
) -> Transform:
    """The transform `name` from a PIL image to a (3, H, W) tensor. All but one are WILDS' own.

    Args:
        name: image_base (crop to a square, resize), image_resize (resize to `resize_scale` times the original),
            image_resize_and_center_crop (the same, then the centre), or rxrx1 (rotated and flipped in training); and
            ours, imagenet (a random resized crop and flip in training; else resized).
        original_resolution: (width, height) of the dataset, None if its images differ.
        target_resolution: (height, width) for the network, None to keep the size.
        resize_scale: see image_resize.
        training: whether the images are for training.

    Raises:
        UserError: the transform needs a resolution or the scale and it is missing.
    """
    steps: list[Step] = []
    size = list(target_resolution) if target_resolution is not None else None
    if name == "rxrx1":
        # Not standardised here: see `Standardize`.
        return Transform(random=TurnAndFlip() if training else None, space="unit")
    if name == "imagenet":
        if training and size is None:
            raise UserError("transform imagenet needs target_resolution, to which it resizes random parts")
        if training and size is not None:
            return Transform(random=CropAndFlip(size))
        if size is not None:
            steps.append(transforms.Resize(size))
    elif name == "image_base":
        if original_resolution is not None and len(set(original_resolution)) > 1:
            steps.append(transforms.CenterCrop(min(original_resolution)))
        if size is not None:
            steps.append(transforms.Resize(size))
    else:
        if original_resolution is None or resize_scale is None:
            raise UserError(f"transform {name} needs resize_scale and a dataset of one image size; use image_base")
        steps.append(transforms.Resize([int(side * resize_scale) for side in original_resolution]))
        if name == "image_resize_and_center_crop":
            steps.append(transforms.CenterCrop(size or list(original_resolution)))
    return Transform(fixed=tuple(steps))


def pixel_space(transform: str) -> PixelSpace:
    """The pixel space of `transform`'s images."""
    return PixelSpace.of("unit" if transform == "rxrx1" else "imagenet", channels=3)


class Standardize(nn.Module):
    """RxRx1's normalisation as a layer: every channel of an image gets mean 0 and standard deviation 1.

    WILDS does this in the data loader, and the pixels are then lost. Here the loader gives pixels and the featurizer
    begins with this layer. Without morphing, the network's input is exactly WILDS'. With it, the input is the morphed
    image, standardised.

    Shape:
        (N, C, H, W) -> (N, C, H, W). A constant channel becomes 0.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Standardise each image (N, C, H, W) by its own mean and deviation per channel."""
        std, mean = torch.std_mean(x, dim=(2, 3), keepdim=True)
        return (x - mean) / torch.where(std == 0, 1.0, std)
