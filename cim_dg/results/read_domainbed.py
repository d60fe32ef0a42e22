"""Job folders of DomainBed (the real one, the stand-in, DiWA), and those of SWAD's form, as records."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace
from functools import cache
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson

from cim_dg.errors import UserError
from cim_dg.results import read_swad
from cim_dg.results.domains import data_name
from cim_dg.results.records import Collector, Names, Records, Run

_ACCURACY = re.compile(r"(env\d{1,3}_[a-z]+)_acc|(env\d{1,3}_(?:in|out)(?:TE)?)", re.ASCII)
# SWAD's means of accuracies that stand in the record too.
_REPEATED = {"test_in", "test_out", "train_in", "train_out"}
_STARTED = {"out.txt", "err.txt", "done", "provenance.json"}
_NUMBERS = {int, float}  # not bool
_NEEDED = {"algorithm": str, "dataset": str, "test_envs": list}

TRUNCATED = "Lines of results.jsonl that are cut off or malformed, skipped"
REFUSED = "Checkpoints with an accuracy that is not between 0 and 1, left out"
NO_RESULTS = "Jobs without a result yet"


def is_run(names: Set[str]) -> bool:
    """Whether a folder with these files is a DomainBed job that has started."""
    return "results.jsonl" in names or len(names & _STARTED) >= 2 or "provenance.json" in names


def read(folder: Path, names: Set[str], collector: Collector) -> None:
    """Add a job folder's checkpoints. Unusable lines are counted and never fatal."""
    results = os.path.join(folder, "results.jsonl")
    lines = _lines(results) if "results.jsonl" in names else []
    provenance = _object(folder / "provenance.json") if "provenance.json" in names else {}
    if "data.json" in names and "data" not in provenance:  # the real DomainBed's jobs have this instead
        provenance = {**provenance, "data": _object(folder / "data.json")}
    finished = "done" in names
    if _add_at_once(folder, lines, provenance, finished, collector):
        return
    layouts: dict[tuple[str, ...], _Layout] = {}
    args: dict[str, Any] | None = None
    run = -1
    swad: dict[int, Run] = {}
    for number, line in enumerate(lines, start=1):
        if not line or line.isspace():
            continue
        record = parse(line)
        try:
            if record["args"] != args:
                args = record["args"]
                run = -1  # checkpoints belong to no run until the new arguments are valid
                started = _run(folder, args, record["hparams"], provenance, finished)
                run = collector.begin(started)
                if read_swad.has_form(args):
                    swad[run] = started
            if run < 0:
                raise ValueError("a line of unusable arguments")
            shape = tuple(record)
            if shape not in layouts:
                layouts[shape] = _layout(record, collector)
            layout = layouts[shape]
            values = [_number(record[key]) for key in layout.keys]
            for key in layout.accuracies:
                if not 0 <= record[key] <= 1:
                    collector.skip(REFUSED, f"{results}:{number}, where {key} is {record[key]}")
                    break
            else:
                collector.add(run, [_whole(record["step"])], layout.number, values)
        except (KeyError, TypeError, ValueError, OverflowError):
            collector.skip(TRUNCATED, f"{results}:{number}")
    if run < 0 and args is None:
        collector.skip(NO_RESULTS, folder)
    if swad:
        read_swad.add_averages(folder, swad, collector)


def _add_at_once(
    folder: Path, lines: Sequence[bytes], provenance: dict[str, Any], finished: bool, collector: Collector
) -> bool:
    """Add a job of DomainBed whose lines are all well-formed and alike, in a third of the time; whether it was one.

    If not, nothing was added.
    """
    try:
        records = [orjson.loads(line) for line in lines]  # it takes no NaN
        first = records[0]
        names, args = list(first), first["args"]
        keys, accurate, pairs = _columns_of(first)
        if read_swad.has_form(args) or len(accurate) < 2:
            return False
        alike = all(list(record) == names and record["args"] == args for record in records)
        values, accuracies = (
            list(itertools.chain.from_iterable(map(itemgetter(*chosen), records))) for chosen in (keys, accurate)
        )
        if not (alike and _NUMBERS.issuperset(map(type, values)) and 0 <= min(accuracies) <= max(accuracies) <= 1):
            return False
        steps = [_whole(record["step"]) for record in records]
        run = _run(folder, args, first["hparams"], provenance, finished)
    except (LookupError, TypeError, ValueError, AttributeError):
        return False
    collector.add(collector.begin(run), steps, collector.layout(pairs), values)
    return True


