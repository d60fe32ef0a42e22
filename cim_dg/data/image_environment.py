"""The images of an environment's folder, decoded once if the cache has room, and sent to the device as 8-bit pixels."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile, features
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import Resize
from tqdm import tqdm

from cim_dg.errors import UserError
from cim_dg.images import augmentation
from cim_dg.images.augmentation import SIDE, Colours
from cim_dg.images.cache import ImageCache
from cim_dg.images.levels import normalise
from cim_dg.images.pack import Damaged, Pack
from cim_dg.images.reading import keep_limit
from cim_dg.nn.pixels import NAMED
from cim_dg.runtime.devices import cores
from cim_dg.runtime.provenance import version_of

ImageFile.LOAD_TRUNCATED_IMAGES = True  # some of DomainBed's data sets have truncated images

IMAGENET_MEAN, IMAGENET_STD = NAMED["imagenet"]
PACK_VERSION = 1  # of the packs' content; raise it when decoding or resizing changes
DECODE_BATCH = 64


@dataclass(frozen=True)
class ImageBatch:
    """Images (N, 3, 224, 224), uint8, a quarter of their size on the device, and pending changes of their colours."""

    pixels: torch.Tensor
    colours: Colours | None = None

    def recoloured(self) -> ImageBatch:
        """The batch with its colours changed, on the CPU."""
        if self.colours is None:
            return self
        recoloured = torch.empty_like(self.pixels)
        for index in range(len(recoloured)):  # one at a time: one image fits into the CPU cache, a batch does not
            image = slice(index, index + 1)
            recoloured[image] = augmentation.recolour(self.pixels[image], self.colours[image])
        return ImageBatch(recoloured)

    def to(self, device: str | torch.device) -> torch.Tensor:
        """The images as the network sees them, float32 and normalised as for ImageNet, on `device`."""
        if torch.device(device).type == "cpu":
            return _normalised(self.recoloured().pixels)
        pixels = self.pixels.to(device)
        if self.colours is not None:
            pixels = augmentation.recolour(pixels, self.colours)
        # 255 is a tensor because CUDA multiplies by the inverse of a plain number, which may round differently.
        levels, mean, std = (torch.tensor(value, device=device) for value in (255.0, IMAGENET_MEAN, IMAGENET_STD))
        return pixels.float().div_(levels).sub_(mean.view(3, 1, 1)).div_(std.view(3, 1, 1))


def _normalised(pixels: torch.Tensor) -> torch.Tensor:
    """The same as torchvision's ToTensor and Normalize, to the bit."""
    # Unlike torch, NumPy does not synchronise threads at every image, and it uses huge pages: allocating memory can
    # cost as much as filling it.
    mean, std = (np.array(value, dtype=np.float32).reshape(3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD))
    images = np.empty(pixels.shape, dtype=np.float32)
    for image, levels in zip(images, pixels.numpy(), strict=True):
        normalise(levels, mean, std, image)
    return torch.from_numpy(images)


