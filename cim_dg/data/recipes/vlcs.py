"""VLCS from the originals of its four sources, by DomainBed's list of which images are meant."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from cim_dg.data.catalogue import Dataset
from cim_dg.data.recipes.given import Given
from cim_dg.errors import UserError

LIST = "vlcs_files.txt"


def from_list(dataset: Dataset, listed: Path, given: Given, target: Path) -> None:
    """Copy every image that `listed` names, 'SOURCE VLCS/DOMAIN/CLASS/' a line, to its class.

    A source is a path below one of the given folders, or an address of LabelMe's, of which the last two parts are
    looked for. Files are named by source, so that their order, and with it DomainBed's splits, does not depend on
    chance.

    Raises:
        UserError: a line is not of that form, or an image is not there.
    """
    for number, line in enumerate(listed.read_text(encoding="utf-8").splitlines(), start=1):
        parts = line.split()
        place = PurePosixPath(parts[1]).parts if len(parts) == 2 else ()
        if len(place) != 3 or place[1] not in dataset.domains or place[2] not in dataset.classes:
            raise UserError(f"{dataset.name}: line {number} of {listed} is not 'SOURCE VLCS/DOMAIN/CLASS/'")
        folder = target / place[1] / place[2]
        folder.mkdir(parents=True, exist_ok=True)
        source = _find(dataset, parts[0], given)
        # One photograph can be in two classes, so that the user's and ours are copied alike.
        (folder / "_".join(PurePosixPath(parts[0]).parts[-2:])).write_bytes(source.read_bytes())


def _find(dataset: Dataset, source: str, given: Given) -> Path:
    parts = PurePosixPath(source).parts
    tails = [parts[-2:]] if source.startswith("http") else [parts[start:] for start in range(len(parts) - 1)]
    for folder in given.folders:
        for tail in tails:
            if (path := folder.joinpath(*tail)).is_file():
                return path
    raise UserError(f"{dataset.name}: the image {source} is nowhere in {given}")