def _lines(path: str) -> list[bytes]:
    with open(path, "rb", buffering=0) as file:
        return file.read().splitlines()


def from_lines(lines: Iterable[dict[str, Any]]) -> Records:
    """Parsed lines of results.jsonl, of any number of jobs, as the runs of one harness in the order of the lines.

    As in DomainBed's own scripts, the options of a dataset make no other dataset.

    Raises:
        UserError: a line is not one that a run writes.
    """
    collector = Collector()
    args: dict[str, Any] | None = None
    run = -1
    for record in lines:
        try:
            if record["args"] != args:
                args = record["args"]
                started = _run(Path(args.get("output_dir", "")), args, record.get("hparams", {}), {}, True)
                run = collector.begin(replace(started, dataset=args["dataset"]))
            layout = _layout(record, collector)
            values = [_number(record[key]) for key in layout.keys]
            collector.add(run, [_whole(record["step"])], layout.number, values)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            where = f" of {args['output_dir']}" if isinstance(args, dict) and "output_dir" in args else ""
            raise UserError(f"a record{where} is not one that a run writes: {error}") from None
    return collector.records()


def parse(line: bytes) -> dict[str, Any]:
    """The record in a line of results.jsonl; an empty one if the line is truncated or malformed."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        try:
            # A diverged loss is written as NaN, which is not valid JSON but which Python's own reader accepts.
            record = json.loads(line)
        except (ValueError, RecursionError):
            return {}
    return record if isinstance(record, dict) else {}


def _run(
    folder: Path, args: dict[str, Any], hparams: dict[str, Any], provenance: dict[str, Any], finished: bool
) -> Run:
    # The real DomainBed writes no provenance; the stand-in writes one with every job. DiWA is DomainBed with two more
    # arguments.
    harness = str(provenance.get("harness", "diwa" if "path_for_init" in args else "domainbed"))
    if read_swad.has_form(args):
        harness, args = read_swad.as_domainbed(args, hparams)
    for name, kind in _NEEDED.items():
        if not isinstance(args[name], kind):
            raise TypeError(name)
    hparams = dict(hparams)
    return Run(
        folder=folder,
        harness=harness,
        dataset=data_name(args["dataset"], hparams),
        algorithm=args["algorithm"],
        trial=_whole(args["trial_seed"]),
        hparams_seed=_whole(args["hparams_seed"]),
        test_envs=tuple(map(_whole, args["test_envs"])),
        finished=finished,
        hparams=hparams,
        args=args,
        provenance=provenance,
    )


def _whole(number: Any) -> int:
    if not isinstance(number, int) or not 0 <= number < 2**53:
        raise ValueError(f"{number!r} is no whole number")
    return number


def _number(value: Any) -> float:
    if type(value) not in _NUMBERS:
        raise TypeError(f"{value!r} is no number")
    return float(value)


@dataclass(frozen=True)
class _Layout:
    """Which keys of a record are values, which of those are accuracies, and their number in the collector."""

    keys: list[str]
    accuracies: list[str]
    number: int


def _layout(record: dict[str, Any], collector: Collector) -> _Layout:
    keys, accuracies, pairs = _columns_of(record)
    return _Layout(keys, accuracies, collector.layout(pairs))


def _columns_of(record: dict[str, Any]) -> tuple[list[str], list[str], Names]:
    numbers = tuple(type(value) in _NUMBERS for value in record.values())
    return _columns(tuple(record), numbers, read_swad.has_form(record["args"]))


@cache
def _columns(names: tuple[str, ...], numbers: tuple[bool, ...], swad: bool) -> tuple[list[str], list[str], Names]:
    """Of a record's names, of which some have numbers: the values, the accuracies among them, (split, metric) pairs."""
    left_out = {"step", *(_REPEATED if swad else ())}
    keys = [name for name, is_number in zip(names, numbers, strict=True) if is_number and name not in left_out]
    pairs = tuple(map(_split_and_metric, keys))
    return keys, [key for key, (_, metric) in zip(keys, pairs, strict=True) if metric == "acc"], pairs


def _split_and_metric(key: str) -> tuple[str, str]:
    match = _ACCURACY.fullmatch(key)
    return (match[1] or match[2], "acc") if match else ("train", key)


def _object(path: Path) -> dict[str, Any]:
    try:
        value = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}
