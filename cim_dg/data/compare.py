"""The differences of a copy from its manifest, in sentences, and the known variant of the dataset that it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cim_dg.data.catalogue import Dataset, Manifest, Variant
from cim_dg.data.inventory import Inventory
from cim_dg.data.scan import Image

SHOWN = 3


def differences(dataset: Dataset, contents: Inventory, images: Sequence[Image] | None) -> list[str]:
    """The differences from the manifest; empty if there are none.

    Args:
        images: every image as read; None to compare the folder only.
    """
    manifest = dataset.manifest
    assert manifest is not None
    sentences = list(contents.problems)
    sentences += _counts(manifest, contents.counts())
    if manifest.classes and contents.classes and list(manifest.classes) != contents.classes:
        sentences.append(
            f"its classes are {_listed(contents.classes)}, in this order; expected are {_listed(manifest.classes)}"
        )
    if contents.missing:
        sentences.append(
            f"{len(contents.missing):,} images that its table names are not there: {_first(contents.missing)}"
        )
    if images is not None:
        sentences += _images(manifest, images)
    return sentences


def _counts(manifest: Manifest, counts: Counter[str]) -> list[str]:
    sentences = []
    for group, expected in manifest.groups.items():
        count = below(counts, group)
        if count != expected:
            sentences.append(f"{group or 'it'} has {count:,} images, {expected:,} expected")
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
        sentences.append(
            f"{len(unreadable):,} unreadable: {_first(f'{image.path} ({image.error})' for image in unreadable)}"
        )
    photographs = [image for image in images if not image.error and not image.path.endswith(".npy")]
    if manifest.size is not None:
        unexpected = [image for image in photographs if image.size != manifest.size]
        if unexpected:
            width, height = manifest.size
            examples = _first(f"{image.path} ({image.size[0]} x {image.size[1]})" for image in unexpected)
            sentences.append(f"{len(unexpected):,} images are not of {width} x {height} pixels: {examples}")
    if manifest.modes:
        unexpected = [image for image in photographs if image.mode not in manifest.modes]
        if unexpected:
            examples = _first(f"{image.path} ({image.mode})" for image in unexpected)
            sentences.append(f"{len(unexpected):,} images are not {' or '.join(manifest.modes)}: {examples}")
    twins = duplicates(images)
    if manifest.duplicates is not None and len(twins) != manifest.duplicates:
        sentences.append(
            f"{len(twins):,} images have the bytes of another, {manifest.duplicates:,} expected"
            + (f": {_first(f'{path} = {first_path}' for path, first_path in twins)}" if twins else "")
        )
    return sentences


def duplicates(images: Iterable[Image]) -> list[tuple[str, str]]:
    """Images with the same bytes as an earlier one, and that one."""
    first: dict[str, str] = {}
    twins = []
    for image in images:
        if image.digest and image.digest in first:
            twins.append((image.path, first[image.digest]))
        elif image.digest:
            first[image.digest] = image.path
    return twins


def notes(dataset: Dataset, contents: Inventory, images: Sequence[Image] | None) -> list[str]:
    """Notes that are not differences: files that no harness reads, and duplicates whose expected number is unknown."""
    sentences = []
    if contents.others:
        sentences.append(
            f"{len(contents.others):,} files are there that the harness does not read: {_first(contents.others)}"
        )
    manifest = dataset.manifest
    assert manifest is not None
    if images is not None and manifest.duplicates is None:
        twins = duplicates(images)
        if twins:
            sentences.append(
                f"{len(twins):,} images have the bytes of another (how many the original has is not known): "
                f"{_first(f'{path} = {first_path}' for path, first_path in twins)}"
            )
    return sentences


def variant(dataset: Dataset, folder: Path, contents: Inventory | None, images: Sequence[Image] | None) -> str | None:
    """The name and meaning of a known variant that this copy is; None if it is none.

    Args:
        contents: None if the folder does not have the dataset's layout, so that only its folders are compared.
    """
    manifest = dataset.manifest
    assert manifest is not None
    counts = contents.counts() if contents is not None else Counter()
    for known in manifest.variants:
        if _is(known, folder, counts, images, contents is not None):
            return f"{known.name}: {known.meaning}"
    return _strength(manifest, counts) if dataset.layout == "waterbirds" else None


def _is(known: Variant, folder: Path, counts: Counter[str], images: Sequence[Image] | None, inventory: bool) -> bool:
    matches = []
    if known.folders:
        matches.append(all((folder / name).is_dir() for name in known.folders))
    if known.groups:
        matches.append(inventory and all(below(counts, group) == count for group, count in known.groups.items()))
    if known.size is not None:
        readable = [image for image in images or () if not image.error]
        matches.append(bool(readable) and all(image.size == known.size for image in readable))
    return all(matches)


def _strength(manifest: Manifest, counts: Counter[str]) -> str | None:
    """A note on a Waterbirds copy in which the share of training birds in front of their own kind of place differs."""

    def share(groups: Mapping[str, int]) -> float | None:
        matching = groups.get("train/y=0,place=0", 0) + groups.get("train/y=1,place=1", 0)
        opposite = groups.get("train/y=0,place=1", 0) + groups.get("train/y=1,place=0", 0)
        return matching / (matching + opposite) if matching + opposite else None

    copy_share, published_share = share(counts), share(manifest.groups)
    if copy_share is None or published_share is None or abs(copy_share - published_share) < 0.005:
        return None
    return (
        f"other confounder strength: {copy_share:.2f} of the training birds are before their own kind of place, and "
        f"{published_share:.2f} in the published dataset; figures are not comparable"
    )


def _listed(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "")


def _first(items: Iterable[str]) -> str:
    entries = list(items)
    return ", ".join(entries[:SHOWN]) + (f" and {len(entries) - SHOWN:,} more" if len(entries) > SHOWN else "")
