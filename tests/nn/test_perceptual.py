"""MS-SSIM and its triplet: finite gradients, the properties of a similarity, where it runs, bad input."""

from __future__ import annotations

import math

import pytest
import torch
from image_pairs import pair, value_and_gradients
from torch import Tensor

from cim_dg.errors import UserError
from cim_dg.nn import local_similarity, perceptual
from cim_dg.nn.perceptual import ms_ssim, triplet_ms_ssim

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


@pytest.mark.parametrize("exponent", [0.0448, 0.3001, 1.0])
def test_a_factor_near_zero(exponent: float) -> None:
    """x^w, but a line with a bounded slope next to 0, and 0 below."""
    base = torch.tensor(
        [-1.0, -1e-9, 0.0, 1e-30, 1e-9, 1e-6, 1.001e-6, 1e-3, 1.0], dtype=torch.float64, requires_grad=True
    )
    factor = perceptual._power(base, exponent)
    slope = torch.autograd.grad(factor.sum(), base)[0]
    steepest = 1e-6 ** (exponent - 1)
    assert not factor[:3].any() and not slope[:3].any()
    torch.testing.assert_close(factor[3:6], base[3:6] * steepest)
    torch.testing.assert_close(slope[3:6], torch.full_like(slope[3:6], steepest))
    torch.testing.assert_close(factor[6:], base[6:] ** exponent)
    torch.testing.assert_close(slope[6:], exponent * base[6:] ** (exponent - 1))
    torch.testing.assert_close(factor[5], factor[6], rtol=2e-3, atol=0)


def test_gradient_is_finite_on_both_sides_of_zero() -> None:
    """Along the way from an image to its inverse the mean of cs crosses 0."""
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


@pytest.mark.parametrize("pixels", [1, 2 * 3 * 36 * 36], ids=["one", "two"])
def test_how_many_images_at_a_time_does_not_matter(pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = pair(5, 3, 36, 36)
    rows = torch.tensor([4, 0, -1, 0, 2])

    def negatives(x: Tensor, y: Tensor) -> Tensor:
        return triplet_ms_ssim(x, y, torch.arange(5), rows)[1]

    together = value_and_gradients(negatives, x, y)
    monkeypatch.setattr(local_similarity, "CPU_PIXELS", pixels)
    torch.testing.assert_close(value_and_gradients(negatives, x, y), together, atol=1e-6, rtol=0)


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
        (IMAGES, IMAGES, {"normalize": "softplus"}, "normalize 'softplus' .* accepted is relu, or simple with"),
        (IMAGES, IMAGES, {"normalize": "simple", "backend": "pytorch_msssim"}, "accepted is relu, or simple with"),
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
