"""Folders for the package `wilds`: recognised by its tables, completed with its release file."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from cim_dg.data.catalogue import Dataset
from cim_dg.data.recipes.inputs import Inputs
from cim_dg.errors import UserError
from cim_dg.runtime.files import write_atomically

TABLES = {
    "waterbirds": ("metadata.csv",),
    "celeba": ("list_attr_celeba.csv", "list_eval_partition.csv"),
    "camelyon17": ("metadata.csv",),
    "iwildcam": ("metadata.csv",),
    "fmow": ("rgb_metadata.csv", "country_code_mapping.csv"),
    "rxrx1": ("metadata.csv",),
}
"""The tables that WILDS reads, by layout."""

BELOW = {"celeba": ("img_align_celeba",), "camelyon17": ("patches",), "iwildcam": ("train",), "fmow": ("images",),
         "rxrx1": ("images",)}  # fmt: skip
"""The folders that must be next to the tables."""

CELEBA_SPLITS, CELEBA_ATTRIBUTES = "list_eval_partition", "list_attr_celeba"


def lay_out(dataset: Dataset, inputs: Inputs, target: Path) -> None:
    """Move the folder that has the tables to `target`, and write the release file that WILDS looks for.

    Raises:
        UserError: no folder has the tables.
    """
    tables, below = TABLES[dataset.layout], BELOW.get(dataset.layout, ())
    for folder in inputs.folders:
        if all((folder / name).is_file() for name in tables) and all((folder / name).is_dir() for name in below):
            inputs.transfer(folder, target)
            release(dataset, target)
            return
    raise UserError(
        f"{dataset.name}: no folder in {inputs} has {', '.join([*tables, *(f'{name}/' for name in below)])}"
    )


def celeba(dataset: Dataset, inputs: Inputs, target: Path) -> None:
    """CelebA from its authors' files: img_align_celeba.zip (or the folder), list_attr_celeba and list_eval_partition.

    Raises:
        UserError: a file is missing or has another format.
    """
    images = inputs.folder("img_align_celeba", "img_celeba")
    # Some mirrors' zip has the folder inside a folder of the same name.
    while images is not None and (images / images.name).is_dir():
        images = images / images.name
    texts = [inputs.file(f"{name}.txt") for name in (CELEBA_ATTRIBUTES, CELEBA_SPLITS)]
    if images is None or None in texts:
        raise UserError(
            f"{dataset.name}: needed are img_align_celeba (or its zip), list_attr_celeba.txt and "
            f"list_eval_partition.txt; not all of them are in {inputs}"
        )
    attributes, splits = (text.read_text(encoding="utf-8").splitlines() for text in texts if text is not None)
    names = attributes[1].split()
    rows = [line.split() for line in attributes[2:] if line.strip()]
    parts = [line.split() for line in splits if line.strip()]
    if any(len(row) != len(names) + 1 for row in rows) or [r[0] for r in rows] != [p[0] for p in parts]:
        raise UserError(f"{dataset.name}: the two lists are not of the same images, or not as their authors write them")
    target.mkdir(parents=True)
    _table(target / "list_attr_celeba.csv", ["image_id", *names], rows)
    _table(target / "list_eval_partition.csv", ["image_id", "partition"], parts)
    inputs.transfer(images, target / images.name)
    release(dataset, target)


def _table(path: Path, header: list[str], rows: list[list[str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def release(dataset: Dataset, folder: Path) -> None:
    """Write RELEASE_vX.txt, without which WILDS does not accept the folder."""
    path = folder / f"RELEASE_v{dataset.version}.txt"
    if not path.exists():
        write_atomically(path, f"Laid out by cim-dg as {dataset.folder}; see cim-dg-{dataset.name}.json.\n")