class ImageFolderEnvironment(Dataset[tuple[torch.Tensor, int]]):
    """A folder of images for each class: item i is an image (3, 224, 224), normalised as for ImageNet, and its class.

    If `augmented`, images are cropped, flipped and recoloured at random.

    Raises:
        FileNotFoundError: there is no class folder, or one has no images.
        UserError: a file cannot be read as an image.
    """

    def __init__(self, folder: Path, augmented: bool) -> None:
        listing = ImageFolder(str(folder))
        self.classes: list[str] = listing.classes
        self.targets: list[int] = listing.targets
        self.augmented = augmented
        self._folder = folder
        self._files = [os.path.relpath(path, folder) for path, _ in listing.samples]
        self._cache: ImageCache | None = None
        self._pack: Pack | None = None

    def use(self, cache: ImageCache) -> None:
        """Take images from the cache. It has them at full size if they are augmented (crops need that), otherwise
        resized. The results are the same as without it.

        Raises:
            UserError: a file cannot be read as an image.
        """
        self._cache = cache
        self._open_pack()

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        seed = int(torch.empty((), dtype=torch.int64).random_().item()) if self.augmented else 0
        x, y = self.minibatch([index], seed)
        return x.to("cpu")[0], int(y[0])

    @property
    def in_cache(self) -> bool:
        """Whether the images come from the cache."""
        return self._pack is not None

    @property
    def cached(self) -> bool:
        """Whether loading a minibatch is only a copy."""
        return self.in_cache and not self.augmented

    def minibatch(self, keys: Sequence[int], seed: int) -> tuple[ImageBatch, torch.Tensor]:
        """The images and classes (N,) at `keys`. Crops and flips are done; colour changes are pending."""
        images = [self.image(key) for key in keys]
        y = torch.tensor([self.targets[key] for key in keys])
        if not self.augmented:
            return ImageBatch(torch.from_numpy(np.stack(images))), y
        draws = augmentation.draw(np.array([image.shape[:2] for image in images]), seed)
        crops = map(augmentation.crop, images, draws.boxes, draws.flips)
        return ImageBatch(torch.stack(list(crops)), draws.colours), y

    def image(self, key: int) -> np.ndarray:
        """The image in the cache's form, from the cache or decoded from its file."""
        if self._pack is None:
            return self._decode(key)
        try:
            return self._pack[key]
        except Damaged:
            self._open_pack(suspect=key)
            return self.image(key)

    def _decode(self, key: int) -> np.ndarray:
        """(H, W, 3) if augmented, else (3, 224, 224); uint8."""
        with self._opened(key) as image:
            decoded = image.convert("RGB")
        if self.augmented:
            return np.asarray(decoded)
        return np.asarray(Resize((SIDE, SIDE))(decoded)).transpose(2, 0, 1)

    @contextlib.contextmanager
    def _opened(self, key: int) -> Iterator[Image.Image]:
        path = self._folder / self._files[key]
        keep_limit()
        try:
            with Image.open(path) as image:
                yield image
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{path} cannot be read as an image: {error}") from None

    def _open_pack(self, suspect: int | None = None) -> None:
        assert self._cache is not None
        label = f"{self._folder.parent.name}-{self._folder.name}-{'full' if self.augmented else SIDE}"
        images = functools.partial(self._decoded, label)
        self._pack = self._cache.pack(label, self._key(), len(self), self._num_bytes, images, suspect)

    def _key(self) -> str:
        """A digest of the current files and of everything that affects their pixels."""
        decoder = [version_of("pillow"), features.version("jpg"), features.version("libjpeg_turbo")]
        resizing = "full" if self.augmented else [SIDE, version_of("torchvision")]
        digest = hashlib.sha256(repr([PACK_VERSION, decoder, resizing]).encode())
        for file in self._files:
            try:
                status = os.stat(self._folder / file)
            except OSError as error:  # a link that leads nowhere
                raise UserError(f"{self._folder / file} cannot be read as an image: {error.strerror}") from None
            digest.update(repr((file, status.st_size, status.st_mtime_ns)).encode())
        return digest.hexdigest()[:32]

    def _num_bytes(self) -> int:
        """The size of all decoded images."""
        if not self.augmented:
            return len(self) * 3 * SIDE**2
        total = 0
        for key in range(len(self)):
            with self._opened(key) as image:  # this reads only its header
                total += 3 * image.width * image.height
        return total

    def _decoded(self, label: str) -> Iterator[np.ndarray]:
        with (
            tqdm(total=len(self), desc=f"decoding {label} once", ncols=80, leave=False, disable=None) as progress,
            ThreadPoolExecutor(cores()) as threads,  # decoding releases Python's lock
        ):
            for start in range(0, len(self), DECODE_BATCH):
                for image in threads.map(self._decode, range(start, min(start + DECODE_BATCH, len(self)))):
                    yield image
                    progress.update()
