from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional as torchvision_ops

from cim_dg.images.operations import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    gaussian_blur,
    resized_crop,
    to_grayscale,
)

FACTORS = torch.tensor([0.0, 0.4, 1.0, 1.8, 3.0], dtype=torch.float64)
COLOUR = [
    (adjust_brightness, torchvision_ops.adjust_brightness, FACTORS),
    (adjust_contrast, torchvision_ops.adjust_contrast, FACTORS),
    (adjust_saturation, torchvision_ops.adjust_saturation, FACTORS),
    (adjust_hue, torchvision_ops.adjust_hue, torch.tensor([-0.5, -0.21, 0.0, 0.3, 0.5], dtype=torch.float64)),
]


def images(n: int = 5, channels: int = 3, height: int = 13, width: int = 10) -> torch.Tensor:
    x = torch.rand(n, channels, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:, :, :2] = x[:, :1, :2]  # grey
    x[:, :, 2, :3] = torch.tensor([0.0, 1.0, 1.0], dtype=x.dtype)  # black, white, and ties of two channels
    x[:, -1, 3] = x[:, 0, 3]
    return x


@pytest.mark.parametrize(("ours", "theirs", "values"), COLOUR)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_has_the_colour_that_torchvision_gives_it(ours, theirs, values, channels):
    x = images(channels=channels)
    expected = torch.stack([theirs(image, value.item()) for image, value in zip(x, values, strict=True)])
    torch.testing.assert_close(ours(x, values), expected, atol=1e-6, rtol=0)  # torchvision turns the hue in float32


def test_grey_is_torchvisions_in_as_many_channels():
    torch.testing.assert_close(to_grayscale(images()), torchvision_ops.rgb_to_grayscale(images(), 3))


def test_without_rgb_colour_is_left_alone_and_contrast_is_that_of_all_channels():
    x = images(channels=2)
    assert all(torch.equal(result, x) for result in (adjust_hue(x, FACTORS), to_grayscale(x)))
    assert torch.equal(adjust_saturation(x, FACTORS), x)
    flat = adjust_contrast(x, torch.zeros(5, dtype=x.dtype))
    torch.testing.assert_close(flat, x.mean(dim=(1, 2, 3), keepdim=True).expand_as(x))


@pytest.mark.parametrize("kernel_size", [1, 5, 9])
def test_each_image_is_blurred_as_torchvision_does_it(kernel_size):
    x, sigmas = images(), torch.tensor([0.1, 0.5, 1.0, 2.0, 7.0], dtype=torch.float64)
    expected = [
        torchvision_ops.gaussian_blur(image, [kernel_size] * 2, [sigma.item()])
        for image, sigma in zip(x, sigmas, strict=True)
    ]
    torch.testing.assert_close(gaussian_blur(x, sigmas, kernel_size), torch.stack(expected))


@pytest.mark.parametrize("size", [(13, 10), (20, 31), (4, 3), (1, 1)])
def test_each_crop_is_torchvisions_antialiased_one(size):
    boxes = [(0, 0, 13, 10), (0, 3, 6, 7), (5, 0, 8, 3), (12, 9, 1, 1), (3, 2, 5, 6)]
    x = images()
    expected = [
        torchvision_ops.resized_crop(image, *box, size=list(size), antialias=True)
        for image, box in zip(x, boxes, strict=True)
    ]
    torch.testing.assert_close(resized_crop(x, torch.tensor(boxes), size), torch.stack(expected))


def test_a_crop_of_the_whole_image_at_its_size_is_the_image():
    torch.testing.assert_close(resized_crop(images(2), torch.tensor([[0, 0, 13, 10]] * 2), (13, 10)), images(2))


@pytest.mark.parametrize(
    ("operation", "value"),
    [
        (adjust_brightness, 0.8),
        (adjust_contrast, 0.7),
        (adjust_saturation, 0.7),
        (adjust_hue, 0.12),
        (lambda x, sigma: gaussian_blur(x, sigma, 3), 0.8),
        (lambda x, p: resized_crop(x, torch.stack([p, p, 2 + p, 3 + p], dim=1), (3, 7)), 0.3),
    ],
)
def test_gradients_in_image_and_parameter_by_finite_differences(operation, value):
    # Inside the range, where nothing is clamped, and with the channels of every pixel apart.
    x = 0.3 + 0.1 * torch.rand(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = (x + 0.1 * torch.arange(3).view(3, 1, 1)).requires_grad_()
    parameter = torch.tensor([value, value + 0.05], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(operation, (x, parameter))
    assert torch.autograd.gradgradcheck(operation, (x, parameter))


def test_grey_and_black_images_have_finite_gradients():
    for x in (torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.5), torch.ones(1, 3, 2, 2)):
        for operation, _, _ in COLOUR:
            x, parameter = x.clone().requires_grad_(), torch.full((1,), 0.3, requires_grad=True)
            gradients = torch.autograd.grad(operation(x, parameter).sum(), (x, parameter))
            assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_parameters_of_another_shape_are_refused():
    x = images()
    with pytest.raises(ValueError, match="one value per image"):
        adjust_hue(x, torch.zeros(3))
    with pytest.raises(ValueError, match=r"boxes .* accepted is \(5, 4\)"):
        resized_crop(x, torch.zeros(5, 2), (3, 3))
    with pytest.raises(ValueError, match="kernel_size is 4"):
        gaussian_blur(x, FACTORS, 4)
