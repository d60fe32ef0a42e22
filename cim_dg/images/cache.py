"""Where packs of decoded images are kept: a folder with a limit, which any number of processes fill and read at once.

What cannot be kept is no failure: one sentence on stderr says so, and images are decoded at every use instead.
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

from cim_dg.errors import UserError
from cim_dg.images import pack as image_pack
from cim_dg.images.pack import Damaged, Pack
from cim_dg.runtime import locks, settings

FOLDER, LIMIT = "CIM_DG_CACHE", "CIM_DG_CACHE_GB"
GB = 10**9
PATIENCE, SILENCE = 300.0, 10.0
"""Seconds without progress after which a process that makes a pack is given up, and of waiting without a word."""
SUFFIX = ".pack"


def image_cache() -> ImageCache | None:
    """The cache that the environment asks for: $CIM_DG_CACHE or the user's cache folder; None if CIM_DG_CACHE=0.

    Raises:
        UserError: CIM_DG_CACHE_GB is no number, or negative.
    """
    folder, limit = settings.get(FOLDER), settings.get(LIMIT)
    if folder == "0":
        return None
    return ImageCache(Path(folder) if folder else platformdirs.user_cache_path("cim-dg") / "images", limit)


class ImageCache:
    """Packs in `folder`, all together of at most `limit` gigabytes (10^9 bytes)."""

    def __init__(self, folder: Path, limit: float) -> None:
        self.folder = folder
        self.limit = limit
        self._closed = False  # to packs that are not there yet, after one that could not be made

    def pack(
        self,
        label: str,
        key: str,
        count: int,
        num_bytes: Callable[[], int],
        images: Callable[[], Iterable[np.ndarray]],
        suspect: int | None = None,
    ) -> Pack | None:
        """The pack of that key, made if need be, by one process while others wait; None if it cannot be kept.

        Args:
            label: says in the file's name what it is, for people.
            key: says what is in it: packs of the same key have the same content.
            count, num_bytes, images: how many images it has, how large they are together, and the images.
            suspect: an image that was found damaged. A pack is only good if this one is.
        """
        path = self.folder / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', label)}-{key}{SUFFIX}"
        try:
            if suspect is None and (pack := _whole(path, suspect)):
                return pack
        except (OSError, Damaged):
            pass  # the same again under the lock, where it can be dealt with
        if self._closed:
            return None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with locks.wait_for(path.with_suffix(".lock"), PATIENCE, waiting=_Waiting(self.folder, path, label)):
                try:
                    if pack := _whole(path, suspect):
                        return pack
                except Damaged as error:
                    _say(f"the cache file {path} is damaged, {error}; it is made again")
                    path.unlink()
                for abandoned in self.folder.glob(f".{path.name}.*"):
                    abandoned.unlink()  # who wrote it is dead: it was written under this lock
                if self._has_room(label, num_bytes()):
                    image_pack.write(path, images(), count)
                    return Pack(path)
        except (OSError, UserError) as error:  # the latter from file systems without locks
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            self._close(f"the decoded images of {label} cannot be kept in {self.folder} ({reason})")
        return None

    def _has_room(self, label: str, needed: int) -> bool:
        held = sum(_size(entry) for entry in os.scandir(self.folder))
        free = shutil.disk_usage(self.folder).free
        if held + needed > self.limit * GB:
            self._close(
                f"with the decoded images of {label} ({needed / GB:.1f} GB) the cache {self.folder} would have "
                f"{(held + needed) / GB:.1f} GB, more than {LIMIT} allows ({self.limit:g})"
            )
        elif needed > free:
            self._close(
                f"the disk of {self.folder} is full: the decoded images of {label} need {needed / GB:.1f} GB, "
                f"and {free / GB:.1f} GB are free"
            )
        return not self._closed

    def _close(self, reason: str) -> None:
        self._closed = True
        _say(f"{reason}; they are decoded at every use, which is slower and changes no result")


class _Waiting:
    """Says once that another process is waited for, and tells whether it has written anything since the last time."""

    def __init__(self, folder: Path, path: Path, label: str) -> None:
        self._folder, self._path, self._label = folder, path, label
        self._said, self._size = False, -1

    def __call__(self, seconds: float) -> bool:
        if seconds >= SILENCE and not self._said:
            self._said = True
            _say(f"waiting for another process that decodes the images of {self._label} into {self._path}")
        before = self._size
        self._size = sum(_size(part) for part in self._folder.glob(f".{self._path.name}.*"))
        return self._size != before


def _size(entry: os.DirEntry[str] | Path) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:  # another process has just finished with it
        return 0


def _whole(path: Path, suspect: int | None) -> Pack | None:
    """The pack at `path`, whose image `suspect` is as it should be; None if there is no such file."""
    try:
        pack = Pack(path)
    except FileNotFoundError:
        return None
    if suspect is not None:
        pack[suspect]
    return pack


def _say(sentence: str) -> None:
    print(f"cim-dg: {sentence}", file=sys.stderr)
