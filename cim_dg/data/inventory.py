"""The content of a dataset's folder by the harness' own rules: its images and their groups."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cim_dg.data.catalogue import Dataset
from cim_dg.data.recipes import backgrounds, mnist, tables
from cim_dg.data.recipes.inputs import IMAGES
from cim_dg.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

READ = (*IMAGES, ".npy", ".csv", "-ubyte")
"""The endings of files that a harness reads. Other files (notes, a file manager's) are not part of a copy."""

FIRST_YEAR_OF_TEST, YEARS_OF_VALIDATION = 2016, 3
CAMELYON_SPLITS = {0: "train", 1: "id_val"}


@dataclass
class Inventory:
    """Images by their path below the dataset's folder, their groups, and problems.

    `tables` are the files with labels and splits, `others` the files that no harness reads.
    """

    images: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)

    def counts(self) -> Counter[str]:
        """Images by group."""
        return Counter(self.groups)


def take(dataset: Dataset, folder: Path) -> Inventory:
    """The inventory of the existing `folder`. No image is opened.

    Raises:
        UserError: the folder does not have the dataset's layout.
    """
    readers: dict[str, Callable[[Dataset, Path], Inventory]] = {
        "image_folders": _image_folders,
        "mnist": _mnist,
        "backgrounds": _backgrounds,
    }
    return readers.get(dataset.layout, _table)(dataset, folder)


def listing(dataset: Dataset, folder: Path) -> Iterator[tuple[str, int]]:
    """Every file of the dataset that a harness may read: path below `folder` and size, in order."""
    roots = [folder / part for part in (backgrounds.TRAINING, *backgrounds.PARTS)]
    for root in roots if dataset.layout == "backgrounds" else [folder]:
        yield from ((path, size) for path, size in _walk(root, folder) if path.lower().endswith(READ))


def _walk(root: Path, top: Path) -> Iterator[tuple[str, int]]:
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.is_dir():
            yield from _walk(Path(entry.path), top)
        elif entry.is_file():
            yield Path(entry.path).relative_to(top).as_posix(), entry.stat().st_size


def _image_folders(dataset: Dataset, folder: Path) -> Inventory:
    contents = Inventory()
    domains = _folders(folder)
    # DomainBed counts every folder as an environment, hidden ones included, in the order of their names.
    strange = [name for name in domains if name not in dataset.domains]
    absent = [name for name in dataset.domains if name not in domains]
    if strange:
        contents.problems.append(
            f"it has the folder{'s' if len(strange) > 1 else ''} {', '.join(strange)}, which DomainBed takes for "
            "environments"
        )
    if absent:
        contents.problems.append(f"it has no folder {', '.join(absent)}")
    by_domain = {domain: _classes(contents, folder, domain, is_image) for domain in domains}
    contents.classes = by_domain[domains[-1]] if domains else []
    for domain, classes in by_domain.items():
        if classes != contents.classes:
            contents.problems.append(
                f"{domain} has the classes {_some(classes)}, and {domains[-1]} {_some(contents.classes)}: labels "
                "count in the order of folders"
            )
    if not contents.images:
        raise UserError(f"{folder} has no images in folders of domains and classes: it is not {dataset.name}")
    return contents


def _classes(contents: Inventory, folder: Path, domain: str, counts: Callable[[str], bool]) -> list[str]:
    classes = _folders(folder / domain)
    for name in classes:
        group = f"{domain}/{name}"
        for path, size in _walk(folder / domain / name, folder):
            if counts(path):
                contents.images.append(path)
                contents.groups.append(group)
                contents.sizes[path] = size
            else:
                contents.others.append(path)
    return classes


def _backgrounds(dataset: Dataset, folder: Path) -> Inventory:
    contents = Inventory()
    for part in (backgrounds.TRAINING, *backgrounds.PARTS):
        if not (folder / part).is_dir():
            contents.problems.append(f"it has no folder {part}")
            continue
        masks = part.startswith("fg_mask")
        classes = _classes(contents, folder, part, (lambda path: path.endswith(".npy")) if masks else is_image)
        contents.classes = contents.classes or classes
        if classes != contents.classes:
            contents.problems.append(f"{part} has the classes {_some(classes)}, and others {_some(contents.classes)}")
    if not contents.images:
        raise UserError(f"{folder} has none of the folders of {dataset.name}, such as {', '.join(backgrounds.PARTS)}")
    return contents


