"""DomainBed's augmentation of photographs: random crop, flip, colours and grey, as torchvision draws and computes them.

Drawing is apart from doing. What is drawn for an image depends on a seed and its place in the minibatch alone, so that
it is the same whichever process does it; and the colours, which cost most, can be done where they cost least: image by
image on a CPU, whose caches hold one image, and a whole minibatch at a time on a GPU.
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
TRIES = 10  # crops that are drawn until one is inside the image
FLIP = 0.5  # RandomHorizontalFlip()
STRENGTH = 0.3  # ColorJitter(0.3, 0.3, 0.3, 0.3)
GREY = 0.1  # RandomGrayscale()

JITTER = (image_ops.adjust_brightness, image_ops.adjust_contrast, image_ops.adjust_saturation, image_ops.adjust_hue)
"""ColorJitter's operations; an image gets all four, in an order of its own."""


@dataclass(frozen=True)
class Colours:
    """What is done to the colours of N images: places (N, 4) in `JITTER`, in the order in which they are applied;
    factors (N, 4), one for each of `JITTER`; and grey (N,), bool, which images lose their colours in the end.
    """

    order: Tensor
    factors: Tensor
    grey: Tensor

    def __getitem__(self, which: slice) -> Colours:
        return Colours(self.order[which], self.factors[which], self.grey[which])


@dataclass(frozen=True)
class Draws:
    """The augmentation of N images: boxes (N, 4) of top, left, height and width; flips (N,), bool; and colours."""

    boxes: np.ndarray
    flips: np.ndarray
    colours: Colours


def draw(sizes: np.ndarray, seed: int) -> Draws:
    """Draw an augmentation for each image; `sizes` (N, 2) has their heights and widths in pixels."""
    rng = np.random.default_rng(seed)
    count = len(sizes)
    boxes = _boxes(rng, sizes)
    flips = rng.random(count) < FLIP
    order = rng.permuted(np.tile(np.arange(len(JITTER)), (count, 1)), axis=1)
    factors = rng.uniform(1 - STRENGTH, 1 + STRENGTH, (count, len(JITTER)))
    factors[:, JITTER.index(image_ops.adjust_hue)] -= 1  # a shift, which is around 0
    grey = rng.random(count) < GREY
    colours = Colours(torch.from_numpy(order), torch.from_numpy(factors).float(), torch.from_numpy(grey))
    return Draws(boxes, flips, colours)


def _boxes(rng: np.random.Generator, sizes: np.ndarray) -> np.ndarray:
    """For each image the first of ten drawn boxes that it holds, or else the largest in its middle of allowed shape."""
    limits = sizes[:, None].astype(float)  # (N, 1, 2)
    area = limits.prod(axis=2) * rng.uniform(*AREA, (len(sizes), TRIES))
    aspect = np.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1]), (len(sizes), TRIES)))
    drawn = np.rint(np.sqrt(np.stack([area / aspect, area * aspect], axis=2)))  # (N, 10, 2)
    inside = ((drawn > 0) & (drawn <= limits)).all(axis=2)
    first = np.take_along_axis(drawn, inside.argmax(axis=1)[:, None, None], axis=1)[:, 0]
    corners = np.floor(rng.random((len(sizes), 2)) * (sizes - first + 1))
    height, width = sizes.T
    largest = np.rint(np.stack([np.minimum(height, width / ASPECT[0]), np.minimum(width, height * ASPECT[1])], axis=1))
    found = inside.any(axis=1, keepdims=True)
    shapes = np.where(found, first, largest)
    return np.hstack([np.where(found, corners, (sizes - largest) // 2), shapes]).astype(int)


def crop(image: np.ndarray, box: np.ndarray, flip: bool) -> Tensor:
    """Cut the box from an image (H, W, 3), uint8, and resize it to (3, 224, 224), uint8; mirrored if `flip`."""
    top, left, height, width = box.tolist()
    # A copy: the image may be a file mapped for reading, which torch does not take.
    cut = torch.from_numpy(np.array(image[top : top + height, left : left + width]))
    # On 8 bits, as Pillow does it: the weights are integers, and results differ from Pillow's by one level at most.
    resized = F.interpolate(cut.permute(2, 0, 1)[None], (SIDE, SIDE), mode="bilinear", antialias=True)[0]
    return resized.flip(-1) if flip else resized.contiguous()


def recolour(images: Tensor, colours: Colours) -> Tensor:
    """Change the colours of images (N, 3, H, W), uint8, on the device on which they are; the result has 8 bits, too."""
    x = images.float() / 255
    factors = colours.factors.to(x.device)
    for turn in colours.order.T:
        for which, operation in enumerate(JITTER):
            chosen = turn == which
            if chosen.all():  # of one image: nothing need be picked out
                x = operation(x, factors[:, which])
            elif chosen.any():
                places = chosen.nonzero()[:, 0].to(x.device)
                x[places] = operation(x[places], factors[places, which])
    if colours.grey.any():
        places = colours.grey.nonzero()[:, 0].to(x.device)
        x[places] = image_ops.to_grayscale(x[places])
    return x.mul_(255).round_().to(torch.uint8)
