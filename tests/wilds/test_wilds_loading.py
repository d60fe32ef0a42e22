"""The loaders give the same batches from the cache as without it, and change nothing else."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small_datasets import MAKERS, save_image, waterbirds
from torch.utils.data import DataLoader
from torchvision import transforms
from wilds.datasets.waterbirds_dataset import WaterbirdsDataset

from cim_dg.errors import UserError
from cim_dg.runtime.seeding import seed_everything
from cim_dg.wilds.config import make_config
from cim_dg.wilds.data import Data, load_data
from cim_dg.wilds.loading import ThreadedLoader


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("CIM_DG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Waterbirds, which a test may change."""
    return waterbirds(tmp_path / "data")


def load(root: Path, dataset: str = "waterbirds", workers: int = 2, **options: Any) -> Data:
    """The splits and loaders; images have 12 pixels unless RxRx1's, and batches 7 images."""
    small = {} if dataset == "rxrx1" else {"transform": "image_base", "target_resolution": [12, 12]}
    given = {"dataset": dataset, "algorithm": "ERM", "root_dir": str(root), "batch_size": 7}
    return load_data(make_config(given | small | {"loader_kwargs": {"num_workers": workers}} | options))


def passes(data: Data, split: str, count: int = 2) -> list[Any]:
    """All batches of `count` passes with the state of the random numbers after each."""
    seed_everything(3)
    seen: list[Any] = []
    for _ in range(count):
        seen += [[item.clone() for item in batch] for batch in data.loaders[split]]
        seen.append([torch.get_rng_state()])
    return seen


def assert_same(one: list[Any], other: list[Any]) -> None:
    assert [len(batch) for batch in one] == [len(batch) for batch in other]
    for batch, expected in zip(one, other, strict=True):
        for item, wanted in zip(batch, expected, strict=True):
            assert item.dtype == wanted.dtype and torch.equal(item, wanted)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("dataset", list(MAKERS))
