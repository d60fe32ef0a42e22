from __future__ import annotations

import pytest
import torch
from torchvision.transforms.functional import normalize

from cim_dg.errors import UserError
from cim_dg.nn.pixels import PixelSpace


def test_imagenet_inverts_what_the_harnesses_do():
    pixels = torch.rand(2, 3, 5, 5)
    x = normalize(pixels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    space = PixelSpace.of("imagenet", 3)
    torch.testing.assert_close(space.to_pixels(x), pixels)
    torch.testing.assert_close(space.from_pixels(pixels), x)


@pytest.mark.parametrize("channels", [1, 2, 3, 7])
@pytest.mark.parametrize("name", ["unit", "standard"])
def test_any_number_of_channels(name, channels):
    space = PixelSpace.of(name, channels)
    x = torch.rand(2, channels, 3, 3)
    assert space.channels == channels
    torch.testing.assert_close(space.from_pixels(space.to_pixels(x)), x)


def test_own_statistics():
    space = PixelSpace.of({"mean": [0.1, 0.2], "std": [1, 2]}, 2)
    assert space.to_pixels(torch.ones(1, 2, 1, 1)).flatten().tolist() == pytest.approx([1.1, 2.2])


@pytest.mark.parametrize(
    ("value", "channels", "message"),
    [
        ("imagnet", 3, "'imagnet'; accepted is one of unit, imagenet, standard"),
        ("imagenet", 2, "has 3 channels and the images 2"),
        ({"mean": [0.1]}, 1, "accepted is"),
        ({"mean": [0.1], "std": ["x"]}, 1, "accepted is"),
        ({"mean": [0.1], "std": [0]}, 1, "must be positive"),
        ({"mean": [0.1, 0.2], "std": [1]}, 2, "mean has 2 values and std 1"),
        (3, 3, "accepted is"),
    ],
)
def test_bad_values_are_refused(value, channels, message):
    with pytest.raises(UserError, match="pixel_space") as raised:
        PixelSpace.of(value, channels)
    assert message in str(raised.value)


def test_it_is_no_state_of_the_model():
    assert not PixelSpace.of("imagenet", 3).state_dict()
