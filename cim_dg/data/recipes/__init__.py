"""How what comes from a source becomes the folder that a harness reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cim_dg.data.catalogue import Dataset
from cim_dg.data.recipes import (
    backgrounds,
    domain_net,
    image_folders,
    mnist,
    parquet,
    tables,
    terra_incognita,
    vlcs,
    vlcs_mini,
    waterbirds,
)
from cim_dg.data.recipes.given import Given
from cim_dg.errors import UserError

_PARQUET = {"image_folders": parquet.image_folders, "waterbirds": parquet.waterbirds}


def lay_out(dataset: Dataset, paths: Sequence[Path], ours: Path, target: Path) -> list[str]:
    """Make the new folder `target` from what was downloaded or given; returns notes on what is not as it could be.

    By what there is, and not by where it came from: an archive that was renamed or unpacked by hand will do.

    Args:
        paths: folders (of unpacked archives) and files.
        ours: below this folder files are moved, elsewhere they are copied.

    Raises:
        UserError: it is not what the dataset is made from; the message says what is missing.
    """
    given = Given(paths, ours)
    _recipe(dataset, given)(target)
    return given.notes


def _recipe(dataset: Dataset, given: Given) -> Callable[[Path], None]:
    files = given.files(".parquet")
    if files:
        if dataset.layout not in _PARQUET:
            raise UserError(f"{dataset.name} cannot be made from parquet files")
        return lambda target: _PARQUET[dataset.layout](dataset, files, given, target)
    if dataset.name == "VLCSMini":
        return lambda target: vlcs_mini.lay_out(dataset, given, target)
    if dataset.name == "VLCS" and (listed := given.file(vlcs.LIST)) is not None:
        return lambda target: vlcs.from_list(dataset, listed, given, target)
    if dataset.name == "TerraIncognita" and given.file("train_annotations.json") is not None:
        return lambda target: terra_incognita.lay_out(dataset, given, target)
    if dataset.layout == "waterbirds" and given.file("train_test_split.txt") is not None:
        return lambda target: waterbirds.lay_out(dataset, given, target)
    if dataset.layout == "celeba" and given.file(f"{tables.CELEBA_ATTRIBUTES}.txt") is not None:
        return lambda target: tables.celeba(dataset, given, target)
    by_layout: dict[str, Callable[[Dataset, Given, Path], None]] = {
        "image_folders": domain_net.lay_out if dataset.name == "DomainNet" else image_folders.lay_out,
        "mnist": mnist.lay_out,
        "backgrounds": backgrounds.lay_out,
    }
    recipe = by_layout.get(dataset.layout, tables.lay_out)
    return lambda target: recipe(dataset, given, target)
