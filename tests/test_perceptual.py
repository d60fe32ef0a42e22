"""MS-SSIM against pytorch-msssim where that can run, a naive loop where it cannot, and finite differences."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import pytorch_msssim
import torch
import torch.nn.functional as F
from torch import Tensor

from cim_dg.errors import UserError
from cim_dg.perceptual import WEIGHTS, ms_ssim, scales_and_window, triplet_ms_ssim


def pair(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0, noise: float = 0.3) -> tuple[Tensor, Tensor]:
    """Two images that have something in common."""
    generator = torch.Generator().manual_seed(seed)
    x = F.avg_pool2d(torch.rand(shape, dtype=dtype, generator=generator), 3, 1, 1)
    y = (x + noise * torch.randn(shape, dtype=dtype, generator=generator)).clamp(0, 1)
    return x, y


def value_and_gradients(function, x: Tensor, y: Tensor, **options) -> list[Tensor]:  # type: ignore[no-untyped-def]
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    value = function(x, y, **options)
    weights = torch.arange(1, len(value) + 1, dtype=value.dtype)
    return [value.detach(), *torch.autograd.grad((value * weights).sum(), (x, y))]


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


def naive_ms_ssim(x: np.ndarray, y: np.ndarray, scales: int, window: int) -> float:
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
        result *= max(total / count, 0.0) ** weights[scale]
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


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (13, 15), (26, 25)])
def test_gradient_by_finite_differences(size: tuple[int, int]) -> None:
    x, y = (image.requires_grad_() for image in pair(2, 2, *size, dtype=torch.float64))
    assert torch.autograd.gradcheck(ms_ssim, (x, y), fast_mode=True)


def test_every_entry_of_the_gradient_by_finite_differences() -> None:
    x, y = (image.requires_grad_() for image in pair(1, 1, 8, 9, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda x, y: ms_ssim(x, y, window=3), (x, y))


@pytest.mark.parametrize("n_images", [2, 7], ids=["a batch", "a large pool"])
def test_gradient_of_the_triplet_by_finite_differences(n_images: int) -> None:
    morphed, _ = pair(3, 1, 5, 6, dtype=torch.float64, seed=1)
    images, _ = pair(n_images, 1, 5, 6, dtype=torch.float64, seed=2)
    positive, negative = torch.tensor([1, -1, 1]), torch.tensor([0, 1, -1])

    def both(morphed: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        return triplet_ms_ssim(morphed, images, positive, negative, window=3, scales=2)

    assert torch.autograd.gradcheck(both, (morphed.requires_grad_(), images.requires_grad_()))


CONSTANT, NOISE = torch.full((1, 3, 40, 40), 0.5), pair(1, 3, 40, 40)[0]
AWKWARD = {
    "two constants": (CONSTANT, torch.full_like(CONSTANT, 0.8)),
    "equal constants": (CONSTANT, CONSTANT.clone()),
    "all black": (torch.zeros_like(NOISE), torch.zeros_like(NOISE)),
    "black against an image": (torch.zeros_like(NOISE), NOISE),
    "white against black": (torch.ones_like(NOISE), torch.zeros_like(NOISE)),
    "identical": (NOISE, NOISE.clone()),
    "inverted": (NOISE, 1 - NOISE),
    "inverted, full contrast": (NOISE.round(), 1 - NOISE.round()),
    "half black": (NOISE * (torch.arange(40) < 20), NOISE),
}


@pytest.mark.parametrize("case", AWKWARD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite(case: str, dtype: torch.dtype) -> None:
    x, y = (image.to(dtype) for image in AWKWARD[case])
    value, *gradients = value_and_gradients(ms_ssim, x, y)
    assert torch.isfinite(value).all() and (value >= 0).all() and (value <= 1 + 1e-4).all()
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    if case.startswith("inverted"):
        assert value == 0 and not any(gradient.any() for gradient in gradients)


def test_gradient_is_finite_on_both_sides_of_zero() -> None:
    """Along the way from an image to its inverse the mean of cs crosses 0, where x^w has an infinite slope."""
    low, high = 0.0, 1.0
    x = NOISE.double()[:, :1]
    for _ in range(60):  # to the last digit before the crossing
        middle = (low + high) / 2
        similar = bool(ms_ssim(x, x + middle * (1 - 2 * x)) > 0)
        low, high = (middle, high) if similar else (low, middle)
    for step in (low - 1e-6, low - 1e-9, low, high, high + 1e-9):
        value, *gradients = value_and_gradients(ms_ssim, x, x + step * (1 - 2 * x))
        assert torch.isfinite(value).all() and all(torch.isfinite(gradient).all() for gradient in gradients)


# --- the measure -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 3, 36, 36), (2, 1, 8, 8), (3, 5, 21, 50)])
def test_identity_symmetry_and_bounds(shape: tuple[int, ...]) -> None:
    x, y = pair(*shape)
    assert torch.allclose(ms_ssim(x, x), torch.ones(len(x)), atol=1e-5)
    torch.testing.assert_close(ms_ssim(x, y), ms_ssim(y, x))
    _, nearer = pair(*shape, noise=0.05)
    assert (ms_ssim(x, y) < ms_ssim(x, nearer)).all() and (ms_ssim(x, nearer) < 1).all() and (ms_ssim(x, y) >= 0).all()


def test_each_image_is_compared_by_itself() -> None:
    x, y = pair(5, 3, 36, 36)
    alone = torch.cat([ms_ssim(x[i : i + 1], y[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(ms_ssim(x, y), alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("side", [8, 36, 161])
@pytest.mark.parametrize("n_images", [4, 12], ids=["a batch", "a large pool"])
def test_triplet_is_two_comparisons(side: int, n_images: int) -> None:
    morphed, _ = pair(4, 3, side, side, seed=1)
    images, _ = pair(n_images, 3, side, side, seed=2)
    positive, negative = torch.tensor([1, 0, 3, 1]), torch.tensor([2, 2, 2, 0])
    x, y = (torch.nn.Parameter(tensor.clone()) for tensor in (morphed, images))
    together = triplet_ms_ssim(x, y, positive, negative)
    (together[0] - 2 * together[1]).sum().backward()
    u, v = (torch.nn.Parameter(tensor.clone()) for tensor in (morphed, images))
    separate = ms_ssim(u, v[positive]), ms_ssim(u, v[negative])
    (separate[0] - 2 * separate[1]).sum().backward()
    torch.testing.assert_close(together, separate, atol=1e-5, rtol=0)
    torch.testing.assert_close((x.grad, y.grad), (u.grad, v.grad), atol=1e-6, rtol=1e-3)


def test_no_index_gives_zero_and_no_gradient() -> None:
    morphed, images = (image.requires_grad_() for image in pair(4, 3, 20, 20))
    positive, negative = torch.tensor([1, -1, -1, 2]), torch.tensor([-1, 3, -1, 0])
    positives, negatives = triplet_ms_ssim(morphed, images, positive, negative)
    assert ((positives == 0) == (positive < 0)).all() and ((negatives == 0) == (negative < 0)).all()
    (positives - negatives).sum().backward()
    assert morphed.grad is not None and images.grad is not None
    assert morphed.grad.flatten(1).any(1).tolist() == [True, True, False, True]
    (by_positives,) = torch.autograd.grad(triplet_ms_ssim(morphed, images, positive, negative)[0].sum(), images)
    assert by_positives.flatten(1).any(1).tolist() == [False, True, True, False]


def test_no_anchors() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    morphed = torch.zeros(0, 3, 20, 20, requires_grad=True)
    for images in (torch.rand(4, 3, 20, 20), torch.rand(0, 3, 20, 20)):
        positives, negatives = triplet_ms_ssim(morphed, images, none, none)
        assert positives.shape == negatives.shape == (0,)
        (positives.sum() + negatives.sum()).backward()
    assert ms_ssim(morphed, morphed).shape == (0,)


# --- where it runs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [36, 161])
def test_float32_inside_autocast(side: int) -> None:
    x, y = pair(4, 3, side, side)
    rows = torch.tensor([0, 1, -1, 3])
    outside = [*value_and_gradients(ms_ssim, x, y), *triplet_ms_ssim(x, y, rows, rows)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = [*value_and_gradients(ms_ssim, x, y), *triplet_ms_ssim(x, y, rows, rows)]
        by_reference = ms_ssim(x, y, window=3, backend="pytorch_msssim")
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))
    assert torch.equal(by_reference, ms_ssim(x, y, window=3, backend="pytorch_msssim"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_in_float32(dtype: torch.dtype) -> None:
    x, y = (image.to(dtype) for image in pair(2, 3, 24, 24))
    value = ms_ssim(x, y)
    assert value.dtype == torch.float32 and torch.equal(value, ms_ssim(x.float(), y.float()))
    leaf = x.clone().requires_grad_()
    ms_ssim(leaf, y.float()).sum().backward()
    assert leaf.grad is not None and leaf.grad.dtype == dtype and torch.isfinite(leaf.grad).all()


def test_without_gradients() -> None:
    x, y = pair(2, 3, 36, 36)
    expected = ms_ssim(x, y)
    with torch.no_grad():
        value = ms_ssim(x.clone().requires_grad_(), y)
        assert not value.requires_grad and torch.equal(value, expected)
    with torch.inference_mode():
        assert torch.equal(ms_ssim(x, y), expected)
    ms_ssim(x.requires_grad_(), y).sum().backward()  # nothing made in inference mode is in the way


@pytest.mark.parametrize("side", [36, 161])
def test_layout_in_memory_does_not_matter(side: int) -> None:
    x, y = pair(2, 3, side, side)
    expected = value_and_gradients(ms_ssim, x, y)
    wide = torch.zeros(2, 3, side, 2 * side)
    wide[..., ::2] = x
    for strided in (x.to(memory_format=torch.channels_last), wide[..., ::2], x.mT.contiguous().mT):
        assert all(torch.equal(a, b) for a, b in zip(value_and_gradients(ms_ssim, strided, y), expected, strict=True))


@pytest.mark.parametrize("side", [36, 161])
def test_same_result_each_time(side: int) -> None:
    x, y = pair(3, 3, side, side)
    first, again = (value_and_gradients(ms_ssim, x, y) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_inputs_are_left_alone() -> None:
    x, y = pair(3, 3, 36, 36)
    before = x.clone(), y.clone()
    value_and_gradients(lambda a, b: triplet_ms_ssim(a, b, torch.arange(3), torch.arange(3))[0], x, y)
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])


def test_second_derivatives_are_refused() -> None:
    x, y = (image.requires_grad_() for image in pair(1, 1, 8, 8))
    (gradient,) = torch.autograd.grad(ms_ssim(x, y).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


# --- bad input -------------------------------------------------------------------------------------------------------

IMAGES = torch.rand(2, 3, 36, 36)


@pytest.mark.parametrize(
    ("x", "y", "options", "sentence"),
    [
        (IMAGES, IMAGES[:1], {}, "equal shapes"),
        (IMAGES, torch.rand(2, 3, 36, 35), {}, "equal shapes"),
        (IMAGES[0], IMAGES[0], {}, r"\(N, C, H, W\)"),
        (IMAGES[:, :0], IMAGES[:, :0], {}, "at least one channel"),
        (IMAGES.byte(), IMAGES.byte(), {}, "torch.uint8: a floating point type"),
        (IMAGES[..., :6], IMAGES[..., :6], {}, "36x6 pixels are too small"),
        (IMAGES, IMAGES, {"data_range": 0}, "data_range is 0: accepted is a finite number above 0"),
        (IMAGES, IMAGES, {"data_range": -1.0}, "data_range is -1.0"),
        (IMAGES, IMAGES, {"data_range": math.inf}, "data_range is inf"),
        (IMAGES, IMAGES, {"data_range": math.nan}, "data_range is nan"),
        (IMAGES, IMAGES, {"window": 8}, "window is 8: accepted is an odd number"),
        (IMAGES, IMAGES, {"window": 1}, "window is 1: accepted"),
        (IMAGES, IMAGES, {"window": 7.0}, "window is 7.0: accepted"),
        (IMAGES, IMAGES, {"window": 37}, "a window of 37 pixels does not fit images of 36x36 halved 0 times"),
        (IMAGES, IMAGES, {"scales": 4}, "a window of 7 pixels does not fit images of 36x36 halved 3 times"),
        (IMAGES, IMAGES, {"scales": 0}, "scales is 0: accepted is 1 to 5"),
        (IMAGES, IMAGES, {"scales": 6}, "scales is 6: accepted is 1 to 5"),
        (IMAGES, IMAGES, {"backend": "piq"}, "backend 'piq' is not known: accepted are native, pytorch_msssim"),
    ],
)
def test_bad_input(x: Tensor, y: Tensor, options: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        ms_ssim(x, y, **options)


@pytest.mark.parametrize(
    ("morphed", "images", "positive", "negative", "sentence"),
    [
        (IMAGES, torch.rand(4, 1, 36, 36), [0, 1], [1, 0], "the same C, H and W"),
        (IMAGES[0], IMAGES, [0, 1], [1, 0], "the same C, H and W"),
        (IMAGES, IMAGES, [0, 1, 1], [1, 0], r"positive has shape \(3,\)"),
        (IMAGES, IMAGES, [0, 1], [0.5, 1.0], "negative has shape .* and type torch.float32: accepted is int64"),
        (IMAGES, IMAGES, [True, False], [1, 0], "positive has .* type torch.bool"),
        (IMAGES, IMAGES[:0], [-1, -1], [-1, -1], "images is empty"),
        (IMAGES.int(), IMAGES.int(), [0, 1], [1, 0], "a floating point type"),
    ],
)
def test_bad_triplet(morphed: Tensor, images: Tensor, positive: list, negative: list, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        triplet_ms_ssim(morphed, images, torch.tensor(positive), torch.tensor(negative))
