"""The cache of decoded images (`cim_dg.images.cache`) for image folders of a real DomainBed: CIM_DG_CACHE_DOMAINBED=1.

Items are the same to the bit. DomainBed's augmentation stays its own: only decoding is saved. Images that are not
augmented are cached as they are after resizing, so that an item is a look-up of its pixels' normalised values.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from PIL import Image
from torch.utils.data import default_collate
from torchvision import get_image_backend
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import default_loader
from torchvision.transforms import Compose, Normalize, Resize, ToTensor

from cim_dg.data.image_environment import IMAGENET_MEAN, IMAGENET_STD, ImageFolderEnvironment
from cim_dg.images.augmentation import SIDE
from cim_dg.images.cache import image_cache

_PLAIN = repr(Compose([Resize((SIDE, SIDE)), ToTensor(), Normalize(list(IMAGENET_MEAN), list(IMAGENET_STD))]))


def watch(datasets: ModuleType) -> None:
    """Wrap the constructor of `domainbed.datasets.MultipleEnvironmentImageFolder`."""
    kind: Any = datasets.MultipleEnvironmentImageFolder
    construct = kind.__init__

    @functools.wraps(construct)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        construct(self, *args, **kwargs)
        use_cache(self.datasets)

    kind.__init__ = __init__


def use_cache(environments: list[Any]) -> None:
    """Replace each ImageFolder in a list by one that takes its images from the cache, if that has room for them.

    Raises:
        UserError: a file cannot be read as an image, or CIM_DG_CACHE_GB is not accepted.
    """
    cache = image_cache()
    for place, environment in enumerate(environments):
        decodes = type(environment) is ImageFolder and environment.loader is default_loader
        if cache is None or not decodes or get_image_backend() != "PIL":
            continue
        images = ImageFolderEnvironment(Path(environment.root), augmented=repr(environment.transform) != _PLAIN)
        images.use(cache)
        if images.in_cache:
            environments[place] = DecodedFolder(environment, images)


class DecodedFolder(ImageFolder):
    """An ImageFolder whose images are `images`, for as long as nobody gives it other files or another transform.

    Args:
        folder: the ImageFolder.
        images: its images, before the transform if they are `augmented`, otherwise after it.
    """

    def __init__(self, folder: ImageFolder, images: ImageFolderEnvironment) -> None:
        self.__dict__.update(vars(folder))
        self._images, self._transform, self._paths = images, folder.transform, [path for path, _ in folder.samples]

    @property
    def is_a_copy_of_memory(self) -> bool:
        """Whether `minibatch` takes little more than copying its images, and has nothing random."""
        return self._images.cached and self.transform is self._transform and self.target_transform is None

    def minibatch(self, indices: Sequence[int]) -> list[torch.Tensor]:
        """The images (N, 3, 224, 224), float32, and classes (N,) at `indices`, as torch collates the items."""
        if any(self.samples[index][0] != self._paths[index] for index in indices):
            return default_collate([self[index] for index in indices])
        images, _ = self._images.minibatch(indices, seed=0)
        return [images.to("cpu"), torch.tensor([self.samples[index][1] for index in indices])]

    def __getitem__(self, index: int) -> Any:
        path, target = self.samples[index]
        if self.transform is not self._transform or self.target_transform is not None or path != self._paths[index]:
            return super().__getitem__(index)
        if not self._images.augmented:
            return self._images[index][0], target
        image = Image.fromarray(self._images.image(index))
        return image if self.transform is None else self.transform(image), target
