"""Verifies a copy of a dataset: reads every image, compares it with the manifest, and writes a fingerprint."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from cim_dg.data import compare, fingerprint, inventory
from cim_dg.data.catalogue import Dataset
from cim_dg.data.recipes import vlcs_mini
from cim_dg.data.scan import Image, scan
from cim_dg.errors import UserError


@dataclass(frozen=True)
class Verdict:
    """The result of `verify`, with the `differences` from the manifest."""

    dataset: Dataset
    folder: Path
    images: int
    fingerprint: str
    differences: list[str] = field(default_factory=list)
    variant: str | None = None
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The verdict as lines to print."""
        lines = [f"{self.dataset.name} in {self.folder}: {self.images:,} images"]
        lines += [f"  differs: {sentence}" for sentence in self.differences]
        if self.variant is not None:
            lines.append(f"  a known variant, {self.variant}")
        lines += [f"  note: {sentence}" for sentence in self.notes]
        counted = self.dataset.manifest.counted if self.dataset.manifest is not None else ""
        if not self.differences:
            lines.append(f"  as it should be (counts: {counted})")
        return [*lines, f"  fingerprint {self.fingerprint[: fingerprint.SHOWN]}"]


def verify(dataset: Dataset, data_dir: Path) -> Verdict:
    """Read the copy below `data_dir`, compare it with the manifest, and write its fingerprint.

    Raises:
        UserError: it is missing, or does not have the dataset's layout.
    """
    if dataset.layout == "none":
        raise UserError(f"{dataset.name} has no files: this package draws it")
    folder = dataset.path(data_dir)
    if not folder.is_dir():
        raise UserError(
            f"there is no {folder}; `cim-dg data get {dataset.name} --data_dir {shlex.quote(str(data_dir))}` gets it"
        )
    try:
        contents = inventory.take(dataset, folder)
    except UserError as error:
        known = compare.variant(dataset, folder, None, None)
        raise UserError(f"{error}; it is a known variant, {known}" if known else str(error)) from None
    before = fingerprint.listing(dataset, data_dir)
    images = list(scan(folder, contents.images, f"verifying {dataset.name}"))
    differing = (
        compare.differences(dataset, contents, images) + _checksums(dataset, folder) + _own_manifest(folder, images)
    )
    verdict = Verdict(
        dataset,
        folder,
        len(contents.groups),
        _digest(folder, contents, images),
        differing,
        compare.variant(dataset, folder, contents, images) if differing else None,
        compare.notes(dataset, contents, images),
    )
    if fingerprint.listing(dataset, data_dir) != before:
        raise UserError(f"{folder} was changed while it was read; run the same command again")
    fingerprint.write(
        dataset,
        data_dir,
        fingerprint=verdict.fingerprint,
        listing=before,
        images=verdict.images,
        groups=dict(sorted(Counter(contents.groups).items())),
        modes=dict(Counter(image.mode for image in images if not image.error)),
        differences=verdict.differences,
        variant=verdict.variant,
    )
    return verdict


def quick(dataset: Dataset, data_dir: Path) -> list[str]:
    """The differences that are visible without opening an image.

    Raises:
        UserError: it does not have the dataset's layout.
    """
    contents = inventory.take(dataset, dataset.path(data_dir))
    return compare.differences(dataset, contents, None)


def _digest(folder: Path, contents: inventory.Inventory, images: list[Image]) -> str:
    """The digest of the bytes of all images and tables, by path."""
    digests = {image.path: image.digest for image in images}
    for name in contents.tables:
        digests[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return fingerprint.digest(sorted(digests.items()))


def _own_manifest(folder: Path, images: list[Image]) -> list[str]:
    """Images that differ from the folder's manifest.json, which VLCSMini has."""
    path = folder / vlcs_mini.MANIFEST
    try:
        expected = dict(json.loads(path.read_text(encoding="utf-8"))["sha256"])
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError):
        return [f"its {path.name} cannot be read"]
    return [
        f"{image.path} is not the image of its {path.name}"
        for image in images
        if expected.get(image.path) != image.digest
    ]


def _checksums(dataset: Dataset, folder: Path) -> list[str]:
    manifest = dataset.manifest
    sentences = []
    for name, checksum in (manifest.checksums if manifest is not None else {}).items():
        kind, _, expected = checksum.partition(":")
        path = folder / name
        if not path.is_file():
            sentences.append(f"there is no {name}")
            continue
        if hashlib.new(kind, path.read_bytes()).hexdigest() != expected:
            sentences.append(f"{name} has another checksum than {checksum}")
    return sentences
