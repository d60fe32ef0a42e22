from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cim_dg.nn.working_size import average_to


def test_a_whole_factor_is_the_mean_of_its_pixels():
    images = torch.rand(2, 3, 32, 40)
    torch.testing.assert_close(average_to(images, 8), F.avg_pool2d(images, 4))


def test_any_side_one_pixel_at_a_time():
    """Each pixel is the mean of those that its area touches; the aspect ratio is kept, to whole pixels."""
    images = torch.rand(1, 2, 19, 11)
    averaged = average_to(images, 8)
    assert averaged.shape == (1, 2, 14, 8)
    for i in range(14):
        for j in range(8):
            rows, columns = (slice(n * k // m, -(-(n + 1) * k // m)) for n, k, m in ((i, 19, 14), (j, 11, 8)))
            torch.testing.assert_close(averaged[..., i, j], images[..., rows, columns].mean((-2, -1)))


@pytest.mark.parametrize("side", [None, 16, 17, 10**6])
def test_images_are_never_enlarged(side):
    images = torch.rand(1, 3, 24, 16)
    assert average_to(images, side) is images
