"""The recipes that turn a source's files into the folder that a harness reads."""

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
from cim_dg.data.recipes.inputs import Inputs
from cim_dg.errors import UserError

_PARQUET = {"image_folders": parquet.image_folders, "waterbirds": parquet.waterbirds}


def lay_out(dataset: Dataset, paths: Sequence[Path], movable: Path, target: Path) -> list[str]:
    """Create the folder `target` from downloaded files or the user's; returns notes on imperfections.

    The recipe depends on the files' content, not on their source: a renamed or unpacked archive works too.

    Args:
        paths: folders (of unpacked archives) and files.
        movable: files below this folder are moved, all others copied.

    Raises:
        UserError: the paths lack something that the dataset needs; the message names it.
    """
    inputs = Inputs(paths, movable)
    _recipe(dataset, inputs)(target)
    return inputs.notes


def _recipe(dataset: Dataset, inputs: Inputs) -> Callable[[Path], None]:
    files = inputs.files(".parquet")
    if files:
        if dataset.layout not in _PARQUET:
            raise UserError(f"{dataset.name} cannot be made from parquet files")
        return lambda target: _PARQUET[dataset.layout](dataset, files, inputs, target)
    if dataset.name == "VLCSMini":
        return lambda target: vlcs_mini.lay_out(dataset, inputs, target)
    if dataset.name == "VLCS" and (listed := inputs.file(vlcs.LIST)) is not None:
        return lambda target: vlcs.from_list(dataset, listed, inputs, target)
    if dataset.name == "TerraIncognita" and inputs.file("train_annotations.json") is not None:
        return lambda target: terra_incognita.lay_out(dataset, inputs, target)
    if dataset.layout == "waterbirds" and inputs.file("train_test_split.txt") is not None:
        return lambda target: waterbirds.lay_out(dataset, inputs, target)
    if dataset.layout == "celeba" and inputs.file(f"{tables.CELEBA_ATTRIBUTES}.txt") is not None:
        return lambda target: tables.celeba(dataset, inputs, target)
    by_layout: dict[str, Callable[[Dataset, Inputs, Path], None]] = {
        "image_folders": domain_net.lay_out if dataset.name == "DomainNet" else image_folders.lay_out,
        "mnist": mnist.lay_out,
        "backgrounds": backgrounds.lay_out,
    }
    recipe = by_layout.get(dataset.layout, tables.lay_out)
    return lambda target: recipe(dataset, inputs, target)
