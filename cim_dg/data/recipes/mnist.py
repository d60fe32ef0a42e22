"""MNIST's four raw files, unpacked to MNIST/raw."""

from __future__ import annotations

import gzip
import shutil
import zlib
from pathlib import Path

from cim_dg.data.catalogue import Dataset
from cim_dg.data.recipes.inputs import Inputs
from cim_dg.errors import UserError

FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


def lay_out(dataset: Dataset, inputs: Inputs, target: Path) -> None:
    """Put the files into TARGET/raw, from .gz files or plain ones.

    Raises:
        UserError: a file is missing or damaged.
    """
    raw = target / "raw"
    raw.mkdir(parents=True)
    for name in FILES:
        packed = inputs.file(f"{name}.gz")
        source = packed or inputs.file(name, name.replace("-idx", ".idx"))
        if source is None:
            raise UserError(f"{dataset.name}: there is no {name}.gz in {inputs}")
        try:
            with gzip.open(source) if packed else open(source, "rb") as content, open(raw / name, "wb") as file:
                shutil.copyfileobj(content, file)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{dataset.name}: {source} cannot be unpacked: {error}") from None
