"""Files of decoded images that are filled while they are used.

A pack (`cim_dg.images.pack`) is complete before its first use. Here each image is written when it has been decoded for
the first time, so that nobody waits for the decoding of images that come later, or never.

All images have the same shape. Each has a row in the file: a checksum (4 bytes, little-endian) and the pixels. The file
is sparse, and a row of zeros is an image that is not there yet. Any number of processes and threads read and write rows
without a lock: they write the same bytes, and a row that is written in part does not have its checksum.
"""

from __future__ import annotations

import errno
import math
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_CHECKSUM = 4  # bytes


class LazyPack:
    """`count` images of one shape in a file that `create` has made. A pickled one opens the file again.

    Args:
        path: the file.
        count: the number of images.
        shape: of each image, uint8.

    Raises:
        OSError: there is no such file, or it cannot be read and written.
    """

    def __init__(self, path: Path, count: int, shape: tuple[int, ...]) -> None:
        self.path, self.shape = path, shape
        self._file = open(path, "r+b", buffering=0)  # noqa: SIM115  # open as long as this object is in use
        self._row = _CHECKSUM + math.prod(shape)
        self._checked = np.zeros(count, dtype=bool)

    def __reduce__(self) -> tuple[Any, ...]:
        return LazyPack, (self.path, len(self._checked), self.shape)

    def read(self, index: int, source: Callable[[], bytes]) -> np.ndarray | None:
        """An image, which may not be changed; None if it is not there, or not as it was written.

        Args:
            index: its position.
            source: tells what it was decoded from. Called, and the checksum tested, only at the first read.
        """
        try:
            if not self._checked[index] and not any(os.pread(self._file.fileno(), _CHECKSUM, index * self._row)):
                return None
            row = os.pread(self._file.fileno(), self._row, index * self._row)
        except OSError:
            return None
        if len(row) < self._row:
            return None
        image = np.frombuffer(row, np.uint8, offset=_CHECKSUM).reshape(self.shape)
        if not self._checked[index]:
            if row[:_CHECKSUM] != _checksum(image, source()):
                return None
            self._checked[index] = True
        return image

    def has_read(self, index: int) -> bool:
        """Whether this object has read the image before."""
        return bool(self._checked[index])

    def write(self, index: int, image: np.ndarray, source: bytes) -> None:
        """Write an image (contiguous, of the file's shape), decoded from what `source` tells.

        Raises:
            OSError: the disk is full, or the file cannot be written for another reason.
        """
        row = _checksum(image, source) + image.tobytes()
        if os.pwrite(self._file.fileno(), row, index * self._row) < len(row):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def size(count: int, shape: tuple[int, ...]) -> int:
    """The bytes of a file of `count` images, all of them written."""
    return count * (_CHECKSUM + math.prod(shape))


def create(path: Path, count: int, shape: tuple[int, ...]) -> None:
    """Make the file, with no image in it. It takes room on the disk as images are written.

    Raises:
        OSError: it cannot be made.
    """
    with open(path, "wb") as file:
        file.truncate(size(count, shape))


def _checksum(image: np.ndarray, source: bytes) -> bytes:
    return zlib.crc32(image.data, zlib.crc32(source)).to_bytes(_CHECKSUM, "little")
