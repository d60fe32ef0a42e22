"""VLCS from its four original datasets, by DomainBed's list of images."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from cim_dg.data.catalogue import Dataset
from cim_dg.data.recipes.inputs import Inputs
from cim_dg.errors import UserError

LIST = "vlcs_files.txt"


def from_list(dataset: Dataset, listed: Path, inputs: Inputs, target: Path) -> None:
    """Copy every image in the list `listed` (lines of 'SOURCE VLCS/DOMAIN/CLASS/') to its class.

    A source is a path below one of the input folders, or an address of LabelMe's, whose last two parts are searched.
    Files are named after their source, so that their order, and with it DomainBed's splits, is fixed.

    Raises:
        UserError: a line has another form, or an image is missing.
    """
    for number, line in enumerate(listed.read_text(encoding="utf-8").splitlines(), start=1):
        parts = line.split()
        target_parts = PurePosixPath(parts[1]).parts if len(parts) == 2 else ()
        if len(target_parts) != 3 or target_parts[1] not in dataset.domains or target_parts[2] not in dataset.classes:
            raise UserError(f"{dataset.name}: line {number} of {listed} is not 'SOURCE VLCS/DOMAIN/CLASS/'")
        folder = target / target_parts[1] / target_parts[2]
        folder.mkdir(parents=True, exist_ok=True)
        source = _find(dataset, parts[0], inputs)
        # A photograph can be in two classes, so even movable files are copied.
        (folder / "_".join(PurePosixPath(parts[0]).parts[-2:])).write_bytes(source.read_bytes())


def _find(dataset: Dataset, source: str, inputs: Inputs) -> Path:
    parts = PurePosixPath(source).parts
    tails = [parts[-2:]] if source.startswith("http") else [parts[start:] for start in range(len(parts) - 1)]
    for folder in inputs.folders:
        for tail in tails:
            if (path := folder.joinpath(*tail)).is_file():
                return path
    raise UserError(f"{dataset.name}: the image {source} is nowhere in {inputs}")
