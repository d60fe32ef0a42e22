"""Whether runs of one dataset are on one copy of it: figures on different copies do not share a table in silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cim_dg.results.records import Run

SHOWN = 12
"""Hexadecimal digits of a copy's fingerprint that are shown."""


def sentences(runs: Sequence[Run]) -> list[str]:
    """A sentence for each dataset whose runs are on different copies, on one that is not as it should be, or whose copy
    some of them do not tell."""
    by_dataset: dict[str, list[Run]] = {}
    for run in runs:
        by_dataset.setdefault(run.dataset, []).append(run)
    return [sentence for name, of_it in sorted(by_dataset.items()) for sentence in _of_dataset(name, of_it)]


def copy_of(run: Run) -> Mapping[str, Any]:
    """What a run records of its data (see `cim_dg.data.fingerprint.record`); empty if nothing."""
    data = run.provenance.get("data")
    return data if isinstance(data, dict) and data.get("listing") else {}


def described(run: Run) -> str:
    """The copy of a run's data, for people; 'unknown' if it does not tell."""
    data = copy_of(run)
    if not data:
        return "unknown"
    states: dict[object, str] = {True: "verified", False: "differs from what papers mean"}
    state = states.get(data.get("verified"), "not verified")
    return f"{str(data.get('fingerprint') or data['listing'])[:SHOWN]} ({state})"


def _of_dataset(name: str, runs: Sequence[Run]) -> list[str]:
    telling = [run for run in runs if copy_of(run)]
    if not telling:
        return []
    # A copy that was verified before some runs and after others is one copy: its files have the same names and sizes.
    verified = {copy_of(run)["listing"]: copy_of(run).get("fingerprint") for run in telling if _fingerprint(run)}
    copies: dict[str, list[Run]] = {}
    for run in telling:
        key = _fingerprint(run) or verified.get(copy_of(run)["listing"]) or copy_of(run)["listing"]
        copies.setdefault(str(key), []).append(run)
    said = []
    if len(copies) > 1:
        each = "; ".join(
            f"{described(of_it[0])}: {len(of_it)} runs of {', '.join(sorted({run.algorithm for run in of_it}))}"
            for of_it in sorted(copies.values(), key=len, reverse=True)
        )
        said.append(
            f"{name}: the runs are on {len(copies)} different copies of the data, so that their figures cannot be "
            f"compared ({each}); `cim-dg data verify` says how a copy differs."
        )
    wrong = [run for run in telling if copy_of(run).get("verified") is False]
    if wrong:
        said.append(
            f"{name}: {len(wrong)} of {len(runs)} runs are on data that differ from what papers mean "
            f"({described(wrong[0]).split(' ')[0]}); `cim-dg data verify` says in what."
        )
    if len(telling) < len(runs):
        said.append(
            f"{name}: {len(runs) - len(telling)} of {len(runs)} runs do not say which copy of the data they are on."
        )
    return said


def _fingerprint(run: Run) -> str | None:
    value = copy_of(run).get("fingerprint")
    return str(value) if value else None
