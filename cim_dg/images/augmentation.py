"""DomainBed's augmentation of photographs (random crop, flip, colours and grey), with torchvision's distributions.

Random parameters are drawn separately from their application. An image's parameters depend only on a seed and its
position in the minibatch, not on the process that applies them. The colours, which cost most, can then be changed where
that is fastest: image by image on a CPU, whose caches hold one image, and per minibatch on a GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cim_dg.images import operations as image_ops

SIDE = 224
AREA = (0.7, 1.0)  # RandomResizedCrop(224, scale=(0.7, 1.0)), of the image's area
ASPECT = (3 / 4, 4 / 3)
TRIES = 10  # draws of a crop, of which the first that fits into the image is used
FLIP = 0.5  # RandomHorizontalFlip()
STRENGTH = 0.3  # ColorJitter(0.3, 0.3, 0.3, 0.3)
GREY = 0.1  # RandomGrayscale()

JITTER = (image_ops.adjust_brightness, image_ops.adjust_contrast, image_ops.adjust_saturation, image_ops.adjust_hue)
"""ColorJitter's operations; each image gets all four, in a random order."""


@dataclass(frozen=True)
class Colours:
    """Random parameters of the colours of N images.

    Attributes:
        order: (N, 4) int64, indices into `JITTER` in the order of application.
        factors: (N, 4), the parameter of each operation of `JITTER`.
        grey: (N,) bool, whether an image is made grey in the end.
    """

    order: Tensor
    factors: Tensor
    grey: Tensor

    def __getitem__(self, index: slice) -> Colours:
        return Colours(self.order[index], self.factors[index], self.grey[index])


@dataclass(frozen=True)
class Draws:
    """Random parameters of the augmentation of N images.

    Attributes:
        boxes: (N, 4) int, top, left, height and width in pixels.
        flips: (N,) bool.
        colours: those of the colours.
    """

    boxes: np.ndarray
    flips: np.ndarray
    colours: Colours


def draw(sizes: np.ndarray, seed: int) -> Draws:
    """Draw an augmentation for each of N images.

    Args:
        sizes: (N, 2) heights and widths in pixels.
        seed: of NumPy's generator, at least 0.
    """
    rng = np.random.default_rng(seed)
    count = len(sizes)
    boxes = _boxes(rng, sizes)
    flips = rng.random(count) < FLIP
    order = rng.permuted(np.tile(np.arange(len(JITTER)), (count, 1)), axis=1)
    factors = rng.uniform(1 - STRENGTH, 1 + STRENGTH, (count, len(JITTER)))
    factors[:, JITTER.index(image_ops.adjust_hue)] -= 1  # the hue's shift is centred at 0
    grey = rng.random(count) < GREY
    colours = Colours(torch.from_numpy(order), torch.from_numpy(factors).float(), torch.from_numpy(grey))
    return Draws(boxes, flips, colours)


def _boxes(rng: np.random.Generator, sizes: np.ndarray) -> np.ndarray:
    """For each image the first of ten random boxes that is inside it, else the largest central box of allowed shape."""
    limits = sizes[:, None].astype(float)  # (N, 1, 2)
    area = limits.prod(axis=2) * rng.uniform(*AREA, (len(sizes), TRIES))
    aspect = np.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1]), (len(sizes), TRIES)))
    shapes = np.rint(np.sqrt(np.stack([area / aspect, area * aspect], axis=2)))  # (N, 10, 2)
    inside = ((shapes > 0) & (shapes <= limits)).all(axis=2)
    first = np.take_along_axis(shapes, inside.argmax(axis=1)[:, None, None], axis=1)[:, 0]
    corners = np.floor(rng.random((len(sizes), 2)) * (sizes - first + 1))
    height, width = sizes.T
    largest = np.rint(np.stack([np.minimum(height, width / ASPECT[0]), np.minimum(width, height * ASPECT[1])], axis=1))
    any_inside = inside.any(axis=1, keepdims=True)
    corners = np.where(any_inside, corners, (sizes - largest) // 2)
    return np.hstack([corners, np.where(any_inside, first, largest)]).astype(int)


def crop(image: np.ndarray, box: np.ndarray, flip: bool) -> Tensor:
    """Cut a box from an image, resize it, and mirror it if `flip`.

    Args:
        image: (H, W, 3) uint8.
        box: (4,) int, top, left, height and width in pixels, inside the image.
        flip: whether to mirror left and right.

    Returns:
        (3, 224, 224) uint8.
    """
    top, left, height, width = box.tolist()
    # A copy, because torch does not accept a read-only memory map.
    cut = torch.from_numpy(np.array(image[top : top + height, left : left + width]))
    # In 8 bits, as in Pillow: the weights are integers, and results differ from Pillow's by at most one level.
    resized = F.interpolate(cut.permute(2, 0, 1)[None], (SIDE, SIDE), mode="bilinear", antialias=True)[0]
    return resized.flip(-1) if flip else resized.contiguous()


def recolour(images: Tensor, colours: Colours) -> Tensor:
    """Change the colours of images (N, 3, H, W), uint8, on their device; returns (N, 3, H, W), uint8."""
    x = images.float() / 255
    factors = colours.factors.to(x.device)
    for turn in colours.order.T:
        for number, operation in enumerate(JITTER):
            chosen = turn == number
            if chosen.all():  # always true for a single image: no selection needed
                x = operation(x, factors[:, number])
            elif chosen.any():
                places = chosen.nonzero()[:, 0].to(x.device)
                x[places] = operation(x[places], factors[places, number])
    if colours.grey.any():
        places = colours.grey.nonzero()[:, 0].to(x.device)
        x[places] = image_ops.to_grayscale(x[places])
    return x.mul_(255).round_().to(torch.uint8)
