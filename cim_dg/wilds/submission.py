"""`cim-dg submission`: predictions for the WILDS leaderboard, built from runs and checked.

The leaderboard's evaluate.py takes the first file that begins with DATASET_split:SPLIT_seed:SEED for each split and
seed, so a submission must have exactly one file for each.
"""

from __future__ import annotations

import argparse
import errno
import re
import shlex
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cim_dg.errors import UserError
from cim_dg.runtime.schema import load_yaml
from cim_dg.wilds.config import defaults_folder

# Datasets of the leaderboard without image classification, and datasets that WILDS does not put on the leaderboard.
OTHER_KINDS = ("amazon", "civilcomments", "globalwheat", "ogb-molpcba", "poverty", "py150")
NOT_ON_LEADERBOARD = ("bdd100k", "celebA", "domainnet", "encode", "sqf", "waterbirds", "yelp")
FILE = re.compile(r"(?P<dataset>.+)_split:(?P<split>[^:]+)_seed:(?P<seed>[0-9]{1,9})_epoch:(?P<epoch>[^_]+)_pred\.csv")

_LABEL = re.compile(r"[ \t]*[0-9]{1,9}[ \t]*")


@dataclass(frozen=True)
class Entry:
    """A prediction file and the parts of its name."""

    path: Path
    dataset: str
    split: str
    seed: int
    epoch: str


@dataclass(frozen=True)
class Rules:
    """The leaderboard's requirements: seeds 0 to `seeds` - 1, all `splits`, labels from 0 to `classes` - 1."""

    seeds: int
    splits: tuple[str, ...]
    classes: int


