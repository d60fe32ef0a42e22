"""Lazy packs give back what was written of the same source, keep to the limits, and take any number of writers."""

from __future__ import annotations

import multiprocessing
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import transforms

from cim_dg.images import lazy_pack as lazy
from cim_dg.images.cache import ImageCache
from cim_dg.images.lazy_pack import LazyPack
from cim_dg.images.levels import normalise
from cim_dg.nn.pixels import NAMED

SHAPE = (3, 5, 4)
IMAGES = np.random.RandomState(0).randint(256, size=(6, *SHAPE)).astype(np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of a lazy pack with images 1 and 3."""
    lazy.create(tmp_path / "a.lazy", len(IMAGES), SHAPE)
    pack = opened(tmp_path / "a.lazy")
    for index in (3, 1):
        pack.write(index, IMAGES[index], source(index))
    return tmp_path / "a.lazy"


def opened(path: Path) -> LazyPack:
    return LazyPack(path, len(IMAGES), SHAPE)


def source(index: int) -> bytes:
    return f"file {index}".encode()


def there(pack: LazyPack) -> list[int]:
    """The images that it has, which are compared."""
    read = {index: pack.read(index, lambda index=index: source(index)) for index in range(len(IMAGES))}  # type: ignore[misc]
    kept = {index: image for index, image in read.items() if image is not None}
    assert all(np.array_equal(image, IMAGES[index]) for index, image in kept.items())
    return list(kept)


def test_what_was_written_is_read_as_often_as_it_is_asked_for(path: Path) -> None:
    pack = opened(path)
    assert there(pack) == there(pack) == [1, 3]
    opened(path).write(0, IMAGES[0], source(0))  # by another process
    assert there(pack) == [0, 1, 3]
    image = pack.read(0, lambda: source(0))
    assert image is not None
    with pytest.raises(ValueError, match="read-only"):
        image[0] = 0


def test_the_image_of_a_file_that_has_changed_is_not_read(path: Path) -> None:
    assert opened(path).read(1, lambda: b"another") is None
    opened(path).write(1, IMAGES[2], b"another")
    image = opened(path).read(1, lambda: b"another")
    assert image is not None and np.array_equal(image, IMAGES[2])


def test_a_damaged_image_is_not_read_wherever_the_damage_is(path: Path) -> None:
    content = path.read_bytes()
    row = len(content) // len(IMAGES)
    for place in range(row, 2 * row):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        assert there(opened(path)) == [3], f"byte {place}"
    path.write_bytes(content[: 2 * row - 1])
    assert there(opened(path)) == []


def test_an_image_that_takes_no_room_on_the_disk_is_not_there(tmp_path: Path) -> None:
    lazy.create(tmp_path / "a.lazy", 1000, (3, 100, 100))
    assert (tmp_path / "a.lazy").stat().st_blocks * 512 < 100_000 < lazy.size(1000, (3, 100, 100))
    assert LazyPack(tmp_path / "a.lazy", 1000, (3, 100, 100)).read(999, lambda: b"") is None


def test_all_of_a_pack_counts_for_the_limit(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cache = ImageCache(tmp_path, 1.5 * lazy.size(len(IMAGES), SHAPE) / 1e9)
    for _ in range(2):
        assert cache.lazy_pack("a b", "one", len(IMAGES), SHAPE) is not None
    assert cache.lazy_pack("a b", "two", len(IMAGES), SHAPE) is None
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "more than CIM_DG_CACHE_GB allows" in err
    assert [path.name for path in tmp_path.glob("*.lazy")] == ["a_b-one.lazy"]


def test_a_file_of_another_size_is_made_again(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path, 1)
    pack = cache.lazy_pack("a", "one", len(IMAGES), SHAPE)
    assert pack is not None
    pack.path.write_bytes(b"cut short")
    pack = cache.lazy_pack("a", "one", len(IMAGES), SHAPE)
    assert pack is not None and there(pack) == []
    cache.keep(pack, 2, IMAGES[2], source(2))
    assert there(pack) == [2]


def test_a_disk_that_fills_is_told_of_once_and_what_was_kept_is_read(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cache, shape = ImageCache(tmp_path, 1), (3, 30, 30)
    pack = cache.lazy_pack("a", "one", 6, shape)
    assert pack is not None
    images = np.random.RandomState(0).randint(256, size=(6, *shape)).astype(np.uint8)
    cache.keep(pack, 0, images[0], source(0))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # in the fourth image
    try:
        for index in (3, 4, 5):
            cache.keep(pack, index, images[index], source(index))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "cannot be kept in" in err and "they are decoded at every use" in err
    kept = LazyPack(pack.path, 6, shape)
    image = kept.read(0, lambda: source(0))
    assert image is not None and np.array_equal(image, images[0])
    assert kept.read(3, lambda: source(3)) is None and kept.read(5, lambda: source(5)) is None


def test_a_folder_that_cannot_be_made(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert ImageCache(tmp_path / "file" / "images", 1).lazy_pack("a", "one", 1, SHAPE) is None
    assert "(Not a directory)" in capfd.readouterr().err


def fill(folder: Path, barrier: object) -> None:
    cache = ImageCache(folder, 1)
    barrier.wait()  # type: ignore[attr-defined]
    pack = cache.lazy_pack("a", "one", len(IMAGES), SHAPE)
    assert pack is not None
    for _ in range(20):
        for index, image in enumerate(IMAGES):
            cache.keep(pack, index, image, source(index))
            assert index in there(opened(pack.path))


def test_processes_that_write_the_same_images_at_once_do_no_harm(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    started = [context.Process(target=fill, args=(tmp_path, barrier)) for _ in range(3)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0, 0]


@pytest.mark.parametrize("space", ["imagenet", "unit"])
def test_images_are_normalised_as_by_torchvision_to_the_bit(space: str) -> None:
    mean, std = NAMED[space] if space == "imagenet" else ((0.0,) * 3, (1.0,) * 3)
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16).repeat(3, axis=0)
    out = np.empty(pixels.shape, dtype=np.float32)
    by_channel = np.array([mean, std], dtype=np.float32).reshape(2, 3, 1, 1)
    normalise(pixels, by_channel[0], by_channel[1], out)
    expected = transforms.ToTensor()(pixels.transpose(1, 2, 0))
    if space == "imagenet":
        expected = transforms.Normalize(mean, std)(expected)
    assert torch.equal(torch.from_numpy(out), expected)
