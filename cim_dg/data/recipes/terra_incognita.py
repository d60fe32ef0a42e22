"""TerraIncognita from the Caltech Camera Traps of ECCV 2018: the four locations and ten classes of DomainBed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cim_dg.data.catalogue import Dataset
from cim_dg.data.recipes.inputs import Inputs
from cim_dg.errors import UserError

PARTS = ("cis_test", "cis_val", "train", "trans_test", "trans_val")


def lay_out(dataset: Dataset, inputs: Inputs, target: Path) -> None:
    """Copy each image to location_PLACE/CLASS, for each of its annotations with one of the ten classes.

    Raises:
        UserError: the annotations or the images are missing.
    """
    tables = [inputs.file(f"{part}_annotations.json") for part in PARTS]
    images = inputs.folder("eccv_18_all_images_sm")
    if None in tables or images is None:
        raise UserError(
            f"{dataset.name}: needed are eccv_18_all_images_sm and the five files of eccv_18_annotation_files; not all "
            f"of them are in {inputs}"
        )
    where: dict[str, tuple[str, str]] = {}
    classes_of: dict[str, set[str]] = {}
    for table in tables:
        assert table is not None
        content = _read(table)
        try:
            names = {entry["id"]: entry["name"] for entry in content["categories"]}
            for entry in content["images"]:
                where[entry["id"]] = (f"location_{entry['location']}", entry["file_name"])
            for entry in content["annotations"]:
                classes_of.setdefault(entry["image_id"], set()).add(names.get(entry["category_id"], ""))
        except (KeyError, TypeError):
            raise UserError(f"{dataset.name}: {table} is not as the camera traps' annotations are") from None
    for image, (location, name) in where.items():
        image_classes = (
            sorted(classes_of.get(image, set()) & set(dataset.classes)) if location in dataset.domains else []
        )
        for category in image_classes:
            if not (images / name).is_file() or "/" in name:
                raise UserError(f"{dataset.name}: {images} has no image {name}, which the annotations name")
            folder = target / location / category
            folder.mkdir(parents=True, exist_ok=True)
            # An image of two classes goes to both folders, so only the last may move it.
            source = images / name
            if category == image_classes[-1]:
                inputs.transfer(source, folder / name)
            else:
                (folder / name).write_bytes(source.read_bytes())


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None
