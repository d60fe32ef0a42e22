"""DomainNet: six archives, without the duplicates that DomainBed's list names."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from cim_dg.data.catalogue import Dataset
from cim_dg.data.recipes import image_folders
from cim_dg.data.recipes.inputs import Inputs

LIST = "domain_net_duplicates.txt"


def lay_out(dataset: Dataset, inputs: Inputs, target: Path) -> None:
    """Lay out the image folders without the duplicates; without a list of them, add a note.

    Raises:
        UserError: a domain is missing.
    """
    image_folders.lay_out(dataset, inputs, target)
    listed = inputs.file(LIST)
    if listed is None:
        inputs.notes.append(
            f"no {LIST} was given (domainbed/misc of a DomainBed clone has it): duplicates are still there"
        )
        return
    for line in listed.read_text(encoding="utf-8").splitlines():
        path = PurePosixPath(line.strip())
        if line.strip() and not path.is_absolute() and ".." not in path.parts:
            (target / path).unlink(missing_ok=True)
