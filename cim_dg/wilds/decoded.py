"""The images of a WILDS dataset as 8-bit pixels, decoded once if the cache has room for all of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageFile, features
from wilds.datasets.wilds_dataset import WILDSDataset

from cim_dg.images.cache import ImageCache, image_cache
from cim_dg.images.lazy_pack import LazyPack
from cim_dg.runtime.provenance import version_of
from cim_dg.wilds.transforms import Transform

VERSION = 1  # of the cache's content; raise it when a transform's pixels change
FOLDERS = {"waterbirds": "", "celebA": "img_align_celeba", "camelyon17": "", "iwildcam": "train", "rxrx1": ""}
"""Where in its folder a dataset of the package has the files that its table names."""


class DecodedImages:
    """Images after the fixed steps of a transform, from the cache, or decoded and kept there for the next use.

    Args:
        dataset: the dataset.
        transform: its fixed steps are applied.
        files: the files of the dataset's images.
        cache, pack: where the images are kept.
    """

    def __init__(
        self, dataset: WILDSDataset, transform: Transform, files: list[str], cache: ImageCache, pack: LazyPack
    ) -> None:
        self._dataset, self._transform, self._files = dataset, transform, files
        self._cache, self._pack = cache, pack

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an image in the cache, (3, H, W)."""
        return self._pack.shape

    def __getitem__(self, index: int) -> np.ndarray:
        """Image `index` of the dataset, (3, H, W), uint8; of another shape than `shape` if its file is.

        Raises:
            Exception: whatever the dataset raises for a file that cannot be read.
        """
        image = self._pack.read(index, lambda: self._source(index))
        if image is not None:
            return image
        try:
            # Before the file is read: if it changes in between, the pixels do not count as those of the new file.
            source = self._source(index)
        except OSError:
            source = b""
        image = self._transform.pixels(self._dataset.get_input(index))
        if source and image.shape == self.shape:
            self._cache.keep(self._pack, index, image, source)
        return image

    def _source(self, index: int) -> bytes:
        """What tells a file from a changed one."""
        status = os.stat(self._files[index])
        return f"{status.st_size} {status.st_mtime_ns}".encode()


def decoded_images(dataset: WILDSDataset, transform: Transform, first: int) -> DecodedImages | None:
    """The images of a dataset; None if they are not kept in the cache, and are to be decoded at every use.

    Args:
        dataset: the dataset.
        transform: its fixed steps are applied.
        first: an image that is used; the cache is for images of its shape.

    Raises:
        UserError: the settings of the cache are not accepted.
    """
    cache, files = image_cache(), _files(dataset)
    if cache is None or files is None:
        return None
    try:
        shape = transform.pixels(dataset.get_input(first)).shape
    except Exception:  # what reads the split reports it, with the image's name
        return None
    key = _key(files, transform, shape)
    pack = cache.lazy_pack(f"{dataset.dataset_name}-{shape[1]}x{shape[2]}", key, len(files), shape)
    return None if pack is None else DecodedImages(dataset, transform, files, cache, pack)


def _files(dataset: Any) -> list[str] | None:
    """The files of a dataset's images in its order; None if this is not known."""
    name, folder = dataset.dataset_name, Path(dataset.data_dir)
    if name == "fmow":
        return [str(folder / "images" / f"rgb_img_{number}.png") for number in dataset.full_idxs]
    names: Iterable[Any] | None = getattr(dataset, "_input_array", None)
    if names is None:
        return None
    return [os.path.join(folder, FOLDERS[name], str(file)) if name in FOLDERS else str(file) for file in names]


def _key(files: list[str], transform: Transform, shape: tuple[int, ...]) -> str:
    """A digest of the files' names and of what affects their pixels; their sizes and times are checked when read."""
    decoder = [version_of(package) for package in ("pillow", "torchvision")]
    decoder += [features.version("jpg"), features.version("libjpeg_turbo"), str(ImageFile.LOAD_TRUNCATED_IMAGES)]
    digest = hashlib.sha256(repr([VERSION, decoder, [*map(repr, transform.fixed)], shape]).encode())
    for file in files:
        digest.update(os.fsencode(os.path.abspath(file)) + b"\0")
    return digest.hexdigest()[:32]
