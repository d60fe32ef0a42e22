"""Moves images to where they fit another best: the translation with the largest cross-correlation.

With grey images a and b, each less its own mean and 0 outside, the shift d of b against a is that with the largest

    c(d) = sum over pixels p of a(p) b(p + d),

the cross-correlation (Brown, "A survey of image registration techniques", 1992, section 3.1), here by the discrete
Fourier transform.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cim_dg.errors import UserError


@torch.no_grad()
def align_pairs(reference: Tensor, images: Tensor, index: Tensor, max_shift: int) -> tuple[Tensor, Tensor]:
    """The images of pairs, each moved to where it fits its reference best. Nothing waits for a GPU.

    Args:
        reference: (A, C, H, W), floating point.
        images: (N, C, H, W), those that are moved.
        index: (K, A) int64, rows of `images`, or -1 for none.
        max_shift: the largest shift in pixels, up and down as left and right; below the smaller side.

    Returns:
        (K A, C, H, W), without gradient, the moved images, whose pixels at the border take the place of those that are
        not known, and (K, A) int64, the rows of these, or -1.

    Raises:
        UserError: the shift is not below the smaller side.
    """
    height, width = images.shape[-2:]
    if max_shift >= min(height, width):
        raise UserError(
            f"cim_align is {max_shift}: images are compared at {height}x{width} pixels, and accepted is less than the "
            "smaller side"
        )
    rows = index.clamp_min(0).flatten()
    down, right = _best_shifts(reference, images, rows.view_as(index), max_shift)
    moved = _moved(images[rows], down, dim=2)
    places = torch.arange(len(rows), device=index.device).view_as(index)
    return _moved(moved, right, dim=3), torch.where(index >= 0, places, -1)


def _best_shifts(reference: Tensor, images: Tensor, rows: Tensor, max_shift: int) -> tuple[Tensor, Tensor]:
    """Shifts (K A,) in pixels of `images[rows[k, a]]` against `reference[a]`, downwards and to the right."""
    # So many zeros beside the images that no shift wraps around.
    size = [side + max_shift for side in images.shape[-2:]]
    # cuFFT has no bfloat16, and autocast casts no transform.
    spectra = [torch.fft.rfft2(_centred_grey(each), s=size) for each in (reference, images)]
    correlation = torch.fft.irfft2(spectra[0].conj() * spectra[1][rows], s=size)  # (K, A, *size)
    shifts = torch.arange(-max_shift, max_shift + 1, device=images.device)
    allowed = correlation[..., (shifts % size[0])[:, None], shifts % size[1]]
    best = allowed.flatten(0, 1).flatten(1).argmax(dim=1)
    return best // len(shifts) - max_shift, best % len(shifts) - max_shift


def _centred_grey(images: Tensor) -> Tensor:
    """(N, H, W): the mean of the channels, less the image's own mean."""
    grey = images.mean(dim=1, dtype=torch.promote_types(images.dtype, torch.float32))
    return grey - grey.mean(dim=(1, 2), keepdim=True)


def _moved(images: Tensor, shifts: Tensor, dim: int) -> Tensor:
    """Each image (M, C, H, W) less its shift (M,) along a dimension; the border is repeated."""
    side = images.shape[dim]
    source = (torch.arange(side, device=images.device) + shifts[:, None]).clamp(0, side - 1)  # (M, side)
    shape = [len(images), 1, 1, 1]
    shape[dim] = side
    return images.gather(dim, source.view(shape).expand_as(images))