def add_parser(subparsers: Any) -> None:
    """Add the command `submission` with its subcommands build and validate."""
    parser = subparsers.add_parser(
        "submission", help="build and check a WILDS leaderboard submission", allow_abbrev=False
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    build_parser = commands.add_parser("build", help="gather the best epochs' predictions of runs", allow_abbrev=False)
    build_parser.add_argument("log_dirs", nargs="+", metavar="LOGDIR", help="a log folder per seed")
    build_parser.add_argument("--output", required=True, help="folder to make")
    build_parser.set_defaults(run=run_build)
    validate_parser = commands.add_parser("validate", help="check a submission", allow_abbrev=False)
    validate_parser.add_argument("folder", metavar="DIR")
    validate_parser.add_argument(
        "--root_dir", default="data", help="where the dataset is, to count its lines (default data)"
    )
    validate_parser.set_defaults(run=run_validate)


def run_build(arguments: argparse.Namespace) -> int:
    """Build, then print what is missing: a submission may be built before all seeds are done."""
    dataset, entries = build(arguments.log_dirs, arguments.output)
    print(f"{len(entries)} prediction files of {dataset} are in {arguments.output}")
    missing = list(_missing(dataset, read_rules(dataset), entries))
    for sentence in missing:
        print(f"to be done: {sentence}")
    if not missing:
        print(f"check them: cim-dg submission validate {shlex.quote(arguments.output)} --root_dir ROOT_DIR")
    return 0


def run_validate(arguments: argparse.Namespace) -> int:
    """Print every finding; returns 0 if there is none, else 2."""
    findings, remarks = validate(arguments.folder, arguments.root_dir)
    for finding in findings:
        print(f"cim-dg: error: {finding}", file=sys.stderr)
    for remark in remarks:
        print(remark)
    if not findings:
        print(f"{arguments.folder} is complete")
    return 2 if findings else 0


def read_rules(dataset: str) -> Rules:
    """The leaderboard's requirements for `dataset`.

    Raises:
        UserError: the leaderboard does not have the dataset, or this package does not handle it.
    """
    rules = load_yaml(defaults_folder() / "leaderboard.yaml", dict[str, Rules])
    if dataset in rules:
        return rules[dataset]
    if dataset in NOT_ON_LEADERBOARD:
        raise UserError(f"{dataset} is not on the WILDS leaderboard, though the package has it")
    if dataset in OTHER_KINDS:
        raise UserError(f"{dataset} is not an image classification dataset; accepted is one of {', '.join(rules)}")
    raise UserError(f"{dataset!r} is not a dataset of WILDS; accepted is one of {', '.join(rules)}")


def find_entries(folder: str | Path) -> list[Entry]:
    """The prediction files of `folder`, by name.

    Raises:
        UserError: it is not a folder.
    """
    if not Path(folder).is_dir():
        raise UserError(f"{folder} is not a folder")
    matches = [(path, FILE.fullmatch(path.name)) for path in sorted(Path(folder).iterdir())]
    return [Entry(path, m["dataset"], m["split"], int(m["seed"]), m["epoch"]) for path, m in matches if m]


def build(log_dirs: Iterable[str | Path], output: str | Path) -> tuple[str, list[Entry]]:
    """Copy the best epochs' predictions of runs into the new folder `output`; returns the dataset and the copies.

    Raises:
        UserError: a folder has no such predictions, there are two datasets, a seed is there twice, the dataset is not
            on the leaderboard, or `output` exists.
    """
    chosen: dict[tuple[str, int], Entry] = {}
    dataset = None
    for log_dir in log_dirs:
        best = [entry for entry in find_entries(log_dir) if entry.epoch == "best" and entry.split != "train"]
        if not best:
            raise UserError(f"{log_dir} has no predictions of a best epoch (*_epoch:best_pred.csv)")
        for entry in best:
            if not entry.path.is_file():
                raise UserError(f"{entry.path} is not a file")
            dataset = dataset or entry.dataset
            if entry.dataset != dataset:
                raise UserError(f"{log_dir} is of {entry.dataset} and the folders before it are of {dataset}")
            if other := chosen.get((entry.split, entry.seed)):
                raise UserError(f"seed {entry.seed} of split {entry.split} is in {other.path.parent} and in {log_dir}")
            chosen[entry.split, entry.seed] = entry
    if dataset is None:
        raise UserError("no log folder is given")
    read_rules(dataset)
    if Path(output).exists():
        raise UserError(f"{output} exists already; remove it or choose another folder")
    try:
        Path(output).mkdir(parents=True)
        for entry in chosen.values():
            shutil.copyfile(entry.path, Path(output) / entry.path.name)
    except OSError as error:
        if not isinstance(error, FileExistsError):
            shutil.rmtree(output, ignore_errors=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # which has a sentence of its own
            raise
        raise UserError(f"{output} cannot be written: {error.strerror} ({error.filename})") from None
    return dataset, find_entries(output)


def validate(folder: str | Path, root_dir: str | Path | None = None) -> tuple[list[str], list[str]]:
    """A sentence for each error in a submission, and remarks on what could not be checked.

    Raises:
        UserError: it is not a folder, or the dataset is not on the leaderboard.
    """
    entries = find_entries(folder)
    if not entries:
        return [f"{folder} has no prediction files (DATASET_split:SPLIT_seed:SEED_epoch:EPOCH_pred.csv)"], []
    datasets = sorted({entry.dataset for entry in entries})
    if len(datasets) > 1:
        return [f"{folder} mixes datasets: {', '.join(datasets)}"], []
    (dataset,) = datasets
    rules = read_rules(dataset)
    known = {entry.path for entry in entries}
    findings = [f"{p.name} is not named as a prediction file" for p in sorted(Path(folder).iterdir()) if p not in known]
    findings += _missing(dataset, rules, entries)
    findings += _superfluous(rules, entries)
    sizes, remarks = _split_sizes(dataset, root_dir)
    counts: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for entry in entries:
        if not entry.path.is_file():
            findings.append(f"{entry.path.name} is not a file")
            continue
        # Not str.splitlines, which breaks lines at U+2028 and other characters too.
        lines = entry.path.read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n")
        counts[entry.split][len(lines)].append(entry.path.name)
        findings += _bad_labels(entry, lines, rules.classes)
        expected = sizes.get(entry.split, len(lines))
        if len(lines) != expected:
            findings.append(
                f"{entry.path.name} has {len(lines)} lines, and the split {entry.split} has {expected} images"
            )
    if not sizes:
        for split, names_by_count in counts.items():
            if len(names_by_count) > 1:
                description = "; ".join(
                    f"{count} in {', '.join(names)}" for count, names in sorted(names_by_count.items())
                )
                findings.append(f"the files of split {split} differ in their numbers of lines: {description}")
    return findings, remarks


def _missing(dataset: str, rules: Rules, entries: Iterable[Entry]) -> Iterable[str]:
    existing = {(entry.split, entry.seed) for entry in entries}
    for split in rules.splits:
        seeds = [str(seed) for seed in range(rules.seeds) if (split, seed) not in existing]
        if seeds:
            yield f"{dataset} split {split} has no predictions of seed {', '.join(seeds)}"


def _superfluous(rules: Rules, entries: Iterable[Entry]) -> Iterable[str]:
    by_key: dict[tuple[str, int], list[str]] = defaultdict(list)
    for entry in entries:
        by_key[entry.split, entry.seed].append(entry.path.name)
        if entry.split not in rules.splits:
            yield f"{entry.path.name} is of a split that is not wanted; wanted are {', '.join(rules.splits)}"
        elif entry.seed >= rules.seeds:
            yield f"{entry.path.name} is of a seed that is not wanted; wanted are 0 to {rules.seeds - 1}"
    for (split, seed), names in by_key.items():
        if len(names) > 1:
            yield f"split {split} and seed {seed} have more than one file: {', '.join(names)}"


def _bad_labels(entry: Entry, lines: Sequence[str], classes: int) -> Iterable[str]:
    """A sentence for the file's first label that is not accepted."""
    for number, line in enumerate(lines, start=1):
        if not _LABEL.fullmatch(line) or int(line) >= classes:
            accepted = f"a whole number from 0 to {classes - 1}"
            yield f"{entry.path.name} line {number} is {line[:40]!r}; accepted is {accepted}"
            return


def _split_sizes(dataset: str, root_dir: str | Path | None) -> tuple[dict[str, int], list[str]]:
    """The number of images of every split, if the dataset is on disk."""
    if root_dir is None or not list(Path(root_dir).glob(f"{dataset}_v*")):
        return {}, [f"{dataset} is not below {root_dir}, so that line counts were compared among the files only"]
    from cim_dg.wilds.data import load_dataset

    loaded = load_dataset(dataset, str(root_dir))
    return {split: int((loaded.split_array == number).sum()) for split, number in loaded.split_dict.items()}, []
