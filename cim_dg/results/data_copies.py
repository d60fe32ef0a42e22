"""Checks that the runs of a dataset used the same copy of it, so that a table does not mix copies silently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cim_dg.results.records import Run

SHOWN = 12
"""The number of hexadecimal digits of a fingerprint in messages."""


def sentences(runs: Sequence[Run]) -> list[str]:
    """A sentence for each dataset with runs on different copies, on a wrong copy, or without a record of the copy."""
    by_dataset: dict[str, list[Run]] = {}
    for run in runs:
        by_dataset.setdefault(run.dataset, []).append(run)
    return [sentence for name, of_it in sorted(by_dataset.items()) for sentence in _of_dataset(name, of_it)]


def copy_of(run: Run) -> Mapping[str, Any]:
    """A run's record of its data (see `cim_dg.data.fingerprint.record`); empty if there is none."""
    data = run.provenance.get("data")
    listing = data.get("listing") if isinstance(data, dict) else None
    return data if isinstance(data, dict) and listing and isinstance(listing, str) else {}


def described(run: Run) -> str:
    """The copy of a run's data as text; 'unknown' if it is not recorded."""
    data = copy_of(run)
    if not data:
        return "unknown"
    verified = data.get("verified")
    state = {"True": "verified", "False": "differs from what papers mean"}.get(str(verified), "not verified")
    return f"{str(data.get('fingerprint') or data['listing'])[:SHOWN]} ({state})"


def _of_dataset(name: str, runs: Sequence[Run]) -> list[str]:
    telling = [run for run in runs if copy_of(run)]
    if not telling:
        return []
    # A copy that was verified before some runs and after others is the same copy: its files' names and sizes agree.
    verified = {copy_of(run)["listing"]: copy_of(run).get("fingerprint") for run in telling if _fingerprint(run)}
    copies: dict[str, list[Run]] = {}
    for run in telling:
        key = _fingerprint(run) or verified.get(copy_of(run)["listing"]) or copy_of(run)["listing"]
        copies.setdefault(str(key), []).append(run)
    sentences = []
    if len(copies) > 1:
        copy_list = "; ".join(
            f"{described(same[0])}: {len(same)} runs of {', '.join(sorted({run.algorithm for run in same}))}"
            for same in sorted(copies.values(), key=len, reverse=True)
        )
        sentences.append(
            f"{name}: the runs are on {len(copies)} different copies of the data, so that their figures cannot be "
            f"compared ({copy_list}); `cim-dg data verify` says how a copy differs."
        )
    wrong_runs = [run for run in telling if copy_of(run).get("verified") is False]
    if wrong_runs:
        sentences.append(
            f"{name}: {len(wrong_runs)} of {len(runs)} runs are on data that differ from what papers mean "
            f"({described(wrong_runs[0]).split(' ')[0]}); `cim-dg data verify` says in what."
        )
    if len(telling) < len(runs):
        sentences.append(
            f"{name}: {len(runs) - len(telling)} of {len(runs)} runs do not say which copy of the data they are on."
        )
    return sentences


def _fingerprint(run: Run) -> str | None:
    value = copy_of(run).get("fingerprint")
    return str(value) if value else None
