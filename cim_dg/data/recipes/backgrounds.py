"""ImageNet-9 and the Backgrounds Challenge: test images of the release, training images of an archive or ImageNet."""

from __future__ import annotations

import json
from pathlib import Path

from cim_dg.data.catalogue import Dataset
from cim_dg.data.recipes.given import Given, images, subfolders
from cim_dg.errors import UserError

CLASSES = 9
MAPPING = "in_to_in9.json"
TRAINING = "original/train"
PARTS = ("original/val", "mixed_same/val", "mixed_rand/val", "only_bg_t/val", "fg_mask/val")
"""What the release has, and the harness reads."""


def lay_out(dataset: Dataset, given: Given, target: Path) -> None:
    """Whatever is given of original/train and the test folders.

    The original/val that counts is the release's, which stands beside mixed_same. Upstream says to ignore that of a
    training archive.

    Raises:
        UserError: nothing of it is there, or an ImageNet copy does not fit the mapping.
    """
    found = False
    for part in PARTS:
        folder = _test_folder(given, part)
        if folder is not None:
            given.place(folder, target / part)
            found = True
    mapping = given.file(MAPPING)
    if mapping is not None:
        _from_imagenet(dataset, mapping, given, target / TRAINING)
        found = True
    else:
        training = next((f for f in given.folders if f.name == "train" and _nine(f) and _is_original(f)), None)
        if training is not None:
            given.place(training, target / TRAINING)
            found = True
    if not found:
        raise UserError(
            f"{dataset.name}: {given} has neither the release's folders ({', '.join(PARTS)}) nor a train folder with "
            f"the nine classes, nor {MAPPING} and an ImageNet copy"
        )


def _nine(folder: Path) -> bool:
    return len(subfolders(folder)) == CLASSES


def _is_original(folder: Path) -> bool:
    """Whether a train folder is not that of a variant with changed backgrounds."""
    return folder.parent.name in ("original", "in9l") or folder.parent.name not in {p.split("/")[0] for p in PARTS}


def _test_folder(given: Given, part: str) -> Path | None:
    variant, name = part.split("/")
    for folder in given.folders:
        if folder.name == variant and (folder / name).is_dir() and (folder.parent / "mixed_same").is_dir():
            return folder / name
    return None


def _from_imagenet(dataset: Dataset, mapping: Path, given: Given, target: Path) -> None:
    """IN-9L: all training images of the ImageNet classes that the mapping puts into one of the nine."""
    try:
        entries = json.loads(mapping.read_text(encoding="utf-8"))
        nine = {int(index): int(value) for index, value in entries.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        raise UserError(f"{dataset.name}: {mapping} is not the mapping of ImageNet's classes to the nine") from None
    # ImageNet's classes count in the order of their WordNet ids, which are their folders' names.
    candidates = [folder for folder in given.folders if any(_is_wordnet(path.name) for path in subfolders(folder))]
    if not candidates:
        raise UserError(f"{dataset.name}: {given} has no folder with ImageNet's class folders (n01440764, ...)")
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
            place = target / dataset.manifest.classes[value]
            place.mkdir(parents=True, exist_ok=True)
            for name in images(folder):
                given.place(folder / name, place / name)


def _is_wordnet(name: str) -> bool:
    return len(name) == 9 and name[0] == "n" and name[1:].isdigit()
