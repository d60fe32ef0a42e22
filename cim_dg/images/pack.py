"""Packs: files of decoded images, written once and memory-mapped by their readers.

A pack consists of a magic number (8 bytes), the number of images (8 bytes), a table with the shape and checksum of each
image (16 bytes a row; all numbers little-endian), and the pixels of all images. Readers map the file, so that all
processes of a machine share one copy in its page cache.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cim_dg.runtime.files import open_atomically

_MAGIC = b"cim-pack"
_ROW = np.dtype([("shape", "<u4", 3), ("checksum", "<u4")])


class Damaged(Exception):
    """A pack is damaged; the message says how."""


class Pack:
    """A sequence of read-only uint8 arrays (H, W, C) from a file that `write` has written.

    A process checks an array's checksum when it reads it for the first time. A pickled pack opens the file again.

    Args:
        path: the file.

    Raises:
        Damaged: the file's size is wrong, or an array does not have its checksum.
        OSError: there is no such file, or it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            magic, count = file.read(len(_MAGIC)), int.from_bytes(file.read(8), "little")
            table_at = file.tell()
            pixels_at = table_at + count * _ROW.itemsize
            if magic != _MAGIC or size < pixels_at:
                raise Damaged("it does not begin as it should")
            self._bytes = np.memmap(file, dtype=np.uint8, mode="r").view(np.ndarray)
        self._table = self._bytes[table_at:pixels_at].view(_ROW)
        self._ends = pixels_at + np.cumsum(self._table["shape"].prod(axis=1, dtype=np.int64))
        if size != (expected := self._ends[-1] if count else pixels_at):
            raise Damaged(f"it has {size} bytes, and not the {expected} that its table tells of")
        self._checked = np.zeros(len(self), dtype=bool)

    def __reduce__(self) -> tuple[Any, ...]:
        return Pack, (self.path,)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> np.ndarray:
        shape, checksum = self._table[index].tolist()
        end = int(self._ends[index])
        image = self._bytes[end - math.prod(shape) : end].reshape(shape)
        if not self._checked[index]:
            if _checksum(image) != checksum:
                raise Damaged(f"image {index} is not what its checksum tells")
            self._checked[index] = True
        return image


def write(path: Path, images: Iterable[np.ndarray], count: int) -> None:
    """Write a pack of `count` images atomically.

    Args:
        path: the file.
        images: uint8 arrays (H, W, C) of any sizes.
        count: the number of images.

    Raises:
        OSError: the file cannot be written, or the disk is full. No file is left.
        ValueError: there are not `count` images.
    """
    table = np.zeros(count, dtype=_ROW)
    with open_atomically(path) as file:
        file.write(_MAGIC + count.to_bytes(8, "little"))
        file.write(table.tobytes())  # a placeholder of the right size
        for row, image in zip(table, images, strict=True):
            image = np.ascontiguousarray(image)
            row["shape"], row["checksum"] = image.shape, _checksum(image)
            file.write(image.data)
        file.seek(len(_MAGIC) + 8)
        file.write(table.tobytes())


def _checksum(image: np.ndarray) -> int:
    # The checksum includes the shape.
    return zlib.crc32(image.data, zlib.crc32(repr(image.shape).encode()))