def _mnist(dataset: Dataset, folder: Path) -> Inventory:
    """The inventory of MNIST: the files count as tables, and their headers give the numbers of images."""
    contents = Inventory(classes=[str(digit) for digit in range(10)])
    for name in mnist.FILES:
        path = folder / "raw" / name
        if not path.is_file():
            contents.problems.append(f"it has no raw/{name}")
            continue
        contents.tables.append(f"raw/{name}")
        content = path.read_bytes()
        lengths = [int.from_bytes(content[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(content[3])]
        size = 1
        for length in lengths:
            size *= length
        if content[:3] != b"\0\0\x08" or len(content) != 4 + 4 * len(lengths) + size:
            contents.problems.append(f"raw/{name} is damaged: {len(content):,} bytes do not fit its head")
        elif "labels" in name:
            part = name.split("-")[0]
            contents.groups += [part] * lengths[0]
            digits = sorted(set(content[8:]))
            if digits != list(range(10)):
                contents.problems.append(f"raw/{name} has the digits {digits}")
        elif lengths[1:] != [28, 28]:
            contents.problems.append(f"raw/{name} has images of {lengths[1:]} pixels")
    for part in ("train", "t10k"):
        pair = [_items(folder / "raw" / f"{part}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")]
        if None not in pair and pair[0] != pair[1]:
            contents.problems.append(f"raw/{part} has {pair[0]:,} images and {pair[1]:,} labels")
    return contents


def _items(path: Path) -> int | None:
    try:
        with path.open("rb") as file:
            return int.from_bytes(file.read(8)[4:], "big")
    except OSError:
        return None


def _table(dataset: Dataset, folder: Path) -> Inventory:
    import pandas as pd

    contents = Inventory(tables=[name for name in tables.TABLES[dataset.layout] if (folder / name).is_file()])
    for name in tables.TABLES[dataset.layout]:
        if name not in contents.tables:
            raise UserError(f"{folder} has no {name}: it is not {dataset.name} as WILDS reads it")
    try:
        frames = [pd.read_csv(folder / name, low_memory=False, dtype={"patient": "str"}) for name in contents.tables]
        contents.images, contents.groups, contents.classes = _READERS[dataset.layout](*frames)
    except KeyError as error:
        raise UserError(f"{folder}: its tables have no column {error}") from None
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"{folder}: its tables cannot be read: {' '.join(str(error).split())[:200]}") from None
    sizes = dict(listing(dataset, folder))
    release = f"RELEASE_v{dataset.version}.txt"
    if not (folder / release).is_file():
        contents.problems.append(f"it has no {release}, without which WILDS does not take it")
    contents.missing = [name for name in contents.images if name not in sizes]
    missing = set(contents.missing)
    indices = [index for index, name in enumerate(contents.images) if name not in missing]
    contents.images, contents.groups = [contents.images[i] for i in indices], [contents.groups[i] for i in indices]
    contents.sizes = {name: sizes[name] for name in contents.images}
    named = set(contents.images)
    if dataset.layout != "fmow":  # its folder also has images that are in no split
        contents.others = [name for name in sizes if is_image(name) and name not in named]
    twice = len(contents.images) - len(named)
    if twice:
        contents.problems.append(f"its table names {twice:,} images more than once")
    return contents


Reading = tuple[list[str], list[str], list[str]]
SPLITS = {0: "train", 1: "val", 2: "test"}


def _waterbirds(table: pd.DataFrame) -> Reading:
    groups = [
        f"{SPLITS.get(split, split)}/y={y},place={place}"
        for split, y, place in zip(table["split"], table["y"], table["place"], strict=True)
    ]
    return table["img_filename"].tolist(), groups, ["landbird", "waterbird"]


def _celeba(attributes: pd.DataFrame, partition: pd.DataFrame) -> Reading:
    if attributes["image_id"].tolist() != partition["image_id"].tolist():
        raise ValueError("the two lists are not of the same images in the same order")
    groups = [
        f"{SPLITS.get(split, split)}/blond={int(blond == 1)},male={int(male == 1)}"
        for split, blond, male in zip(partition["partition"], attributes["Blond_Hair"], attributes["Male"], strict=True)
    ]
    return [f"img_align_celeba/{name}" for name in attributes["image_id"]], groups, ["not blond", "blond"]


def _camelyon17(table: pd.DataFrame) -> Reading:
    # As in the package: hospital 1 is validation and hospital 2 test, whatever the table's split is.
    by_center = {1: "val", 2: "test"}
    groups = [
        by_center.get(center) or CAMELYON_SPLITS.get(split, str(split))
        for center, split in zip(table["center"], table["split"], strict=True)
    ]
    places = zip(table["patient"], table["node"], table["x_coord"], table["y_coord"], strict=True)
    names = [
        f"patches/patient_{patient}_node_{node}/patch_patient_{patient}_node_{node}_x_{x}_y_{y}.png"
        for patient, node, x, y in places
    ]
    return names, groups, ["no tumour", "tumour"]


def _iwildcam(table: pd.DataFrame) -> Reading:
    return [f"train/{name}" for name in table["filename"]], table["split"].tolist(), []


def _fmow(table: pd.DataFrame, codes: pd.DataFrame) -> Reading:
    import pandas as pd

    codes["region"], codes["alpha-3"]  # the package needs it for the regions
    years = pd.to_datetime(table["timestamp"], utc=True, format="ISO8601").dt.year
    names, groups = [], []
    for index, (split, year) in enumerate(zip(table["split"], years, strict=True)):
        test, val = year >= FIRST_YEAR_OF_TEST, year >= FIRST_YEAR_OF_TEST - YEARS_OF_VALIDATION
        group = {
            "train": None if val else "train",
            "val": "val" if val and not test else None if test else "id_val",
            "test": "test" if test else None if val else "id_test",
        }.get(split)
        if group is not None:
            names.append(f"images/rgb_img_{index}.png")
            groups.append(group)
    return names, groups, []


def _rxrx1(table: pd.DataFrame) -> Reading:
    groups = [
        "id_test" if dataset == "train" and site == 2 else dataset
        for dataset, site in zip(table["dataset"], table["site"], strict=True)
    ]
    names = [
        f"images/{experiment}/Plate{plate}/{well}_s{site}.png"
        for experiment, plate, well, site in zip(
            table["experiment"], table["plate"], table["well"], table["site"], strict=True
        )
    ]
    return names, groups, []


_READERS: dict[str, Callable[..., Reading]] = {
    "waterbirds": _waterbirds,
    "celeba": _celeba,
    "camelyon17": _camelyon17,
    "iwildcam": _iwildcam,
    "fmow": _fmow,
    "rxrx1": _rxrx1,
}


def is_image(path: str) -> bool:
    """Whether torchvision's ImageFolder takes a file as an image: by its ending, hidden or not."""
    return path.lower().endswith(IMAGES)


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())


def _some(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "none"
