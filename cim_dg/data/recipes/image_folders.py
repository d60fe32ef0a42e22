"""Image folders as DomainBed reads them, FOLDER/DOMAIN/CLASS/image, from copies whose folders have other names."""

from __future__ import annotations

from pathlib import Path

from cim_dg.data.catalogue import Dataset
from cim_dg.data.recipes.inputs import Inputs, by_name, images, plain, subfolders
from cim_dg.errors import UserError

SPLITS = ("train", "crossval", "val", "test", "full")


def lay_out(dataset: Dataset, inputs: Inputs, target: Path) -> None:
    """Put the images into `target`, a folder for each domain and in it one for each class.

    The official splits of a copy are merged: train, crossval and test, or full and test.

    Raises:
        UserError: a domain or a class is missing.
    """
    for domain, others in dataset.domains.items():
        folder = _domain(dataset, domain, others, inputs)
        below = {path.name.lower(): path for path in subfolders(folder)}
        if set(below) & set(SPLITS):
            for split in _complete(dataset, folder, set(below)):
                _classes(dataset, below[split], target / domain, inputs, prefix=f"{split}_")
        else:
            _classes(dataset, folder, target / domain, inputs)


def _domain(dataset: Dataset, domain: str, others: tuple[str, ...], inputs: Inputs) -> Path:
    names = by_name(domain, others)
    folders = [folder for folder in inputs.folders if plain(folder.name) in names and _has_classes(dataset, folder)]
    if not folders:
        accepted = " or ".join([domain, *others])
        raise UserError(f"{dataset.name}: there is no folder {accepted} with a folder for each class in {inputs}")
    return folders[0]


def _has_classes(dataset: Dataset, folder: Path) -> bool:
    below = subfolders(folder)
    if any(path.name.lower() in SPLITS for path in below):
        return any(_has_classes(dataset, path) for path in below if path.name.lower() in SPLITS)
    known = _known(dataset)
    return any(plain(path.name) in known for path in below) if known else any(next(images(p), None) for p in below)


def _known(dataset: Dataset) -> dict[str, str]:
    """Every spelling of a class -> its folder's name."""
    return {way: name for name, others in dataset.classes.items() for way in by_name(name, others)}


def _complete(dataset: Dataset, folder: Path, below: set[str]) -> list[str]:
    """The splits that together have every image once."""
    if {"train", "test"} <= below:
        return [split for split in ("train", "crossval", "val", "test") if split in below]
    if {"full", "test"} <= below:
        return ["full", "test"]
    raise UserError(f"{dataset.name}: {folder} has the splits {', '.join(sorted(below))}; needed are train and test")


def _classes(dataset: Dataset, folder: Path, target: Path, inputs: Inputs, prefix: str = "") -> None:
    known = _known(dataset)
    below = subfolders(folder)
    strange = [path.name for path in below if known and plain(path.name) not in known]
    if strange:
        raise UserError(
            f"{dataset.name}: {folder} has a folder {strange[0]!r}, which is none of its classes "
            f"({', '.join(dataset.classes)})"
        )
    for path in below:
        class_folder = target / (known[plain(path.name)] if known else path.name)
        class_folder.mkdir(parents=True, exist_ok=True)
        for name in images(path):
            inputs.transfer(path / name, class_folder / (prefix + name))
