"""The images of a split as 8-bit pixels, decoded once if the cache has room for all of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, features
from wilds.datasets.wilds_dataset import WILDSDataset

from cim_dg.images.cache import ImageCache, image_cache
from cim_dg.images.lazy_pack import LazyPack
from cim_dg.runtime import checkpoint
from cim_dg.runtime.provenance import version_of
from cim_dg.wilds.transforms import Transform

VERSION = 1  # of the cache's content; raise it when a transform's pixels change
FOLDERS = {"waterbirds": "", "celebA": "img_align_celeba", "camelyon17": "", "iwildcam": "train", "rxrx1": ""}
"""Where in its folder a dataset of the package has the files that its table names."""


class DecodedImages:
    """Images after the fixed steps of a transform, from the cache, or decoded and kept there for the next use.

    Args:
        dataset: the dataset.
        indices: those of the split's images in the dataset.
        files: those of the split's images.
        transform: the transform.
        cache, pack: where the images are kept: (3, H, W), or (H, W, 3) if random steps follow.
        shape: (3, H, W) of an image after all steps.

    Attributes:
        transform, shape: as above.
    """

    def __init__(
        self,
        dataset: WILDSDataset,
        indices: Sequence[int],
        files: list[str],
        transform: Transform,
        cache: ImageCache,
        pack: LazyPack,
        shape: tuple[int, ...],
    ) -> None:
        self._dataset, self._indices, self._files = dataset, indices, files
        self.transform, self.shape = transform, shape
        self._cache, self._pack = cache, pack

    def draw(self, position: int) -> Any:
        """The random numbers of the transform for the image at a position of the split.

        Raises:
            OSError: the file cannot be read.
        """
        if self.transform.random is None:
            return None
        if self._pack.has_read(position):
            height, width, _ = self._pack.shape
        else:
            with Image.open(self._files[position]) as image:  # this reads only its header
                height, width = image.height, image.width  # no transform has fixed steps before random ones
        return self.transform.draw(height, width)

    def pixels(self, position: int, drawn: Any) -> np.ndarray:
        """The image at a position of the split after all steps, (3, H, W), uint8.

        Raises:
            Exception: whatever the dataset raises for a file that cannot be read.
        """
        pixels = self._pack.read(position, lambda: self._source(position))
        if self.transform.random is not None:
            image = self._image(position) if pixels is None else Image.fromarray(pixels)
            return _planes(self.transform.finish(image, drawn))
        if pixels is None:
            source = self._source(position)
            pixels = _planes(self._decode(position).convert("RGB"))
            self._keep(position, pixels, source)
        return pixels

    def _image(self, position: int) -> Any:
        source = self._source(position)
        image = self._decode(position)
        if image.mode == "RGB":  # in another mode, resizing gives other pixels than after a conversion to RGB
            self._keep(position, np.asarray(image), source)
        return image

    def _decode(self, position: int) -> Any:
        return self.transform.start(self._dataset.get_input(int(self._indices[position])))

    def _keep(self, position: int, pixels: np.ndarray, source: bytes) -> None:
        if source and pixels.shape == self._pack.shape:
            self._cache.keep(self._pack, position, pixels, source)

    def _source(self, position: int) -> bytes:
        """What tells a file from a changed one; empty if there is no file.

        Taken before a file is decoded: if it changes in between, the pixels do not count as those of the new file.
        """
        try:
            status = os.stat(self._files[position])
        except OSError:
            return b""
        return f"{status.st_size} {status.st_mtime_ns}".encode()


def _planes(image: Any) -> np.ndarray:
    """A PIL image in RGB as (3, H, W), uint8."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def decoded_images(
    dataset: WILDSDataset, split: str, indices: Sequence[int], transform: Transform
) -> DecodedImages | None:
    """The images of a split; None if they are not kept in the cache, and are to be decoded at every use.

    The cache is for images of the first one's size.

    Args:
        dataset: the dataset.
        split: the split's name.
        indices: those of the split's images in the dataset.
        transform: its fixed steps are applied.

    Raises:
        UserError: the settings of the cache are not accepted.
    """
    cache, names = image_cache(), _files(dataset)
    if cache is None or names is None:
        return None
    try:
        first = transform.start(dataset.get_input(int(indices[0])))
        first.load()
    except Exception:  # what reads the split reports it, with the image's name
        return None
    with checkpoint.preserved_randomness():
        shape = _planes(transform.finish(first, transform.draw(first.height, first.width))).shape
    kept = shape if transform.random is None else (first.height, first.width, 3)
    files = [names[index] for index in indices]
    label = f"{dataset.dataset_name}-{split}-{first.height}x{first.width}"
    pack = cache.lazy_pack(label, _key(files, transform, kept), len(files), kept)
    return None if pack is None else DecodedImages(dataset, indices, files, transform, cache, pack, shape)


def _files(dataset: Any) -> list[str] | None:
    """The files of a dataset's images in its order; None if this is not known."""
    name, folder = dataset.dataset_name, Path(dataset.data_dir)
    if name == "fmow":
        return [str(folder / "images" / f"rgb_img_{number}.png") for number in dataset.full_idxs]
    if (names := getattr(dataset, "_input_array", None)) is None:
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
