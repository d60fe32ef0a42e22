"""The cache of packs of decoded images: a folder of limited size, shared by any number of processes.

If a pack cannot be cached, one sentence on stderr says so, and images are decoded at every use.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import platformdirs

from cim_dg.images import lazy_pack as lazy
from cim_dg.images import pack as image_pack
from cim_dg.images.lazy_pack import LazyPack
from cim_dg.images.pack import Damaged, Pack
from cim_dg.runtime import locks, settings

FOLDER, LIMIT = "CIM_DG_CACHE", "CIM_DG_CACHE_GB"
GB = 10**9
PATIENCE, SILENCE = 300.0, 10.0
"""Seconds to wait without progress for a process that writes a pack, and seconds before a wait is reported."""
SUFFIX, LAZY_SUFFIX = ".pack", ".lazy"
TEMPORARY = Path("/var/tmp")


def image_cache() -> ImageCache | None:
    """The cache in $CIM_DG_CACHE or `default_folder`; None if CIM_DG_CACHE=0.

    Raises:
        UserError: CIM_DG_CACHE_GB is not a number, or negative.
    """
    folder, limit = settings.get(FOLDER), settings.get(LIMIT)
    if folder == "0":
        return None
    return ImageCache(Path(folder) if folder else default_folder(limit), limit)


def default_folder(limit: float) -> Path:
    """Where the cache is if nobody says so.

    That is the user's cache folder ($XDG_CACHE_HOME, or ~/.cache on Linux) if that is set or has a cache already. A
    home may be small, on a cluster above all, where its limit is often not that of its disk: so next comes a folder of
    $SCRATCH, a variable that many clusters set; then the user's cache folder if its disk has `limit` gigabytes; and
    then a folder of /var/tmp, on the disk of this machine, unless it is another user's.
    """
    home = platformdirs.user_cache_path("cim-dg") / "images"
    if os.environ.get("XDG_CACHE_HOME") or home.is_dir():
        return home
    if scratch := os.environ.get("SCRATCH"):
        return Path(scratch) / "cim-dg" / "images"
    local = TEMPORARY / f"cim-dg-{os.getuid()}"
    small = _free(home) < limit * GB
    return local / "images" if small and (not local.exists() or local.stat().st_uid == os.getuid()) else home


def _free(folder: Path) -> int:
    """The bytes that are free on the disk of a folder, which need not be there yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


class ImageCache:
    """Packs in `folder`, of at most `limit` gigabytes (10^9 bytes) in total."""

    def __init__(self, folder: Path, limit: float) -> None:
        self.folder = folder
        self.limit = limit
        self._closed = False  # whether a new pack could not be cached, so that no more are tried

    def pack(
        self,
        label: str,
        key: str,
        count: int,
        num_bytes: Callable[[], int],
        images: Callable[[], Iterable[np.ndarray]],
        suspect: int | None = None,
    ) -> Pack | None:
        """The pack of a key; None if it cannot be cached. One process writes a missing pack while the others wait.

        Args:
            label: a readable name, used in the file's name.
            key: identifies the content: packs with the same key have the same images.
            count, num_bytes, images: the number of images, their total size in bytes, and the images.
            suspect: the index of an image that was damaged when read. The pack is written again if it still is.
        """
        path = self._path(label, key, SUFFIX)
        try:
            if suspect is None and (pack := _intact(path, suspect)):
                return pack
        except (OSError, Damaged):
            pass  # tried again under the lock, which handles it
        if self._closed:
            return None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with locks.wait_for(path.with_suffix(".lock"), PATIENCE, waiting=_Waiting(self.folder, path, label)):
                try:
                    if pack := _intact(path, suspect):
                        return pack
                except Damaged as error:
                    _warn(f"the cache file {path} is damaged, {error}; it is made again")
                    path.unlink()
                for abandoned in self.folder.glob(f".{path.name}.*"):
                    abandoned.unlink()  # its writer is dead, because it held this lock
                if self._has_room(label, num_bytes()):
                    image_pack.write(path, images(), count)
                    return Pack(path)
        except (OSError, locks.NoLocks) as error:
            self._refuse(label, error)
        return None

    def lazy_pack(self, label: str, key: str, count: int, shape: tuple[int, ...]) -> LazyPack | None:
        """The lazy pack of a key; None if it cannot be cached. Its whole size counts from the start.

        Args:
            label, key: as in `pack`.
            count, shape: the number of images, and the shape of each.
        """
        path, size = self._path(label, key, LAZY_SUFFIX), lazy.size(count, shape)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with locks.wait_for(path.with_suffix(".lock"), PATIENCE):
                if not path.exists() or path.stat().st_size != size:
                    path.unlink(missing_ok=True)
                    if not self._has_room(label, size):
                        return None
                    lazy.create(path, count, shape)
            return LazyPack(path, count, shape)
        except (OSError, locks.NoLocks) as error:
            self._refuse(label, error)
        return None

    def keep(self, pack: LazyPack, index: int, image: np.ndarray, source: bytes) -> None:
        """Write an image into a lazy pack. After a failure, which one sentence reports, no more are written."""
        if self._closed:
            return
        try:
            pack.write(index, image, source)
        except OSError as error:
            self._refuse(pack.path.stem, error)

    def _path(self, label: str, key: str, suffix: str) -> Path:
        return self.folder / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', label)}-{key}{suffix}"

    def _refuse(self, label: str, error: Exception) -> None:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        self._close(f"the decoded images of {label} cannot be kept in {self.folder} ({reason})")

    def _has_room(self, label: str, needed: int) -> bool:
        used = sum(_size(entry) for entry in os.scandir(self.folder))
        free = shutil.disk_usage(self.folder).free
        if used + needed > self.limit * GB:
            self._close(
                f"with the decoded images of {label} ({needed / GB:.1f} GB) the cache {self.folder} would have "
                f"{(used + needed) / GB:.1f} GB, more than {LIMIT} allows ({self.limit:g})"
            )
        elif needed > free:
            self._close(
                f"the disk of {self.folder} is full: the decoded images of {label} need {needed / GB:.1f} GB, "
                f"and {free / GB:.1f} GB are free"
            )
        return not self._closed

    def _close(self, reason: str) -> None:
        if self._closed:  # by another thread
            return
        self._closed = True
        _warn(f"{reason}; they are decoded at every use, which is slower and changes no result")


class _Waiting:
    """Reports once that this process waits for another, and whether that one has written since the last call."""

    def __init__(self, folder: Path, path: Path, label: str) -> None:
        self._folder, self._path, self._label = folder, path, label
        self._reported, self._size = False, -1

    def __call__(self, seconds: float) -> bool:
        if seconds >= SILENCE and not self._reported:
            self._reported = True
            _warn(f"waiting for another process that decodes the images of {self._label} into {self._path}")
        before = self._size
        self._size = sum(_size(part) for part in self._folder.glob(f".{self._path.name}.*"))
        return self._size != before


def _size(entry: os.DirEntry[str] | Path) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:  # another process has just finished it
        return 0


def _intact(path: Path, suspect: int | None) -> Pack | None:
    """The pack at `path`, checked at image `suspect`; None if there is no such file."""
    try:
        pack = Pack(path)
    except FileNotFoundError:
        return None
    if suspect is not None:
        pack[suspect]
    return pack


def _warn(sentence: str) -> None:
    print(f"cim-dg: {sentence}", file=sys.stderr)
