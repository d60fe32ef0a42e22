"""Where a copy differs from its manifest, in sentences; and which known variant of the dataset it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cim_dg.data.catalogue import Dataset, Manifest, Variant
from cim_dg.data.inventory import Inventory
from cim_dg.data.scan import Image

SHOWN = 3


def differences(dataset: Dataset, found: Inventory, images: Sequence[Image] | None) -> list[str]:
    """What is not as the manifest says; empty if all is.

    Args:
        images: every image as it was read; None if they were not, so that only what the folder shows is compared.
    """
    manifest = dataset.manifest
    assert manifest is not None
    sentences = list(found.problems)
    sentences += _counts(manifest, found.counts())
    if manifest.classes and found.classes and list(manifest.classes) != found.classes:
        sentences.append(
            f"its classes are {_listed(found.classes)}, in this order; expected are {_listed(manifest.classes)}"
        )
    if found.missing:
        sentences.append(f"{len(found.missing):,} images that its table names are not there: {_first(found.missing)}")
    if images is not None:
        sentences += _images(manifest, images)
    return sentences


def _counts(manifest: Manifest, counts: Counter[str]) -> list[str]:
    sentences = []
    for group, expected in manifest.groups.items():
        there = below(counts, group)
        if there != expected:
            sentences.append(f"{group or 'it'} has {there:,} images, {expected:,} expected")
    strange = [group for group in counts if not any(_covers(known, group) for known in manifest.groups)]
    for group in sorted(strange) if manifest.groups else []:
        if not any(_covers(group, known) for known in manifest.groups):
            sentences.append(f"{group} has {counts[group]:,} images, and is not expected at all")
    return sentences


def below(counts: Mapping[str, int], group: str) -> int:
    """The images of a group and all groups below it."""
    return sum(count for name, count in counts.items() if _covers(group, name))


def _covers(group: str, name: str) -> bool:
    return not group or name == group or name.startswith(f"{group}/")


def _images(manifest: Manifest, images: Sequence[Image]) -> list[str]:
    sentences = []
    unreadable = [image for image in images if image.error]
    if unreadable:
        sentences.append(f"{len(unreadable):,} unreadable: {_first(f'{one.path} ({one.error})' for one in unreadable)}")
    photographs = [image for image in images if not image.error and not image.path.endswith(".npy")]
    if manifest.size is not None:
        wrong = [image for image in photographs if image.size != manifest.size]
        if wrong:
            width, height = manifest.size
            examples = _first(f"{one.path} ({one.size[0]} x {one.size[1]})" for one in wrong)
            sentences.append(f"{len(wrong):,} images are not of {width} x {height} pixels: {examples}")
    if manifest.modes:
        wrong = [image for image in photographs if image.mode not in manifest.modes]
        if wrong:
            examples = _first(f"{one.path} ({one.mode})" for one in wrong)
            sentences.append(f"{len(wrong):,} images are not {' or '.join(manifest.modes)}: {examples}")
    twins = duplicates(images)
    if manifest.duplicates is not None and len(twins) != manifest.duplicates:
        sentences.append(
            f"{len(twins):,} images have the bytes of another, {manifest.duplicates:,} expected"
            + (f": {_first(f'{one} = {other}' for one, other in twins)}" if twins else "")
        )
    return sentences


def duplicates(images: Iterable[Image]) -> list[tuple[str, str]]:
    """Images whose bytes are those of an earlier one, with that one."""
    first: dict[str, str] = {}
    twins = []
    for image in images:
        if image.digest and image.digest in first:
            twins.append((image.path, first[image.digest]))
        elif image.digest:
            first[image.digest] = image.path
    return twins


def notes(dataset: Dataset, found: Inventory, images: Sequence[Image] | None) -> list[str]:
    """What is worth knowing and no difference: files that nobody reads, duplicates whose expected number is unknown."""
    sentences = []
    if found.others:
        sentences.append(
            f"{len(found.others):,} files are there that the harness does not read: {_first(found.others)}"
        )
    manifest = dataset.manifest
    assert manifest is not None
    if images is not None and manifest.duplicates is None:
        twins = duplicates(images)
        if twins:
            sentences.append(
                f"{len(twins):,} images have the bytes of another (how many the original has is not known): "
                f"{_first(f'{one} = {other}' for one, other in twins)}"
            )
    return sentences


def variant(dataset: Dataset, folder: Path, found: Inventory | None, images: Sequence[Image] | None) -> str | None:
    """The name and meaning of a known variant that this copy is; None if it is none.

    Args:
        found: None if the folder is not of the dataset's form, so that only its folders can tell.
    """
    manifest = dataset.manifest
    assert manifest is not None
    counts = found.counts() if found is not None else Counter()
    for known in manifest.variants:
        if _is(known, folder, counts, images, found is not None):
            return f"{known.name}: {known.meaning}"
    return _strength(manifest, counts) if dataset.layout == "waterbirds" else None


def _is(known: Variant, folder: Path, counts: Counter[str], images: Sequence[Image] | None, inventory: bool) -> bool:
    told = []
    if known.folders:
        told.append(all((folder / name).is_dir() for name in known.folders))
    if known.groups:
        told.append(inventory and all(below(counts, group) == count for group, count in known.groups.items()))
    if known.size is not None:
        readable = [image for image in images or () if not image.error]
        told.append(bool(readable) and all(image.size == known.size for image in readable))
    return all(told)


def _strength(manifest: Manifest, counts: Counter[str]) -> str | None:
    """Waterbirds whose training birds are before their own kind of place in another share than the published one."""

    def share(groups: Mapping[str, int]) -> float | None:
        own = groups.get("train/y=0,place=0", 0) + groups.get("train/y=1,place=1", 0)
        other = groups.get("train/y=0,place=1", 0) + groups.get("train/y=1,place=0", 0)
        return own / (own + other) if own + other else None

    here, there = share(counts), share(manifest.groups)
    if here is None or there is None or abs(here - there) < 0.005:
        return None
    return (
        f"other confounder strength: {here:.2f} of the training birds are before their own kind of place, and "
        f"{there:.2f} in the published dataset; figures are not comparable"
    )


def _listed(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "")


def _first(items: Iterable[str]) -> str:
    shown = list(items)
    return ", ".join(shown[:SHOWN]) + (f" and {len(shown) - SHOWN:,} more" if len(shown) > SHOWN else "")
