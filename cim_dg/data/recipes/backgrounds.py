"""ImageNet-9 and the Backgrounds Challenge: test images of the release, training images of an archive or ImageNet."""

from __future__ import annotations

import json
from pathlib import Path

from cim_dg.data.catalogue import Dataset
from cim_dg.data.recipes.inputs import Inputs, images, subfolders
from cim_dg.errors import UserError

CLASSES = 9
MAPPING = "in_to_in9.json"
TRAINING = "original/train"
PARTS = ("original/val", "mixed_same/val", "mixed_rand/val", "only_bg_t/val", "fg_mask/val")
"""The folders of the release that the harness reads."""


def lay_out(dataset: Dataset, inputs: Inputs, target: Path) -> None:
    """Lay out original/train and the test folders, as far as the inputs have them.

    original/val is taken from the release, where it is next to mixed_same. Upstream says to ignore the one in a
    training archive.

    Raises:
        UserError: none of them is there, or an ImageNet copy does not fit the mapping.
    """
    found = False
    for part in PARTS:
        folder = _test_folder(inputs, part)
        if folder is not None:
            inputs.transfer(folder, target / part)
            found = True
    mapping = inputs.file(MAPPING)
    if mapping is not None:
        _from_imagenet(dataset, mapping, inputs, target / TRAINING)
        found = True
    else:
        training = next((f for f in inputs.folders if f.name == "train" and _nine(f) and _is_original(f)), None)
        if training is not None:
            inputs.transfer(training, target / TRAINING)
            found = True
    if not found:
        raise UserError(
            f"{dataset.name}: {inputs} has neither the release's folders ({', '.join(PARTS)}) nor a train folder with "
            f"the nine classes, nor {MAPPING} and an ImageNet copy"
        )


def _nine(folder: Path) -> bool:
    return len(subfolders(folder)) == CLASSES


def _is_original(folder: Path) -> bool:
    """Whether a train folder has the original backgrounds, not a variant's."""
    return folder.parent.name in ("original", "in9l") or folder.parent.name not in {p.split("/")[0] for p in PARTS}


def _test_folder(inputs: Inputs, part: str) -> Path | None:
    variant, name = part.split("/")
    for folder in inputs.folders:
        if folder.name == variant and (folder / name).is_dir() and (folder.parent / "mixed_same").is_dir():
            return folder / name
    return None


def _from_imagenet(dataset: Dataset, mapping: Path, inputs: Inputs, target: Path) -> None:
    """IN-9L: all training images of the ImageNet classes that the mapping assigns to one of the nine."""
    try:
        entries = json.loads(mapping.read_text(encoding="utf-8"))
        nine = {int(index): int(value) for index, value in entries.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        raise UserError(f"{dataset.name}: {mapping} is not the mapping of ImageNet's classes to the nine") from None
    # ImageNet's classes are numbered in the order of their WordNet ids, which are the folders' names.
    candidates = [folder for folder in inputs.folders if any(_is_wordnet(path.name) for path in subfolders(folder))]
    if not candidates:
        raise UserError(f"{dataset.name}: {inputs} has no folder with ImageNet's class folders (n01440764, ...)")
    folders = [path for path in subfolders(candidates[0]) if _is_wordnet(path.name)]
    if len(folders) != len(nine):
        raise UserError(
            f"{dataset.name}: {candidates[0]} has {len(folders)} class folders and {mapping} {len(nine)} classes; "
            "without all of them it cannot be said which class is which"
        )
    assert dataset.manifest is not None
    for index, folder in enumerate(folders):
        value = nine.get(index, -1)
        if not -1 <= value < CLASSES:
            raise UserError(f"{dataset.name}: {mapping} has {value} for class {index}; accepted is -1 to 8")
        if value >= 0:
            class_folder = target / dataset.manifest.classes[value]
            class_folder.mkdir(parents=True, exist_ok=True)
            for name in images(folder):
                inputs.transfer(folder / name, class_folder / name)


def _is_wordnet(name: str) -> bool:
    return len(name) == 9 and name[0] == "n" and name[1:].isdigit()
