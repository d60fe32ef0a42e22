"""Data sets of several environments, with DomainBed's names, folders, images and training lengths."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import TensorDataset

from cim_dg.errors import UserError
from cim_dg.images.cache import image_cache
from cim_dg.runtime.schema import suggestion

DATASETS = [
    "Debug28",
    "Debug224",
    "ColoredMNIST",
    "RotatedMNIST",
    "VLCS",
    "PACS",
    "OfficeHome",
    "TerraIncognita",
    "DomainNet",
    "SVIRO",
]
"""The data sets in tables. A sweep without --datasets runs all but Debug*."""

MNIST_FILES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def get_dataset_class(dataset_name: str) -> type[Any]:
    """The data set of that name, a MultipleDomainDataset.

    Raises:
        UserError: there is none. The message lists the known names.
    """
    known = {
        name: value
        for name, value in globals().items()
        if isinstance(value, type) and getattr(value, "ENVIRONMENTS", None) and not name.startswith("_")
    }
    if dataset_name not in known:
        raise UserError(
            f"there is no dataset {dataset_name!r}; this stand-in for DomainBed has {', '.join(known)}"
            f"{suggestion(dataset_name, known)}"
        )
    return known[dataset_name]


def num_environments(dataset_name: str) -> int:
    """How many environments the data set of that name has.

    Raises:
        UserError: there is no such data set.
    """
    return len(get_dataset_class(dataset_name).ENVIRONMENTS)


def _how(name: str, data_dir: str | os.PathLike[str] | None) -> str:
    """How to get a missing data set, as the end of a sentence; empty for an unknown data set."""
    from cim_dg.data.present import sentence

    advice = sentence("domainbed", name, None if data_dir is None else Path(data_dir))
    return f"; {advice}" if advice else ""


class MultipleDomainDataset:
    """A sequence of environments, each a torch data set of (image, label).

    Subclasses are built from the folder of all data, the test environments and the hyper-parameters, and set `datasets`
    (one per environment), `input_shape` (C, H, W) and `num_classes`.
    """

    N_STEPS = 5001
    CHECKPOINT_FREQ = 100
    N_WORKERS = 8  # as in DomainBed; lib.fast_data_loader says how many processes that means
    ENVIRONMENTS: ClassVar[list[str]] = []
    INPUT_SHAPE: ClassVar[tuple[int, ...] | None] = None

    datasets: list[Any]
    input_shape: tuple[int, ...]
    num_classes: int

    def __getitem__(self, index: int) -> Any:
        return self.datasets[index]

    def __len__(self) -> int:
        return len(self.datasets)


class _Debug(MultipleDomainDataset):
    """Three environments of 16 noise images in two classes, for quick trials."""

    INPUT_SHAPE: ClassVar[tuple[int, ...]]

    def __init__(self, root: str | None, test_envs: list[int], hparams: dict[str, Any]) -> None:
        self.input_shape, self.num_classes = self.INPUT_SHAPE, 2
        self.datasets = [
            TensorDataset(torch.randn(16, *self.input_shape), torch.randint(0, self.num_classes, (16,)))
            for _ in self.ENVIRONMENTS
        ]


class Debug28(_Debug):
    """Noise of 28x28 pixels."""

    INPUT_SHAPE = (3, 28, 28)
    ENVIRONMENTS: ClassVar = ["0", "1", "2"]


class Debug224(_Debug):
    """Noise of 224x224 pixels."""

    INPUT_SHAPE = (3, 224, 224)
    ENVIRONMENTS: ClassVar = ["0", "1", "2"]


def _mnist(root: str | None) -> tuple[torch.Tensor, torch.Tensor]:
    """All images (N, 28, 28), uint8, and digits (N,) of MNIST, shuffled by torch's global generator.

    Raises:
        UserError: MNIST's raw files are missing or cannot be read.
    """
    if root is None:
        raise UserError(
            "MNIST's images are needed: give --data_dir DIR, the folder that has its files in DIR/MNIST/raw"
            f"{_how('ColoredMNIST', None)}"
        )
    folder = Path(root, "MNIST", "raw")
    missing = [name for name in MNIST_FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"MNIST's raw files were expected in {folder}; there is no {', '.join(missing)}{_how('ColoredMNIST', root)}"
        )
    from torchvision.datasets import MNIST  # imported here: it takes seconds, and other jobs do not need it

    try:
        parts = [MNIST(root, train=train, download=False) for train in (True, False)]
    except (RuntimeError, ValueError, AssertionError, OSError, EOFError) as error:
        raise UserError(f"MNIST's raw files in {folder} cannot be read: {error}") from None
    images = torch.cat([part.data for part in parts])
    digits = torch.cat([part.targets for part in parts])
    order = torch.randperm(len(images))
    return images[order], digits[order]


class ColoredMNIST(MultipleDomainDataset):
    """Digits below 5 or not (a quarter of the labels flipped). The colour agrees with the label at a given rate.

    An environment's name is the correlation of colour and label. Images are (2, 28, 28) in [0, 1]; a digit is in the
    channel of its colour. Arjovsky et al., "Invariant Risk Minimization", 2019, section 5.2.
    """

    ENVIRONMENTS: ClassVar = ["+90%", "+80%", "-90%"]
    DISAGREEMENT = (0.1, 0.2, 0.9)

    def __init__(self, root: str | None, test_envs: list[int], hparams: dict[str, Any]) -> None:
        images, digits = _mnist(root)
        self.input_shape, self.num_classes = (2, 28, 28), 2
        count = len(self.ENVIRONMENTS)
        self.datasets = [
            self._coloured(images[env::count], digits[env::count], rate) for env, rate in enumerate(self.DISAGREEMENT)
        ]

    @staticmethod
    def _coloured(images: torch.Tensor, digits: torch.Tensor, disagreement: float) -> TensorDataset:
        labels = (digits < 5) ^ (torch.rand(len(digits)) < 0.25)
        channels = labels ^ (torch.rand(len(digits)) < disagreement)
        x = torch.zeros(len(images), 2, *images.shape[1:])
        x[torch.arange(len(images)), channels.long()] = images.float() / 255
        return TensorDataset(x, labels.long())


class RotatedMNIST(MultipleDomainDataset):
    """The ten digits, rotated by one angle (the environment's name, in degrees). Images are (1, 28, 28) in [0, 1]."""

    ENVIRONMENTS: ClassVar = ["0", "15", "30", "45", "60", "75"]

    def __init__(self, root: str | None, test_envs: list[int], hparams: dict[str, Any]) -> None:
        images, digits = _mnist(root)
        self.input_shape, self.num_classes = (1, 28, 28), 10
        count = len(self.ENVIRONMENTS)
        self.datasets = [
            TensorDataset(self._turned(images[env::count], int(name)), digits[env::count])
            for env, name in enumerate(self.ENVIRONMENTS)
        ]

    @staticmethod
    def _turned(images: torch.Tensor, angle: int) -> torch.Tensor:
        from PIL import Image

        turned = [
            np.asarray(Image.fromarray(image).rotate(angle, resample=Image.Resampling.BILINEAR))
            for image in images.numpy()
        ]
        return torch.from_numpy(np.stack(turned)).float().div(255).unsqueeze(1)


class MultipleEnvironmentImageFolder(MultipleDomainDataset):
    """A folder per environment, in it a folder per class, in it the images; environments in the order of their names.

    Images are resized to 224x224 and normalised as for ImageNet; those of training environments are augmented (random
    crop, flip, colours, grey) if `augment`, in evaluation too, as in DomainBed.

    Raises:
        UserError: the folder is missing, or has not one folder per environment, or not the same classes in each.
    """

    def __init__(
        self, root: str | os.PathLike[str], test_envs: list[int], augment: bool, hparams: dict[str, Any]
    ) -> None:
        folder = Path(root)
        if not folder.is_dir():
            raise UserError(
                f"there is no folder {folder}: {type(self).__name__} is expected there, a folder for each of its "
                f"environments ({', '.join(self.ENVIRONMENTS)}) with a folder of images for each class"
                f"{_how(type(self).__name__, folder.parent)}"
            )
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
        if len(names) != len(self.ENVIRONMENTS):
            raise UserError(
                f"{folder} has {len(names)} folders ({', '.join(names)}); {type(self).__name__} needs "
                f"{len(self.ENVIRONMENTS)}, one for each of its environments ({', '.join(self.ENVIRONMENTS)})"
            )
        # Imported here: it imports torchvision, which takes seconds, and jobs on data in memory do not need it.
        from cim_dg.data.image_environment import ImageFolderEnvironment

        try:
            self.datasets = [
                ImageFolderEnvironment(folder / name, augmented=augment and env not in test_envs)
                for env, name in enumerate(names)
            ]
        except FileNotFoundError as error:
            raise UserError(f"{folder} is not as {type(self).__name__} should be: {error}") from None
        for name, environment in zip(names, self.datasets, strict=True):
            if environment.classes != self.datasets[-1].classes:
                raise UserError(
                    f"the classes of {folder / name} ({', '.join(environment.classes)}) are not those of "
                    f"{folder / names[-1]} ({', '.join(self.datasets[-1].classes)})"
                )
        cache = image_cache()
        if cache is not None:
            for environment in self.datasets:
                environment.use(cache)
        self.input_shape = (3, 224, 224)
        self.num_classes = len(self.datasets[-1].classes)


class _Photographs(MultipleEnvironmentImageFolder):
    """An image-folder data set in the subfolder FOLDER of the folder of all data."""

    CHECKPOINT_FREQ = 300
    FOLDER: ClassVar[str]

    def __init__(self, root: str | None, test_envs: list[int], hparams: dict[str, Any]) -> None:
        if root is None:
            raise UserError(
                f"{type(self).__name__} is needed: give --data_dir DIR, the folder that has it in DIR/{self.FOLDER}"
                f"{_how(type(self).__name__, None)}"
            )
        super().__init__(Path(root, self.FOLDER), test_envs, hparams["data_augmentation"], hparams)


class VLCS(_Photographs):
    """Caltech101, LabelMe, SUN09 and VOC2007: 5 classes of photographs (Fang et al., 2013)."""

    FOLDER = "VLCS"
    ENVIRONMENTS: ClassVar = ["C", "L", "S", "V"]


class PACS(_Photographs):
    """Art paintings, cartoons, photographs and sketches of 7 classes (Li et al., 2017)."""

    FOLDER = "PACS"
    ENVIRONMENTS: ClassVar = ["A", "C", "P", "S"]


class OfficeHome(_Photographs):
    """Art, clip art, product pictures and photographs of 65 classes (Venkateswara et al., 2017)."""

    FOLDER = "office_home"
    ENVIRONMENTS: ClassVar = ["A", "C", "P", "R"]


class TerraIncognita(_Photographs):
    """10 classes of animals at four camera traps (Beery et al., 2018)."""

    FOLDER = "terra_incognita"
    ENVIRONMENTS: ClassVar = ["L100", "L38", "L43", "L46"]


class DomainNet(_Photographs):
    """Six kinds of pictures of 345 classes (Peng et al., 2019)."""

    FOLDER = "domain_net"
    CHECKPOINT_FREQ = 1000
    ENVIRONMENTS: ClassVar = ["clip", "info", "paint", "quick", "real", "sketch"]


class SVIRO(_Photographs):
    """Rear seats of ten cars (Dias Da Cruz et al., 2020)."""

    FOLDER = "sviro"
    ENVIRONMENTS: ClassVar = ["aclass", "escape", "hilux", "i3", "lexus", "tesla", "tiguan", "tucson", "x5", "zoe"]
