"""The user's registered datasets (`cim_dg.data.own`) as datasets of DomainBed."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

from cim_dg.data import own
from cim_dg.errors import UserError


def make_own_dataset(dataset: own.OwnDataset, datasets: ModuleType) -> type:
    """`dataset` as a class of the DomainBed with the given `domainbed.datasets` module."""
    base: Any = datasets.MultipleEnvironmentImageFolder

    class OwnDataset(base):
        """A dataset registered by `cim-dg data register`; --data_dir is not used.

        Raises:
            UserError: the folder was changed since its registration, or a domain lacks a class.
        """

        ENVIRONMENTS = list(dataset.domains)  # noqa: RUF012 - DomainBed's own classes have plain lists
        CHECKPOINT_FREQ = 300

        def __init__(self, root: str | None, test_envs: list[int], hparams: dict[str, Any]) -> None:
            _check_folder(dataset)
            super().__init__(dataset.folder, test_envs, hparams["data_augmentation"], hparams)

    OwnDataset.__name__ = OwnDataset.__qualname__ = dataset.name
    OwnDataset.__module__ = datasets.__name__  # pickle finds a class by these names
    return OwnDataset


def _check_folder(dataset: own.OwnDataset) -> None:
    """Refuse a folder that DomainBed would read wrongly, because it numbers classes by each domain's own folders."""
    folder = Path(dataset.folder)
    if not folder.is_dir():
        raise UserError(f"{dataset.name} was registered in {folder}, which is not there; register it again")
    found = _folders(folder)
    if found != dataset.domains:
        raise UserError(
            f"{folder} has the folders {', '.join(found)} and was registered with {', '.join(dataset.domains)}; "
            "register it again"
        )
    for domain in dataset.domains:
        classes = _folders(folder / domain)
        if classes != dataset.classes:
            lacking = sorted(set(dataset.classes) - set(classes))
            raise UserError(
                f"the domain {domain} of {dataset.name} has no image of {', '.join(lacking) or 'its classes'}: "
                "DomainBed needs every class in every domain (WILDS does not); leave out the domain or the class"
            )


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
