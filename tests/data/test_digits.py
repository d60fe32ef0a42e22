"""Synthesis of digits and backgrounds: ranges, geometry, and independence of every global random state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import RandomState

from cim_dg.data import digits


def test_digits_are_the_real_ones() -> None:
    images, labels = digits.load_digits()
    assert images.shape == (1797, 8, 8) and images.dtype == np.float32
    assert images.min() == 0 and images.max() == 1
    assert labels.shape == (1797,) and labels.dtype == np.int64
    assert sorted(set(labels)) == list(range(10))


@pytest.mark.parametrize(("size", "side"), [(28, 36), (28, 28), (21, 32)])
def test_enlarge_centres_each_digit_and_keeps_its_shape(size: int, side: int) -> None:
    small, _ = digits.load_digits()
    large = digits.enlarge(small[:50], size, side)
    assert large.shape == (50, side, side) and large.min() >= 0 and large.max() <= 1
    before = (side - size) // 2
    inside = large[:, before : before + size, before : before + size]
    assert large.sum() == pytest.approx(inside.sum())
    # Shrinking again by sampling gives the pattern that was drawn, the right way up.
    cells = ((np.arange(8) + 0.5) * size / 8).astype(int)
    again = inside[:, cells][:, :, cells]
    assert np.corrcoef(again.ravel(), small[:50].ravel())[0, 1] > 0.95


def test_enlarge_puts_each_digit_at_its_corner() -> None:
    small, _ = digits.load_digits()
    corners = np.array([[0, 0], [8, 0], [3, 7]])
    moved = digits.enlarge(small[:3], 28, 36, corners)
    centred = digits.enlarge(small[:3], 28, 36)
    for one, other, (top, left) in zip(moved, centred, corners, strict=True):
        np.testing.assert_array_equal(one, np.roll(other, (top - 4, left - 4), axis=(0, 1)))


@pytest.mark.parametrize("scale", [2, 3, 224 / 36])
def test_at_a_larger_scale_backgrounds_are_the_same_pictures_in_more_pixels(scale: float) -> None:
    side = round(36 * scale)
    angles = np.linspace(0, np.pi, 6)
    for pictures in (
        [digits.stripes(RandomState(2), angles, *args) for args in ((36,), (side, scale))],
        [digits.photo_crops(RandomState(2), 20, *args) for args in ((36,), (side, scale))],
    ):
        small, large = map(torch.from_numpy, pictures)
        assert large.shape[-2:] == (side, side)
        averaged = torch.nn.functional.interpolate(large, (36, 36), mode="area")
        inner = [image[:, :, 3:-3, 3:-3] for image in (small, averaged, averaged.roll(1, dims=3))]
        away, beside = ((image - inner[0]).abs().mean() for image in inner[1:])
        assert away < 0.35 * beside  # half a pixel's shift would be half of it


def test_compose_is_white_where_the_digit_is_and_background_where_it_is_not() -> None:
    opacities = np.zeros((2, 4, 4), dtype=np.float32)
    opacities[0, 1, 1], opacities[1, 2, 3] = 1, 0.5
    backgrounds = np.full((2, 3, 4, 4), 0.2, dtype=np.float32)
    images = digits.compose(opacities, backgrounds)
    assert images.shape == (2, 3, 4, 4) and images.dtype == np.float32
    assert (images[0, :, 1, 1] == 1).all() and images[1, :, 2, 3] == pytest.approx(0.6)
    assert images[0, :, 0, 0] == pytest.approx(0.2)


def test_stripes_vary_across_their_direction_alone() -> None:
    upright, level = digits.stripes(RandomState(0), np.array([0.0, np.pi / 2]), 24)
    assert upright.std(axis=1).max() < 1e-6 < upright.std(axis=2).min()
    assert level.std(axis=2).max() < 1e-6 < level.std(axis=1).min()


def test_stripes_are_the_formula() -> None:
    made = digits.stripes(RandomState(3), np.array([0.7]), 9)[0]
    rng = RandomState(3)
    frequency, phases = rng.uniform(0.3, 1.0), rng.uniform(0, 2 * np.pi, size=3)
    for channel, row, column in [(0, 0, 0), (1, 4, 2), (2, 8, 7)]:
        wave = np.sin(frequency * (column * np.cos(0.7) + row * np.sin(0.7)) + phases[channel])
        assert made[channel, row, column] == pytest.approx(0.9 * (0.5 + 0.5 * wave), abs=1e-6)


def test_hues_go_round_the_colour_circle() -> None:
    red, green, blue, red_again = digits.hues(np.array([0, 1 / 3, 2 / 3, 1]), 2)[:, :, 0, 0]
    assert [int(np.argmax(colour)) for colour in (red, green, blue)] == [0, 1, 2]
    assert red == pytest.approx(red_again, abs=1e-6)


def test_every_background_is_float32_in_range_and_repeats_with_its_seed() -> None:
    def make(seed: int) -> list[np.ndarray]:
        rng = RandomState(seed)
        return [
            digits.stripes(rng, rng.uniform(0, np.pi, size=20), 36),
            digits.hues(rng.uniform(size=20), 36),
            digits.plain_colours(rng, 20, 36),
            digits.photo_crops(rng, 20, 36),
        ]

    np.random.seed(1)
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    first, other = make(0), make(1)
    np.random.seed(2)
    for one, two, different in zip(first, make(0), other, strict=True):
        assert one.shape == (20, 3, 36, 36) and one.dtype == np.float32
        assert one.min() >= 0 and one.max() <= 0.9 + 1e-6
        assert (one == two).all() and (one != different).any()
    np.random.seed(1)
    assert (np.random.get_state()[1] == before).all()  # type: ignore[index]


def test_plain_backgrounds_are_plain_and_photographs_are_not() -> None:
    assert digits.plain_colours(RandomState(0), 5, 8).std(axis=(2, 3)).max() < 1e-6
    crops = digits.photo_crops(RandomState(0), 30, 36)
    assert len({crop.tobytes() for crop in crops}) > 25
    assert (crops.std(axis=(2, 3)) > 0.01).mean() > 0.5


def test_the_files_are_read_as_scikit_learn_reads_them():
    from sklearn import datasets

    bundle = datasets.load_digits()
    images, labels = digits.load_digits()
    np.testing.assert_array_equal(images, (bundle.images / 16).astype(np.float32))
    np.testing.assert_array_equal(labels, bundle.target)
    assert tuple(Path(name).name for name in datasets.load_sample_images().filenames) == digits.PHOTOS
