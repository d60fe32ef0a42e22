"""ImageNet-9 and its variants, the Backgrounds Challenge (Xiao et al. 2020, arXiv 2006.09994), for the runner.

The layout on disk is upstream's: DATA/original/train/CLASS/*.JPEG for training, and DATA/VARIANT/val/CLASS/*.JPEG for
testing, for each of `VARIANTS`. Classes are numbered by their folders' names in order (00_dog, 01_bird, ...).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import pil_loader
from wilds.datasets.wilds_dataset import WILDSDataset

from cim_dg.data.catalogue import load
from cim_dg.data.present import command
from cim_dg.errors import UserError

VARIANTS = ("original", "mixed_same", "mixed_rand", "only_bg_t")
NUM_CLASSES = 9
HELD_OUT = (
    10  # every tenth training image of a class is for validation, because upstream's val folders are the test sets
)


class IN9(WILDSDataset):
    """Splits train and val (of DATA/original/train), and one for the test images of each of `VARIANTS`.

    Validation is every tenth training image of each class, by name, so it is the same for every run. Images may have
    any size; upstream's are 224 x 224.

    Args:
        root_dir: DATA.
        download: must be false: upstream's files are on GitHub and Dropbox.

    Raises:
        UserError: a folder or a class is missing, or has no images.
    """

    def __init__(
        self, root_dir: str, version: str | None = None, download: bool = False, split_scheme: str = "official"
    ) -> None:
        if download:
            raise UserError(f"backgrounds is not downloaded here; `{command(load('backgrounds'), root_dir)}` gets it")
        if split_scheme != "official" or version is not None:
            raise UserError("backgrounds has no versions and one split_scheme, official")
        folders = {part: class_folder(Path(root_dir), part) for part in ("original/train", *map(tested_on, VARIANTS))}
        self._class_names = folders["original/train"].classes
        self._split_dict = {name: index for index, name in enumerate(("train", "val", *VARIANTS))}
        self._split_names = {name: name for name in self._split_dict}
        self._input_array: list[str] = []
        labels: list[int] = []
        splits: list[np.ndarray] = []
        for part, folder in folders.items():
            if folder.classes != self._class_names:
                raise UserError(
                    f"{folder.root} has the classes {', '.join(folder.classes)}; accepted are those of "
                    f"{folders['original/train'].root}, {', '.join(self._class_names)}"
                )
            self._input_array += [name for name, _ in folder.samples]
            labels += folder.targets
            splits.append(_held_out(folder.targets) if part == "original/train" else self._test_split(part, folder))
        self._dataset_name, self._version, self._data_dir = "backgrounds", None, str(root_dir)
        self._split_scheme = split_scheme
        self._split_array = np.concatenate(splits)
        self._y_array = torch.tensor(labels)
        self._y_size, self._n_classes = 1, NUM_CLASSES
        self._metadata_fields, self._metadata_array = ["y"], self._y_array[:, None]
        self._metadata_map: dict[str, Any] = {"y": self._class_names}
        super().__init__(root_dir, download, split_scheme)

    def _test_split(self, part: str, folder: ImageFolder) -> np.ndarray:
        return np.full(len(folder), self._split_dict[Path(part).parent.name])

    def get_input(self, idx: int) -> Any:
        """The image as PIL opens it, in RGB."""
        return read_image(self._input_array[idx])

    def eval(self, y_pred: Tensor, y_true: Tensor, metadata: Tensor) -> tuple[dict[str, float], str]:
        """Accuracy and number of images of each class, as "acc_y:00_dog" and "count_y:00_dog", from two (N,)."""
        counts = torch.bincount(y_true, minlength=NUM_CLASSES)
        hits = torch.bincount(y_true[y_pred == y_true], minlength=NUM_CLASSES)
        results: dict[str, float] = {}
        for name, hit, count in zip(self._class_names, hits.tolist(), counts.tolist(), strict=True):
            results |= {f"acc_y:{name}": hit / count if count else 0.0, f"count_y:{name}": float(count)}
        return results, ""


def tested_on(variant: str) -> str:
    """The folder of a variant's test images, below DATA."""
    return f"{variant}/val"


def class_folder(root: Path, part: str) -> ImageFolder:
    """The images of ROOT/PART by class, in the order of the classes' and the files' names.

    Raises:
        UserError: the folder is missing, or does not have nine classes with images.
    """
    folder = root / part
    if not folder.is_dir():
        raise UserError(
            f"backgrounds: there is no folder {folder}; expected are original/train and VARIANT/val for VARIANT in "
            f"{', '.join(VARIANTS)}, each with the nine class folders of IN-9; "
            f"`{command(load('backgrounds'), root)}` gets what is not there"
        )
    classes = sum(path.is_dir() for path in folder.iterdir())
    if classes != NUM_CLASSES:
        raise UserError(f"backgrounds: {folder} has {classes} class folders; accepted are the nine of IN-9")
    try:
        return ImageFolder(str(folder), loader=read_image)
    except FileNotFoundError as error:
        raise UserError(f"backgrounds: {folder}: {str(error).splitlines()[0]}") from None


def read_image(name: str) -> Any:
    """The image in a file as a PIL image in RGB.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return pil_loader(name)
    except (OSError, SyntaxError) as error:  # PIL's errors
        raise UserError(f"image {name} of backgrounds cannot be read: {error}") from None


def _held_out(labels: list[int]) -> np.ndarray:
    """1 (val) for every tenth image of each class, the first included, and 0 (train) for the others."""
    places: dict[int, int] = {}
    splits = np.zeros(len(labels), dtype=np.int64)
    for index, label in enumerate(labels):
        splits[index] = places.setdefault(label, 0) % HELD_OUT == 0
        places[label] += 1
    return splits