def test_batches_and_random_numbers_are_those_of_a_loader_without_cache(
    dataset: str, workers: int, small_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [passes(load(small_root, dataset, workers), split) for split in ("train", "val") for _ in range(2)]
    monkeypatch.setenv("CIM_DG_CACHE", "0")
    without = load(small_root, dataset, workers if dataset == "rxrx1" else 0)  # its training images are random
    expected = passes(without, "train"), passes(without, "val")
    for one, other in zip(seen, (expected[0], expected[0], expected[1], expected[1]), strict=True):
        assert_same(one, other)


@pytest.mark.parametrize(
    "options",
    [
        {"images_per_class": 7},
        {"train_loader": "group", "n_groups_per_batch": 1},
        {"loader_kwargs": {"num_workers": 1, "pin_memory": True}},  # which needs a GPU, and changes nothing without
    ],
)
def test_so_are_the_batches_of_other_samplers_and_options(
    options: dict[str, Any], small_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = passes(load(small_root, **options), "train")
    monkeypatch.setenv("CIM_DG_CACHE", "0")
    assert_same(seen, passes(load(small_root, **options | {"loader_kwargs": {"num_workers": 0}}), "train"))


@pytest.mark.parametrize("workers", [0, 2])
def test_random_parts_of_images_of_any_mode_and_size_are_the_same_too(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package does not convert iWildCam's images to RGB: resized, those with a palette are others than in RGB."""
    root = MAKERS["iwildcam"](tmp_path / "data")
    for number, file in enumerate(sorted(root.rglob("*.jpg"))):
        image = Image.open(file)
        if number % 4 == 1:
            image.quantize(16).save(file, format="PNG")
        elif number % 4 == 2:
            image.resize((20, 31)).save(file)
    results = []
    for setting in (os.environ["CIM_DG_CACHE"], os.environ["CIM_DG_CACHE"], "0"):
        monkeypatch.setenv("CIM_DG_CACHE", setting)
        data = load(root, "iwildcam", workers, transform="imagenet")
        assert isinstance(data.loaders["train"], DataLoader) is (setting == "0")
        results.append(passes(data, "train"))
    for result in results[:2]:
        assert_same(result, results[2])


def test_images_are_those_of_wilds_own_transform_to_the_bit(small_root: Path) -> None:
    data = load(small_root, transform="image_resize_and_center_crop", resize_scale=1.25, target_resolution=[20, 24])
    theirs = transforms.Compose(
        [
            transforms.Resize((280, 280)),  # 1.25 times the dataset's nominal 224
            transforms.CenterCrop([20, 24]),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    split = data.splits["test"]
    files = [Path(split.dataset.data_dir, split.dataset._input_array[index]) for index in split.indices]
    expected = torch.stack([theirs(Image.open(file).convert("RGB")) for file in files])
    for _ in range(2):
        assert torch.equal(torch.cat([x for x, _, _ in data.loaders["test"]]), expected)


def test_every_image_is_decoded_once_by_all_processes_together(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    original = WaterbirdsDataset.get_input
    monkeypatch.setattr(WaterbirdsDataset, "get_input", lambda self, i: (decoded.append(i), original(self, i))[1])
    data = load(root)
    first = decoded.copy()  # to know the shape
    for split in data.loaders:
        passes(data, split)
    assert len(first) == 3 and sorted(decoded) == sorted([*first, *range(84)])
    decoded.clear()
    for split in data.loaders:
        passes(load(root), split)
    assert set(decoded) == set(first)


def test_a_file_that_has_changed_is_decoded_again(root: Path) -> None:
    before = passes(load(root), "val", 1)
    changed = root / "waterbirds_v1.0" / "images" / "0050.jpg"
    save_image(changed, 1, 99)
    os.utime(changed, (1, 1))  # its size may be the same
    after = passes(load(root), "val", 1)
    differ = [int((x != y).flatten(1).any(dim=1).sum()) for (x, *_), (y, *_) in zip(before[:-1], after[:-1])]  # noqa: B905
    assert sum(differ) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_file_is_named(root: Path, workers: int) -> None:
    data = load(root, workers=workers)
    (root / "waterbirds_v1.0" / "images" / "0070.jpg").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"image images/0070\.jpg of waterbirds cannot be read"):
        passes(data, "test")
    (root / "waterbirds_v1.0" / "images" / "0070.jpg").unlink()
    with pytest.raises(UserError, match=r"image images/0070\.jpg of waterbirds cannot be read"):
        passes(data, "test")


def test_images_of_another_size_than_the_first_are_used_or_refused_as_without_cache(root: Path) -> None:
    images = root / "waterbirds_v1.0" / "images"
    for number in range(64, 84):  # those of the test split
        save_image(images / f"{number:04d}.jpg", 0, number, side=20)
    options = {"dataset": "waterbirds", "algorithm": "ERM", "root_dir": str(root), "batch_size": 7}
    config = make_config(options | {"loader_kwargs": {"num_workers": 2}}, defaults="digits")
    assert config.target_resolution is None
    data = load_data(config)
    assert {tuple(x.shape[1:]) for x, _, _ in data.loaders["test"]} == {(3, 20, 20)}
    assert {tuple(x.shape[1:]) for x, _, _ in data.loaders["train"]} == {(3, 16, 16)}
    save_image(images / "0066.jpg", 0, 66)
    with pytest.raises(UserError, match="images have different sizes, such as 16 x 16 and 20 x 20"):
        passes(load_data(config), "test")


def test_a_split_for_which_there_is_no_room_is_loaded_as_before(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CIM_DG_CACHE_GB", "0.00001")  # enough for the 16 images of validation
    data = load(root)
    assert {split for split, loader in data.loaders.items() if isinstance(loader, ThreadedLoader)} == {"val"}
    train, test = capfd.readouterr().err.splitlines()
    assert train.startswith("cim-dg: with the decoded images of waterbirds-train-12x12 (0.0 GB) the cache ")
    assert "waterbirds-test-12x12" in test and "decoded at every use" in test
    assert [path.name.partition("-12x12")[0] for path in cache.glob("*.lazy")] == ["waterbirds-val"]
    assert len(passes(data, "test", 1)) == 4


def test_a_pass_that_is_abandoned_leaves_no_thread(small_root: Path) -> None:
    before = threading.active_count()
    batches = iter(load(small_root).loaders["train"])
    next(batches)
    assert threading.active_count() > before
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_a_run_ends_the_same_with_and_without_the_cache(
    train: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--n_epochs", "2", "--loader_kwargs"]
    cached = train("waterbirds", "CIM_VIB", *options, "num_workers=2", log_dir=tmp_path / "cached")
    monkeypatch.setenv("CIM_DG_CACHE", "0")
    without = train("waterbirds", "CIM_VIB", *options, "num_workers=0", log_dir=tmp_path / "without")
    name = "waterbirds_seed:0_epoch:last_model.pth"
    states = [torch.load(folder / name, weights_only=True)["algorithm"] for folder in (cached, without)]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    for table in ("val_eval.csv", "train_eval.csv"):
        assert (cached / table).read_text() == (without / table).read_text()
