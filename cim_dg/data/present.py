"""Which datasets are on the disk, and a sentence on how to get a missing one."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from cim_dg.data.catalogue import Dataset, load, names, of_harness
from cim_dg.data.recipes import backgrounds, mnist, tables


def is_there(dataset: Dataset, data_dir: Path) -> bool:
    """Whether a copy of the dataset is below `data_dir`, complete or not."""
    return not missing(dataset, data_dir)


def missing(dataset: Dataset, data_dir: Path) -> list[str]:
    """The folders or files below `data_dir` that a harness needs and that are missing."""
    folder = dataset.path(data_dir)
    if dataset.layout == "none":
        return []
    if dataset.layout == "backgrounds":
        needed = [Path(part) for part in (backgrounds.TRAINING, *backgrounds.PARTS)]
    elif dataset.layout == "mnist":
        needed = [Path(dataset.folder, "raw", name) for name in mnist.FILES]
    elif dataset.layout == "image_folders":
        # Copies with other domain names count as present; `verify` reports the difference.
        count = sum(path.is_dir() for path in folder.iterdir()) if folder.is_dir() else 0
        return [] if count >= len(dataset.domains) else [dataset.folder]
    else:
        needed = [Path(dataset.folder, name) for name in tables.TABLES[dataset.layout]]
    return [str(path) for path in needed if not (data_dir / path).exists()]


def command(dataset: Dataset, data_dir: str | Path | None) -> str:
    """The command that gets a dataset."""
    return f"cim-dg data get {dataset.name} --data_dir {shlex.quote(str(data_dir)) if data_dir is not None else 'DIR'}"


def sentence(harness: str, name: str, data_dir: str | Path | None) -> str | None:
    """How to get the dataset `name` of a harness, if it has files and some are missing; else None."""
    dataset = of_harness(harness, name)
    if dataset is None or (data_dir is not None and is_there(dataset, Path(data_dir))) or dataset.layout == "none":
        return None
    return f"`{command(dataset, data_dir)}` gets {dataset.name}"


def needed(harness: str, datasets: Sequence[str], data_dir: str | Path | None) -> list[str]:
    """`sentence` for each of a harness' datasets that is incomplete."""
    sentences = (sentence(harness, name, data_dir) for name in datasets)
    return [text for text in sentences if text is not None]


def all_datasets() -> list[Dataset]:
    """All datasets, in the order of the table: those that need files first."""
    return sorted(map(load, names()), key=lambda dataset: (dataset.layout == "none", dataset.name.lower()))
