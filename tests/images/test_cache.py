"""The image cache keeps to its limits, shares its folder with other processes, and never makes a run fail."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import multiprocessing
import os
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cim_dg.errors import UserError
from cim_dg.images import cache as image_cache
from cim_dg.images import pack as image_pack
from cim_dg.images.cache import ImageCache
from cim_dg.runtime import locks

IMAGES = np.arange(4 * 10 * 8 * 3).reshape(4, 10, 8, 3).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "images"


def ask(cache: ImageCache, key: str = "key", made: list[str] | None = None, suspect: int | None = None) -> Any:
    """The pack of `IMAGES` under that key; `made` gets the key if it is made."""

    def images() -> Iterator[np.ndarray]:
        if made is not None:
            made.append(key)
        yield from IMAGES

    return cache.pack("a b/c", key, len(IMAGES), lambda: IMAGES.nbytes, images, suspect)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_pack_is_made_once(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made: list[str] = []
    for _ in range(2):
        for key in ("one", "two"):
            assert np.array_equal(ask(ImageCache(folder, 1), key, made)[2], IMAGES[2])
    assert made == ["one", "two"]
    assert files(folder) == ["a_b_c-one.pack", "a_b_c-two.pack"]
    assert capfd.readouterr().err == ""


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CIM_DG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = image_cache.image_cache()
    assert cache is not None and (cache.folder, cache.limit) == (tmp_path / "cim-dg" / "images", 20)
    monkeypatch.setenv("CIM_DG_CACHE", "elsewhere")
    monkeypatch.setenv("CIM_DG_CACHE_GB", "1.5")
    cache = image_cache.image_cache()
    assert cache is not None and (cache.folder, cache.limit) == (Path("elsewhere"), 1.5)
    monkeypatch.setenv("CIM_DG_CACHE", "0")
    assert image_cache.image_cache() is None


def test_where_it_is_if_a_home_is_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home, local = tmp_path / "home", tmp_path / f"cim-dg-{os.getuid()}"
    monkeypatch.setattr(image_cache.platformdirs, "user_cache_path", lambda name: home / name)
    monkeypatch.setattr(image_cache, "TEMPORARY", tmp_path)
    for name in ("XDG_CACHE_HOME", "SCRATCH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(image_cache, "_free", lambda folder: 19 * 10**9)
    assert image_cache.default_folder(19) == home / "cim-dg" / "images"
    assert image_cache.default_folder(20) == local / "images"
    local.mkdir()
    assert image_cache.default_folder(20) == local / "images"
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: local.stat().st_uid + 1)
        (tmp_path / f"cim-dg-{os.getuid()}").mkdir()  # of somebody else
        assert image_cache.default_folder(20) == home / "cim-dg" / "images"
    monkeypatch.setenv("SCRATCH", "/scratch")
    assert image_cache.default_folder(1) == Path("/scratch/cim-dg/images")
    (home / "cim-dg" / "images").mkdir(parents=True)
    assert image_cache.default_folder(20) == home / "cim-dg" / "images"


def test_the_free_space_is_that_of_the_disk_on_which_a_folder_will_be(tmp_path: Path) -> None:
    assert image_cache._free(tmp_path / "no" / "such") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)


@pytest.mark.parametrize("value", ["much", "-1", "nan"])
def test_a_limit_that_is_none(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIM_DG_CACHE_GB", value)
    with pytest.raises(UserError, match=f"CIM_DG_CACHE_GB is '{value}'; accepted is a number of gigabytes"):
        image_cache.image_cache()


def complaint(capfd: pytest.CaptureFixture[str]) -> str:
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and err.startswith("cim-dg: "), err
    return err


def test_over_the_limit_nothing_is_kept_and_one_sentence_says_so(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cache = ImageCache(folder, 1.5 * (IMAGES.nbytes + 80) / 1e9)
    assert ask(cache, "one") is not None
    assert ask(cache, "two") is None and ask(cache, "three") is None
    assert "more than CIM_DG_CACHE_GB allows" in complaint(capfd)
    assert ask(cache, "one") is not None, "what is there is not used any more"
    assert files(folder) == ["a_b_c-one.pack"]


@contextlib.contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_while_a_pack_is_written(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cache, made = ImageCache(folder, 1), list[str]()
    with files_of_at_most(500):
        assert ask(cache, "one", made) is None and ask(cache, "two", made) is None
    assert "cannot be kept in" in (said := complaint(capfd)) and "File too large" in said
    assert "decoded at every use" in said
    assert made == ["one"] and files(folder) == [], "something was left"
    assert ask(ImageCache(folder, 1), "one") is not None, "with room again, it is not made"


def test_a_disk_without_room_is_not_filled(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 0))
    made: list[str] = []
    assert ask(ImageCache(folder, 1), made=made) is None
    assert f"the disk of {folder} is full" in complaint(capfd) and made == []


def test_a_folder_that_cannot_be_made(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert ask(ImageCache(tmp_path / "file" / "images", 1)) is None
    assert "(Not a directory)" in complaint(capfd)


def test_without_locks_there_is_no_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def no_locks(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert ask(ImageCache(folder, 1)) is None
    assert "No locks available" in complaint(capfd)


@pytest.mark.parametrize("kept", [0, 50, 1000])
def test_a_truncated_file_is_made_again(folder: Path, kept: int, capfd: pytest.CaptureFixture[str]) -> None:
    path = ask(ImageCache(folder, 1)).path
    path.write_bytes(path.read_bytes()[:kept])
    made: list[str] = []
    pack = ask(ImageCache(folder, 1), made=made)
    assert all(map(np.array_equal, [pack[index] for index in range(4)], IMAGES)) and made == ["key"]
    assert f"the cache file {path} is damaged" in complaint(capfd)


def test_a_file_with_a_damaged_image_is_made_again_once(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = ask(ImageCache(folder, 1)).path
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    made: list[str] = []
    first, second = ImageCache(folder, 1), ImageCache(folder, 1)
    with pytest.raises(image_pack.Damaged):
        ask(first, made=made)[3]
    for cache in (first, second):  # two processes that both came upon it
        assert np.array_equal(ask(cache, made=made, suspect=3)[3], IMAGES[3])
    assert made == ["key"]
    assert "image 3 is not what its checksum tells; it is made again" in complaint(capfd)


def make_slowly(folder: Path, made: Any) -> None:
    def images() -> Iterator[np.ndarray]:
        made.value += 1
        for image in IMAGES:
            time.sleep(0.05)
            yield image

    pack = ImageCache(folder, 1).pack("a", "key", len(IMAGES), lambda: IMAGES.nbytes, images)
    assert pack is not None and np.array_equal(pack[3], IMAGES[3])


def test_of_processes_that_start_at_once_one_makes_a_pack(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    made = context.Value("i", 0)
    started = [context.Process(target=make_slowly, args=(folder, made)) for _ in range(3)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0, 0] and made.value == 1


def test_what_a_killed_process_left_is_removed(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    made = context.Value("i", 0)
    killed = context.Process(target=make_slowly, args=(folder, made))
    killed.start()
    while not made.value:
        time.sleep(0.01)
    assert killed.pid is not None
    killed.kill()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    (left,) = files(folder)
    assert left.startswith(".a-key.pack.")
    make_slowly(folder, made)
    assert files(folder) == ["a-key.pack"]


def test_the_wait_for_another_process_is_announced_and_has_an_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It makes no progress: its machine has stopped, say, or its disk hangs."""
    monkeypatch.setattr(image_cache, "PATIENCE", 1.5)
    monkeypatch.setattr(image_cache, "SILENCE", 0.4)
    folder.mkdir(parents=True)
    made: list[str] = []
    with locks.wait_for(folder / "a_b_c-key.lock", 0):
        assert ask(ImageCache(folder, 1), made=made) is None
    waiting, given_up = capfd.readouterr().err.splitlines()
    assert waiting.startswith("cim-dg: waiting for another process that decodes the images of a b/c into ")
    assert "(another process holds the lock); they are decoded at every use" in given_up
    assert made == []
    assert ask(ImageCache(folder, 1)) is not None
