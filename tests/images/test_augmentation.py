"""The augmentation has the distribution of DomainBed's pipeline of torchvision, and does what torchvision does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional

from cim_dg.images import augmentation
from cim_dg.images.augmentation import Colours

DRAWS = 4000
QUANTILES = np.linspace(0.02, 0.98, 25)


def photograph(height: int, width: int) -> np.ndarray:
    """Smooth colours with noise on them."""
    rng = np.random.RandomState(0)
    small = Image.fromarray(rng.randint(256, size=(7, 9, 3)).astype(np.uint8))
    smooth = np.asarray(small.resize((width, height))).astype(int)
    return (smooth + rng.randint(-9, 10, size=smooth.shape)).clip(0, 255).astype(np.uint8)


def draws(height: int, width: int, count: int = DRAWS, seed: int = 0) -> augmentation.Draws:
    return augmentation.draw(np.tile([height, width], (count, 1)), seed)


@pytest.mark.parametrize("size", [(227, 227), (333, 500), (150, 200)])
def test_boxes_are_distributed_as_torchvisions(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    image = torch.empty(3, *size)
    theirs = np.array(
        [transforms.RandomResizedCrop.get_params(image, [0.7, 1.0], [3 / 4, 4 / 3]) for _ in range(DRAWS)]
    )
    ours = draws(*size).boxes
    assert (ours[:, :2] >= 0).all() and (ours[:, 2:] >= 1).all()
    assert (ours[:, :2] + ours[:, 2:] <= size).all()
    for column in range(4):
        one, other = (np.quantile(boxes[:, column], QUANTILES) for boxes in (ours, theirs))
        np.testing.assert_allclose(one, other, atol=0.02 * max(size))
    assert np.corrcoef(ours.T) == pytest.approx(np.corrcoef(theirs.T), abs=0.08)


@pytest.mark.parametrize("size", [(40, 200), (200, 40), (1, 1), (3, 100)])
def test_an_image_that_holds_no_drawn_box_gives_its_middle(size: tuple[int, int]) -> None:
    theirs = transforms.RandomResizedCrop.get_params(torch.empty(3, *size), [0.7, 1.0], [3 / 4, 4 / 3])
    assert (draws(*size, count=20).boxes == theirs).all()


def test_every_parameter_is_drawn_for_every_image() -> None:
    drawn = draws(300, 300)
    factors = drawn.colours.factors.numpy()
    centres = np.array([1, 1, 1, 0])
    uniform = np.linspace(-0.3, 0.3, 25 + 2)[1:-1]
    quantiles = np.quantile(factors - centres, np.linspace(0, 1, 25 + 2)[1:-1], axis=0)
    np.testing.assert_allclose(quantiles, np.tile(uniform[:, None], 4), atol=0.02)
    assert np.abs(factors - centres).max() <= 0.3 + 1e-6
    assert drawn.flips.mean() == pytest.approx(0.5, abs=0.03)
    assert drawn.colours.grey.float().mean().item() == pytest.approx(0.1, abs=0.02)
    orders, counts = np.unique(drawn.colours.order.numpy(), axis=0, return_counts=True)
    assert len(orders) == 24 and (np.sort(orders, axis=1) == np.arange(4)).all()
    assert counts.min() > 0.6 * DRAWS / 24 and counts.max() < 1.4 * DRAWS / 24
    everything = np.column_stack([drawn.boxes, drawn.flips, drawn.colours.order, factors, drawn.colours.grey])
    assert len(np.unique(factors)) > 0.99 * factors.size, "parameters are shared"
    assert abs(np.corrcoef(everything[:, [0, 4, 9, 10, 11, 12, 13]].T) - np.eye(7)).max() < 0.08


def test_draws_depend_on_the_seed_alone() -> None:
    one, same, other = draws(300, 300), draws(300, 300), draws(300, 300, seed=1)
    assert np.array_equal(one.boxes, same.boxes) and torch.equal(one.colours.factors, same.colours.factors)
    assert not np.array_equal(one.boxes, other.boxes)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("size", "box"), [((260, 300), (10, 20, 200, 180)), ((227, 227), (0, 0, 227, 227))])
def test_a_crop_is_that_of_pillow(size: tuple[int, int], box: tuple[int, int, int, int], flip: bool) -> None:
    image = photograph(*size)
    expected = functional.resized_crop(Image.fromarray(image), *box, [224, 224])
    expected = np.asarray(functional.hflip(expected) if flip else expected).astype(int)
    image.setflags(write=False)
    ours = augmentation.crop(image, np.array(box), flip)
    assert ours.dtype == torch.uint8 and ours.is_contiguous()
    assert np.abs(ours.permute(1, 2, 0).numpy() - expected).max() <= 1


def test_colours_are_changed_as_by_torchvision_one_image_at_a_time_or_all_together() -> None:
    count = 24
    images = torch.from_numpy(photograph(count * 32, 32)).view(count, 32, 32, 3).permute(0, 3, 1, 2).contiguous()
    colours = draws(32, 32, count).colours
    together = augmentation.recolour(images, colours)
    apart = torch.cat([augmentation.recolour(images[i : i + 1], colours[i : i + 1]) for i in range(count)])
    assert torch.equal(together, apart) and together.dtype == torch.uint8
    operations = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    )
    for image, ours, order, factors, grey in zip(
        images, together, colours.order, colours.factors, colours.grey, strict=True
    ):
        exact, pillow = image / 255, functional.to_pil_image(image)
        for which in order.tolist():
            exact, pillow = (operations[which](one, factors[which].item()) for one in (exact, pillow))
        if grey:
            exact, pillow = (functional.rgb_to_grayscale(one, 3) for one in (exact, pillow))
        assert (ours / 255 - exact).abs().max() <= 1 / 255
        # Pillow rounds after each operation, and turns the hue on 256 hues and saturations.
        difference = np.abs(ours.permute(1, 2, 0).numpy() - np.asarray(pillow).astype(int))
        assert difference.mean() < 3 and difference.max() < 30
    assert colours.grey.any() and not torch.equal(images, together)


def test_the_whole_has_the_means_and_spreads_of_torchvisions_pipeline() -> None:
    image, count = photograph(90, 120), 250
    torch.manual_seed(0)
    pipeline = transforms.Compose(
        [
            transforms.RandomResizedCrop(224, scale=(0.7, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(0.3, 0.3, 0.3, 0.3),
            transforms.RandomGrayscale(),
            transforms.ToTensor(),
        ]
    )
    pillow = Image.fromarray(image)
    drawn = draws(90, 120, count)
    crops = torch.stack([augmentation.crop(image, *one) for one in zip(drawn.boxes, drawn.flips, strict=True)])
    # Channel means of the four quarters, and the grey value's spread: (count, 12 + 1)
    theirs, ours = (
        np.array([statistics_of(one) for one in images])
        for images in (
            (pipeline(pillow) for _ in range(count)),
            (augmentation.recolour(crops[i : i + 1], drawn.colours[i : i + 1])[0] / 255 for i in range(count)),
        )
    )
    np.testing.assert_allclose(ours.mean(axis=0), theirs.mean(axis=0), atol=0.04)
    np.testing.assert_allclose(ours.std(axis=0), theirs.std(axis=0), atol=0.03)
    quantiles = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(np.quantile(ours, quantiles, axis=0), np.quantile(theirs, quantiles, axis=0), atol=0.08)


def statistics_of(image: torch.Tensor) -> list[float]:
    quarters = image.view(3, 2, 112, 2, 112).mean(dim=(2, 4))
    return [*quarters.flatten().tolist(), image.mean(dim=0).std().item()]


def test_no_image_is_no_problem() -> None:
    colours = Colours(torch.zeros(0, 4, dtype=torch.int64), torch.zeros(0, 4), torch.zeros(0, dtype=torch.bool))
    assert augmentation.recolour(torch.zeros(0, 3, 224, 224, dtype=torch.uint8), colours).shape == (0, 3, 224, 224)
