"""Reads and decodes every image of a dataset on all cores. Worker processes import it, so it imports little."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from cim_dg.runtime.devices import cores

CHUNK = 64
FEWEST_FOR_PROCESSES = 4000
"""The number of images from which processes are used, not threads: they take a second to start."""


class Image(NamedTuple):
    """One image: the SHA-256 of its bytes, Pillow's mode, (width, height); or the error of reading it."""

    path: str
    digest: str
    mode: str = ""
    size: tuple[int, int] = (0, 0)
    error: str = ""


def scan(folder: Path, paths: Sequence[str], description: str) -> Iterator[Image]:
    """Decode the images at `paths` below `folder`, in their order, with a progress bar."""
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    with (
        _workers(len(paths)) as workers,
        tqdm(total=len(paths), desc=description, unit="image", leave=False, disable=None) as bar,
    ):
        for images in workers.map(partial(_decode, str(folder)), chunks):
            yield from images
            bar.update(len(images))


def _workers(count: int) -> Executor:
    if count < FEWEST_FOR_PROCESSES or cores() == 1:
        return ThreadPoolExecutor(cores())
    # Not fork: the progress bar has a thread.
    return ProcessPoolExecutor(cores(), mp_context=multiprocessing.get_context("spawn"))


def _decode(folder: str, paths: Sequence[str]) -> list[Image]:
    return [decode(folder, path) for path in paths]


def decode(folder: str, path: str) -> Image:
    """Read and decode one image, or a mask (.npy)."""
    from PIL import Image as pillow

    digest = ""
    try:
        content = Path(folder, path).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if path.endswith(".npy"):
            import numpy as np

            mask = np.load(io.BytesIO(content), allow_pickle=False)
            return Image(path, digest, f"array {mask.dtype}", (mask.shape[-1], mask.shape[-2]))
        with warnings.catch_warnings(), pillow.open(io.BytesIO(content)) as image:
            warnings.simplefilter("ignore")
            image.load()
            return Image(path, digest, image.mode, image.size)
    except Exception as error:  # any error of Pillow's decoders on a broken file
        return Image(path, digest, error=" ".join(str(error).split())[:200] or type(error).__name__)
