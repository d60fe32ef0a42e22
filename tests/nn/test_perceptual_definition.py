"""MS-SSIM is what it says: against pytorch-msssim where that can run, and in loops over pixels where it cannot."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import pytorch_msssim
import torch
from image_pairs import pair, value_and_gradients
from torch import Tensor

from cim_dg.errors import UserError
from cim_dg.nn.perceptual import WEIGHTS, ms_ssim, pair_similarities, scales_and_window, triplet_ms_ssim


def assert_equal_in_value_and_gradient(mine: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    assert (mine[0] - theirs[0]).abs().max() <= tolerance
    for my_gradient, their_gradient in zip(mine[1:], theirs[1:], strict=True):
        # A pixel's gradient is of the order of 1e-3: so in proportion to the largest. In float32 both are off by 1e-5.
        assert (my_gradient - their_gradient).abs().max() <= 10 * tolerance * min(
            0.1, float(their_gradient.abs().max())
        )


# --- the reference ---------------------------------------------------------------------------------------------------

LARGE = [(2, 3, 161, 161), (1, 1, 224, 171), (2, 5, 177, 163), (1, 3, 192, 250)]
MIDDLE = [(2, 3, 97, 97), (1, 1, 160, 113), (2, 3, 128, 101)]


@pytest.mark.parametrize("shape", LARGE)
def test_equals_pytorch_msssim(shape: tuple[int, ...]) -> None:
    x, y = pair(*shape)
    theirs = value_and_gradients(pytorch_msssim.ms_ssim, x, y, data_range=1.0, size_average=False)
    assert_equal_in_value_and_gradient(value_and_gradients(ms_ssim, x, y), theirs, 1e-5)


@pytest.mark.parametrize("shape", LARGE[:3])
def test_equals_pytorch_msssim_in_float64(shape: tuple[int, ...]) -> None:
    x, y = pair(*shape, dtype=torch.float64)
    theirs = value_and_gradients(pytorch_msssim.ms_ssim, x, y, data_range=1.0, size_average=False)
    assert_equal_in_value_and_gradient(value_and_gradients(ms_ssim, x, y), theirs, 1e-7)


@pytest.mark.parametrize("shape", MIDDLE)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-7)])
def test_equals_pytorch_msssim_with_a_window_of_7(shape: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    x, y = pair(*shape, dtype=dtype)
    theirs = value_and_gradients(pytorch_msssim.ms_ssim, x, y, data_range=1.0, size_average=False, win_size=7)
    assert_equal_in_value_and_gradient(value_and_gradients(ms_ssim, x, y, window=7), theirs, tolerance)
    assert_equal_in_value_and_gradient(value_and_gradients(ms_ssim, x, y), theirs, tolerance)


def test_data_range_and_fewer_scales_as_in_pytorch_msssim() -> None:
    x, y = (255 * image for image in pair(2, 3, 170, 161))
    weights = [weight / sum(WEIGHTS[:3]) for weight in WEIGHTS[:3]]
    expected = pytorch_msssim.ms_ssim(x, y, data_range=255, size_average=False, weights=weights)
    torch.testing.assert_close(ms_ssim(x, y, 255, scales=3), expected, atol=1e-5, rtol=0)


def test_dark_images_as_in_pytorch_msssim() -> None:
    """Where the constants of l and cs count most."""
    x, y = (0.03 * image for image in pair(2, 3, 161, 165, dtype=torch.float64))
    expected = pytorch_msssim.ms_ssim(x, y, data_range=1.0, size_average=False)
    torch.testing.assert_close(ms_ssim(x, y), expected, atol=1e-7, rtol=0)


def test_the_backend_is_pytorch_msssim() -> None:
    x, y = pair(3, 3, 161, 180)
    expected = pytorch_msssim.ms_ssim(x, y, data_range=1.0, size_average=False)
    assert torch.equal(ms_ssim(x, y, backend="pytorch_msssim"), expected)
    rows, none = torch.tensor([2, -1, 0]), torch.tensor([-1, -1, -1])
    positives, negatives = triplet_ms_ssim(x, y, rows, none, backend="pytorch_msssim")
    torch.testing.assert_close((positives, negatives), triplet_ms_ssim(x, y, rows, none), atol=1e-5, rtol=0)


def test_the_backend_refuses_what_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = pair(2, 3, 36, 36)
    with pytest.raises(UserError, match="36x36 with a window of 7 pixels: accepted are sides over 96"):
        ms_ssim(x, y, backend="pytorch_msssim")
    monkeypatch.setitem(sys.modules, "pytorch_msssim", None)
    with pytest.raises(UserError, match="pip install pytorch-msssim"):
        ms_ssim(x, y, backend="pytorch_msssim")


# --- the definition, in loops ----------------------------------------------------------------------------------------


def naive_ms_ssim(x: np.ndarray, y: np.ndarray, scales: int, window: int, simple: bool = False) -> float:
    """One channel: a loop over scales, pixels and the window's offsets."""
    offsets = range(window)
    line = [math.exp(-((i - window // 2) ** 2) / 4.5) for i in offsets]
    line = [weight / sum(line) for weight in line]
    weights = [weight / sum(WEIGHTS[:scales]) for weight in WEIGHTS[:scales]] if scales < 5 else list(WEIGHTS)
    result = 1.0
    for scale in range(scales):
        if scale:
            x, y = naive_halve(x), naive_halve(y)
        total, count = 0.0, 0
        for top in range(x.shape[0] - window + 1):
            for left in range(x.shape[1] - window + 1):
                mean_x = mean_y = mean_xx = mean_yy = mean_xy = 0.0
                for i in offsets:
                    for j in offsets:
                        weight, a, b = line[i] * line[j], x[top + i, left + j], y[top + i, left + j]
                        mean_x, mean_y = mean_x + weight * a, mean_y + weight * b
                        mean_xx, mean_yy = mean_xx + weight * a * a, mean_yy + weight * b * b
                        mean_xy += weight * a * b
                var_x, var_y, cov = mean_xx - mean_x**2, mean_yy - mean_y**2, mean_xy - mean_x * mean_y
                local = (2 * cov + 0.03**2) / (var_x + var_y + 0.03**2)
                if scale == scales - 1:
                    local *= (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
                total, count = total + local, count + 1
        mean = (1 + total / count) / 2 if simple else max(total / count, 0.0)
        result *= mean ** weights[scale]
    return result


def naive_halve(x: np.ndarray) -> np.ndarray:
    odd = [size % 2 for size in x.shape]
    x = np.pad(x, [(odd[0], 0), (odd[1], 0)])
    small = np.zeros((x.shape[0] // 2, x.shape[1] // 2))
    for i in range(small.shape[0]):
        for j in range(small.shape[1]):
            small[i, j] = (x[2 * i, 2 * j] + x[2 * i + 1, 2 * j] + x[2 * i, 2 * j + 1] + x[2 * i + 1, 2 * j + 1]) / 4
    return small


@pytest.mark.parametrize(
    ("shape", "options", "scales", "window"),
    [
        ((2, 1, 8, 8), {}, 1, 7),
        ((1, 2, 9, 13), {}, 1, 7),
        ((1, 3, 16, 11), {}, 1, 7),
        ((1, 2, 13, 15), {}, 2, 7),
        ((1, 1, 9, 13), {"window": 3, "scales": 3}, 3, 3),
        ((1, 1, 16, 11), {"window": 5}, 2, 5),
        ((1, 2, 33, 37), {"window": 3}, 5, 3),
        ((1, 1, 36, 36), {"scales": 3}, 3, 7),
    ],
)
def test_equals_the_naive_loop(shape: tuple[int, ...], options: dict[str, int], scales: int, window: int) -> None:
    x, y = pair(*shape, dtype=torch.float64)
    expected = [
        np.mean([naive_ms_ssim(a, b, scales, window) for a, b in zip(image_x, image_y, strict=True)])
        for image_x, image_y in zip(x.numpy(), y.numpy(), strict=True)
    ]
    value = ms_ssim(x, y, window=options.get("window"), scales=options.get("scales"))
    # The window's weights are float32's in ms_ssim, and float64's in the loop.
    torch.testing.assert_close(value, torch.tensor(expected), atol=2e-6, rtol=0)


def test_the_simple_normalisation_equals_the_naive_loop_and_leaves_the_published_value_beside_it() -> None:
    x, y = pair(2, 1, 14, 15, dtype=torch.float64)
    y[1] = 1 - x[1]  # an image against its inverse has no similarity as published, and a low one here
    expected = [naive_ms_ssim(a[0].numpy(), b[0].numpy(), 2, 7, simple=True) for a, b in zip(x, y, strict=True)]
    value = ms_ssim(x, y, normalize="simple")
    torch.testing.assert_close(value, torch.tensor(expected), atol=5e-6, rtol=0)
    index = torch.tensor([[0, 1], [1, -1]])
    values, published = pair_similarities(x, y, index, normalize="simple")
    torch.testing.assert_close(values[0], value)
    torch.testing.assert_close(published[0], ms_ssim(x, y))
    assert published[0, 1] == 0 and 0 < values[0, 1] < 0.5
    assert values[1, 1] == published[1, 1] == 0


@pytest.mark.parametrize(
    ("size", "scales", "window"),
    [
        *[(7, 1, 7), (8, 1, 7), (12, 1, 7), (13, 2, 7), (24, 2, 7), (25, 3, 7), (32, 3, 7), (36, 3, 7), (49, 4, 7)],
        *[(96, 4, 7), (97, 5, 7), (160, 5, 7), (161, 5, 11), (448, 5, 11)],
    ],
)
def test_rule_of_scales_and_window(size: int, scales: int, window: int) -> None:
    assert scales_and_window(size, size) == (scales, window)
    assert scales_and_window(size + 500, size) == scales_and_window(size, size + 500) == (scales, window)
