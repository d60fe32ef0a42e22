"""Alignment against a loop over all shifts, and images that are moved back."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cim_dg.errors import UserError
from cim_dg.nn.alignment import align_pairs


def at(image: Tensor, shift: tuple[int, int], mode: str) -> Tensor:
    """The image (C, H, W) moved up and to the left by the shift."""
    down, right = shift
    by = max(abs(down), abs(right))
    wide = F.pad(image[None], (by,) * 4, mode=mode)[0]
    height, width = image.shape[-2:]
    return wide[:, by + down : by + down + height, by + right : by + right + width]


def test_it_is_the_shift_with_the_largest_cross_correlation():
    torch.manual_seed(0)
    reference, images = torch.rand(3, 2, 9, 12, dtype=torch.float64), torch.rand(5, 2, 9, 12, dtype=torch.float64)
    index = torch.tensor([[0, 4, -1], [3, 3, 1]])
    moved, rows = align_pairs(reference, images, index, 3)
    assert (rows >= 0).equal(index >= 0) and moved.shape == (6, 2, 9, 12)
    for k, a in (index >= 0).nonzero().tolist():
        image = images[index[k, a]]
        fixed, grey = (each.mean(0, keepdim=True) - each.mean() for each in (reference[a], image))
        shifts = [(down, right) for down in range(-3, 4) for right in range(-3, 4)]
        best = max(shifts, key=lambda shift: (fixed * at(grey, shift, mode="constant")).sum().item())
        assert moved[rows[k, a]].equal(at(image, best, mode="replicate"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_shifted_image_is_moved_back(dtype):
    image = torch.zeros(1, 3, 20, 24, dtype=dtype)
    image[:, :, 6:13, 8:15] = torch.rand(7, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    shifted = torch.cat([image.roll(by, (2, 3)) for by in ((0, 0), (2, -3), (-4, 1))])
    moved, _ = align_pairs(image, shifted, torch.arange(3)[:, None], 4)
    assert all(each.equal(image[0]) for each in moved)


def test_a_shift_of_the_whole_image_is_refused():
    images = torch.rand(2, 3, 8, 20)
    with pytest.raises(UserError, match="cim_align is 8: images are compared at 8x20 pixels, and accepted is less"):
        align_pairs(images, images, torch.tensor([[1, 0]]), 8)
