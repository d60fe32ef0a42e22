"""Operations on a batch of images with parameters per image, on the batch's device.

torchvision's functions take one number for a whole batch; here a parameter is a tensor (N,), and gradients flow to its
value. The formulae are torchvision's (`torchvision.transforms.v2.functional`),
and the results are the same. Images are (N, C, H, W), floating point, in [0, 1], and so are the results. Hue,
saturation and grey are defined on three channels, RGB: images with another number of channels are returned unchanged.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)
"""The weights of red, green and blue in a grey value (ITU-R BT.601, as torchvision rounds them)."""

_SMALLEST_CHROMA = 2.0**-24  # below it a pixel counts as grey; representable in half precision too


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """`factor * image`, clamped to [0, 1]; any number of channels.

    Args:
        images: (N, C, H, W) in [0, 1].
        factor: (N,), at least 0; 1 changes nothing.

    Raises:
        ValueError: `factor` has another shape.
    """
    return (images * _per_image(factor, images)).clamp(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend each image's mean grey value (factor 0) with the image (factor 1; above 1, beyond it), clamped to [0, 1].

    With a number of channels other than three, the mean is over all channels.

    Args:
        images: (N, C, H, W) in [0, 1].
        factor: (N,), at least 0.

    Raises:
        ValueError: `factor` has another shape.
    """
    grey = to_grayscale(images)[:, :1] if images.shape[1] == 3 else images
    return _blend(images, grey.mean(dim=(1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend the grey image (factor 0) with the image (factor 1; above 1, beyond it), clamped to [0, 1]; RGB only.

    Args:
        images: (N, C, H, W) in [0, 1].
        factor: (N,), at least 0.

    Raises:
        ValueError: `factor` has another shape.
    """
    return _blend(images, to_grayscale(images), factor) if images.shape[1] == 3 else images


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    r"""Rotate the hue of every pixel by `shift` turns of the colour circle; RGB only.

    With V the largest channel of a pixel, c its distance to the smallest, and h in [0, 6) the hue after the shift,

    .. math:: R, G, B = V - c + c \min(1, \max(0, s)), \qquad s = |h - 3| - 1, \; 2 - |h - 2|, \; 2 - |h - 4|.

    This is continuous and piecewise linear in `shift`, so that it has a gradient everywhere but at the corners, where
    two channels are equal; grey pixels, which have no hue, stay as they are and pass a gradient as such.

    Args:
        images: (N, C, H, W) in [0, 1].
        shift: (N,), in turns; 0 (or 1) changes nothing.

    Raises:
        ValueError: `shift` has another shape.
    """
    if images.shape[1] != 3:
        return images
    red, green, blue = images.unbind(dim=1)
    value = images.amax(dim=1)
    chroma = value - images.amin(dim=1)
    # 1 for the largest channel, else 0: with `where`, this takes twice as long on a CPU.
    red_leads = 1 - torch.sign(value - red)
    green_leads = (1 - red_leads) * (1 - torch.sign(value - green))
    blue_leads = 1 - red_leads - green_leads
    ahead = red_leads * (green - blue) + green_leads * (blue - red) + blue_leads * (red - green)
    hue = 2 * green_leads + 4 * blue_leads + ahead / chroma.clamp_min(_SMALLEST_CHROMA)
    hue = hue + 6 * _per_image(shift, images)[:, 0]
    hue = hue - 6 * (hue / 6).floor()
    share = torch.stack([(hue - 3).abs() - 1, 2 - (hue - 2).abs(), 2 - (hue - 4).abs()], dim=1).clamp(0, 1)
    return (value - chroma)[:, None] + chroma[:, None] * share


def to_grayscale(images: Tensor) -> Tensor:
    """The grey value of each pixel (`LUMA`), in all three channels; RGB only.

    Args:
        images: (N, C, H, W).
    """
    if images.shape[1] != 3:
        return images
    red, green, blue = images.unbind(dim=1)
    grey = torch.add(torch.add(LUMA[0] * red, green, alpha=LUMA[1]), blue, alpha=LUMA[2])
    return grey[:, None].expand_as(images)


def gaussian_blur(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Convolve with a Gaussian; the border is reflected.

    Args:
        images: (N, C, H, W), H and W more than half of `kernel_size`.
        sigma: (N,), the standard deviation in pixels, positive.
        kernel_size: the side of the window in pixels, odd.

    Raises:
        ValueError: `kernel_size` is even, or `sigma` has another shape.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size is {kernel_size}; accepted is a positive odd number")
    n, channels, height, width = images.shape
    half = kernel_size // 2
    offsets = torch.arange(-half, half + 1, dtype=images.dtype, device=images.device)
    kernel = torch.softmax(-0.5 * (offsets / _per_image(sigma, images)[:, 0]) ** 2, dim=-1)  # (N, 1, kernel_size)
    kernel = kernel.repeat_interleave(channels, dim=0)
    # Every channel of every image becomes a channel of one image, with a kernel for each.
    padded = F.pad(images, (half, half, half, half), mode="reflect").flatten(0, 1)[None]
    blurred = F.conv2d(padded, kernel[:, :, None, :], groups=n * channels)
    blurred = F.conv2d(blurred, kernel[:, :, :, None], groups=n * channels)
    return blurred.view(n, channels, height, width)


def resized_crop(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut a box from each image and resize it, bilinearly and antialiased, as torchvision does by default.

    By two matrix products per image: `grid_sample` neither antialiases nor has a second derivative.

    Args:
        images: (N, C, H, W).
        boxes: (N, 4): top, left, height and width in pixels, inside the image, height and width at least 1. A pixel is
            in the box if its centre is. Coordinates may be fractions, and the result is differentiable in them.
        size: height and width of the result.

    Returns:
        `(N, C, *size)`.

    Raises:
        ValueError: `boxes` is not (N, 4).
    """
    if boxes.shape != (len(images), 4):
        raise ValueError(f"boxes has the shape {tuple(boxes.shape)}; accepted is {(len(images), 4)}")
    top, left, height, width = boxes.to(images.dtype).unbind(dim=1)
    rows = _resizing(top, height, images.shape[2], size[0])
    columns = _resizing(left, width, images.shape[3], size[1])
    return rows[:, None] @ images @ columns[:, None].mT


def _resizing(start: Tensor, length: Tensor, n_in: int, n_out: int) -> Tensor:
    """(N, n_out, n_in): the weights of a line's pixels in each pixel of the resized part [start, start + length)."""
    start, length = start[:, None, None], length[:, None, None]
    scale = length / n_out
    sources = torch.arange(n_in, dtype=start.dtype, device=start.device) + 0.5
    centres = start + scale * (torch.arange(n_out, dtype=start.dtype, device=start.device)[:, None] + 0.5)
    # A triangle: two source pixels wide for an enlargement, two target pixels wide for a reduction.
    weights = (1 - (sources - centres).abs() / scale.clamp_min(1)).clamp_min(0)
    weights = weights * ((sources >= start) & (sources < start + length))
    return weights / weights.sum(dim=-1, keepdim=True)


def _blend(images: Tensor, others: Tensor, factor: Tensor) -> Tensor:
    factor = _per_image(factor, images)
    return (factor * images + (1 - factor) * others).clamp(0, 1)


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    """(N,) -> (N, 1, 1, 1)."""
    if values.shape != images.shape[:1]:
        raise ValueError(f"a parameter has the shape {tuple(values.shape)}; accepted is one value per image, (N,)")
    return values[:, None, None, None]
