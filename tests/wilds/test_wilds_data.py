from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional as TF

from cim_dg.errors import UserError
from cim_dg.wilds.config import make_config
from cim_dg.wilds.data import ClassMates, load_data
from cim_dg.wilds.transforms import Standardize, make_transform, pixel_space


def picture(height: int = 20, width: int = 16) -> Image.Image:
    pixels = np.random.RandomState(0).randint(0, 256, size=(height, width, 3)).astype(np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("name", ["image_base", "image_resize", "image_resize_and_center_crop"])
def test_natural_images_go_back_to_their_pixels(name: str) -> None:
    transform = make_transform(name, (16, 20), (12, 12), 1.25, training=False)
    x = transform(picture())
    assert x.shape == (3, *((20, 25) if name == "image_resize" else (12, 12)))
    pixels = pixel_space(name).to_pixels(x[None])[0]
    assert pixels.min() >= -1e-6 and pixels.max() <= 1 + 1e-6
    if name == "image_base":
        expected = TF.to_tensor(TF.resize(TF.center_crop(picture(), [16]), [12, 12]))
        torch.testing.assert_close(pixels, expected)


def test_rxrx1_keeps_pixels_and_the_network_sees_standardised_images() -> None:
    """As WILDS: mean 0 and standard deviation 1 per image and channel, a constant channel being left at 0."""
    image = np.array(picture())
    image[:, :, 2] = 7
    x = make_transform("rxrx1", None, None, None, training=False)(Image.fromarray(image))[None]
    torch.testing.assert_close(pixel_space("rxrx1").to_pixels(x), torch.tensor(image).permute(2, 0, 1)[None] / 255)
    seen = Standardize()(x)[0]
    for channel in range(2):
        pixels = x[0, channel]
        torch.testing.assert_close(seen[channel], (pixels - pixels.mean()) / pixels.std())
    assert seen[2].abs().max() == 0


def test_rxrx1_training_images_are_only_turned_and_mirrored() -> None:
    transform = make_transform("rxrx1", None, None, None, training=True)
    square = picture(16, 16)
    pixels = TF.to_tensor(square)
    expected = [torch.rot90(f, k, (1, 2)) for f in (pixels, pixels.flip(2)) for k in range(4)]
    drawn = [transform(square) for _ in range(60)]
    seen = {next(i for i, e in enumerate(expected) if torch.equal(x, e)) for x in drawn}
    assert len(seen) > 4


def test_random_images_are_those_of_torchvisions_transforms_to_the_bit() -> None:
    to_network = [transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    crop = transforms.Compose([transforms.RandomResizedCrop([12, 14]), transforms.RandomHorizontalFlip(), *to_network])

    def turn(image: Image.Image) -> torch.Tensor:
        image = TF.rotate(image, 90 * int(torch.randint(4, ())))
        return transforms.ToTensor()(transforms.RandomHorizontalFlip()(image))

    for name, expected in (("imagenet", crop), ("rxrx1", turn)):
        transform = make_transform(name, None, [12, 14], None, training=True)
        drawn = []
        for one in (transform, expected):
            torch.manual_seed(0)
            drawn.append([*(one(picture(side, 18)) for side in (18, 24, 90)), torch.get_rng_state()])
        assert all(map(torch.equal, *drawn))


def test_class_mates_bring_a_positive_to_every_image_that_can_have_one() -> None:
    labels = torch.tensor([0] * 40 + [1] * 7 + [2] * 2 + [3])
    batches = list(ClassMates(labels, batch_size=8, per_class=2))
    assert len(batches) == 6
    for batch in batches:
        assert len(batch) <= 8
        leads, at = [], 0
        while at < len(batch):
            leads.append(batch[at])
            if labels[batch[at]] == 3:  # alone in its class
                at += 1
                continue
            assert labels[batch[at]] == labels[batch[at + 1]] and batch[at] != batch[at + 1]
            at += 2
        assert len(set(leads)) == 4


def test_class_mates_keep_the_frequencies_of_the_classes() -> None:
    labels = torch.tensor([0] * 900 + [1] * 100)
    drawn = torch.tensor([i for _ in range(20) for b in ClassMates(labels, 20, 4) for i in b])
    assert float(labels[drawn].float().mean()) == pytest.approx(0.1, abs=0.02)


def test_evaluation_loaders_draw_nothing_from_the_global_stream(small_root: Path) -> None:
    config = make_config(
        {"dataset": "waterbirds", "algorithm": "ERM", "root_dir": str(small_root), "loader_kwargs": {"num_workers": 0}}
        | {"target_resolution": [8, 8], "transform": "image_base"}
    )
    data = load_data(config)
    before = torch.get_rng_state()
    assert [len(x) for x, _, _ in data.loaders["val"]] == [16]
    assert torch.equal(before, torch.get_rng_state())


def test_shares_are_those_of_the_whole_training_split(small_root: Path) -> None:
    config = make_config({"dataset": "waterbirds", "algorithm": "ERM", "root_dir": str(small_root), "frac": 0.5})
    data = load_data(config)
    assert data.groups is not None
    names = [data.groups.group_field_str(g) for g in range(4)]
    shares = dict(zip(names, data.train_shares(), strict=True))
    assert shares["y:landbird_background:land"] == pytest.approx(24 / 48)
    assert shares["y:waterbird_background:water"] == pytest.approx(16 / 48)
    assert len(data.splits["train"]) == 24


def test_a_resolution_that_is_needed_is_asked_for() -> None:
    with pytest.raises(UserError, match="resize_scale"):
        make_transform("image_resize", None, (8, 8), 1.1, training=False)
