"""The fingerprint of a copy of a dataset: a file in its folder. Runs record it, so that copies can be distinguished.

`cim-dg data verify` reads every byte and writes cim-dg-NAME.json. A run does not read every byte again. It compares
the names and sizes of the files with the verified ones (the listing), which shows added, lost or truncated files.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cim_dg.data import inventory
from cim_dg.data.catalogue import Dataset, of_harness
from cim_dg.errors import UserError
from cim_dg.runtime.files import write_atomically
from cim_dg.runtime.provenance import version_of

SHOWN = 12
"""The number of hexadecimal digits of a digest in messages."""


def path(dataset: Dataset, data_dir: Path) -> Path:
    """The path of the fingerprint of the copy below `data_dir`."""
    return dataset.path(data_dir) / f"cim-dg-{dataset.name}.json"


def digest(items: Iterable[tuple[str, object]]) -> str:
    """The SHA-256 of pairs of a path and its content's digest or size, in their order."""
    total = hashlib.sha256()
    for name, content in items:
        total.update(f"{name}\t{content}\n".encode())
    return total.hexdigest()


def listing(dataset: Dataset, data_dir: Path) -> str:
    """The digest of the names and sizes of all files of the copy below `data_dir`."""
    return digest(inventory.listing(dataset, dataset.path(data_dir)))


def read(dataset: Dataset, data_dir: Path) -> dict[str, Any]:
    """The content of the fingerprint file; empty if it cannot be read."""
    try:
        content = json.loads(path(dataset, data_dir).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write(dataset: Dataset, data_dir: Path, **entries: Any) -> None:
    """Write entries to the fingerprint file, and keep its others.

    Raises:
        UserError: it cannot be written.
    """
    content = {
        **read(dataset, data_dir),
        "dataset": dataset.name,
        **entries,
        "written": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cim-dg": version_of("cim-dg"),
    }
    try:
        write_atomically(path(dataset, data_dir), json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{path(dataset, data_dir)} cannot be written: {error.strerror}") from None


def record(harness: str, name: str, data_dir: str | Path | None) -> dict[str, Any] | None:
    """A run's record of its data; None for a dataset that has no files, is unknown, or is missing.

    Returns:
        dataset, listing (digest of names and sizes), fingerprint (digest of all bytes; None if not verified, or changed
        since), verified (whether it matched its manifest; None if not verified).
    """
    dataset = of_harness(harness, name)
    if dataset is None or dataset.layout == "none" or data_dir is None:
        return None
    return _record(dataset.name, str(Path(data_dir).absolute()))


@functools.cache
def _record(name: str, data_dir: str) -> dict[str, Any] | None:
    from cim_dg.data.catalogue import load

    dataset = load(name)
    if not dataset.path(Path(data_dir)).is_dir():
        return None
    now, known = listing(dataset, Path(data_dir)), read(dataset, Path(data_dir))
    verified = known if known.get("listing") == now else {}
    return {
        "dataset": name,
        "listing": now,
        "fingerprint": verified.get("fingerprint"),
        "verified": None if "fingerprint" not in verified else not verified.get("differences"),
    }


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two records are of the same copy: by all bytes if both are verified, else by names and sizes."""
    if first.get("fingerprint") and second.get("fingerprint"):
        return bool(first["fingerprint"] == second["fingerprint"])
    return bool(first.get("listing") == second.get("listing"))
