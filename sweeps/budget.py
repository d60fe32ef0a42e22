"""What a sweep costs under each protocol, from finished jobs, and the largest sweep within a budget of GPU hours."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Protocol, get_args

from cim_dg.errors import UserError
from cim_dg.results.grids import Grid
from cim_dg.results.protocols import SEARCH_THEN_SEEDS
from cim_dg.sweeps import domainbed, halving, wilds
from cim_dg.sweeps.jobs import Job
from cim_dg.sweeps.spec import Protocol as Name
from cim_dg.sweeps.spec import Spec

Key = tuple[str, str]  # dataset, method (or variant)


class _Harness(Protocol):
    def jobs(self, spec: Spec, data_dir: str | None, output_dir: Path) -> list[Job]:
        """The jobs of a sweep."""

    def spans(self, spec: Spec) -> dict[str, halving.Span]:
        """The length of a dataset's jobs, and that between their checkpoints."""


_HARNESS: dict[str, _Harness] = {"domainbed": domainbed, "wilds": wilds}


@dataclass(frozen=True)
class Cost:
    """What a job of full length costs: seconds, with one job on a GPU, and bytes on the disk."""

    seconds: float
    size: float


def job_counts(spec: Spec) -> Counter[Key]:
    """How many jobs each method has under the sweep's protocol.

    After a search by leave-one-out a pair of environments may need two settings, which are counted as one.
    """
    in_stages = spec.protocol == SEARCH_THEN_SEEDS
    times = spec.n_hparams + spec.n_trials - 1 if in_stages else spec.n_hparams * spec.n_trials
    single = replace(spec, protocol="random-search", halving=None, n_hparams=1, n_trials=1)
    jobs = _HARNESS[spec.harness].jobs(single, None, Path("nowhere"))
    return Counter({key: count * times for key, count in Counter((job.dataset, job.algorithm) for job in jobs).items()})


def in_full_jobs(spec: Spec) -> dict[Key, float]:
    """The same in jobs of full length: settings that halving stops count by the part that they train."""
    counts = job_counts(spec)
    if spec.halving is None:
        return dict(counts)
    search = halving.in_full_jobs(spec, _HARNESS[spec.harness].spans(spec))
    seeds = spec.n_trials - 1
    return {key: count * (search[key[0]] + seeds) / (spec.n_hparams + seeds) for key, count in counts.items()}


def measure(spec: Spec, folder: Path) -> dict[Key, Cost]:
    """The mean cost of a job of each method, from the finished jobs in a folder: a pilot's, or the sweep's own.

    A pilot may be shorter. Steps (or epochs) and checkpoints take as long as its own do. The time of a job that is no
    step's, mostly evaluation, is divided by its checkpoints, so that short pilots overestimate it.

    Raises:
        UserError: there is no finished job of a method of the sweep.
    """
    costs: dict[Key, list[Cost]] = {}
    of_job, mark = (_domainbed, "done") if spec.harness == "domainbed" else (_wilds, "run.json")
    for path in sorted(folder.rglob(mark)):
        try:
            key, cost = of_job(spec, path.parent)
        except (OSError, ValueError, LookupError, TypeError):  # of another sweep, or damaged
            continue
        costs.setdefault(key, []).append(cost)
    wanted = _wanted(spec)
    if missing := [f"{algorithm} on {dataset}" for dataset, algorithm in wanted if (dataset, algorithm) not in costs]:
        raise UserError(f"{folder} has no finished job of {', '.join(missing) if costs else 'this sweep'}")
    return {
        key: Cost(
            statistics.mean(cost.seconds for cost in costs[key]), statistics.mean(cost.size for cost in costs[key])
        )
        for key in wanted
    }


def hours(spec: Spec, costs: Mapping[Key, Cost]) -> float:
    """The GPU hours of a whole sweep."""
    return sum(count * costs[key].seconds for key, count in in_full_jobs(spec).items()) / 3600


def tables(spec: Spec, costs: Mapping[Key, Cost]) -> list[Grid]:
    """What a job of each method costs, if known, and all jobs under each protocol; '?' without costs."""
    protocols = [name for name in get_args(Name) if name != SEARCH_THEN_SEEDS or spec.n_hparams > 1]
    specs = {name: replace(spec, protocol=name, halving=None) for name in protocols}
    if spec.halving is not None:
        specs[f"{SEARCH_THEN_SEEDS}, halving {spec.halving}"] = spec
    wanted = _wanted(spec)
    each = [[" on ".join(reversed(key)), *_amounts([(1, 1, costs[key])])] for key in wanted if costs]
    every = []
    for name, of in specs.items():
        counts, full = job_counts(of), in_full_jobs(of)
        amounts = _amounts([(counts[key], full[key], costs.get(key)) for key in wanted])
        every.append([name, str(sum(counts.values())), f"{round(sum(full.values()), 1):g}", *amounts])
    notes = ["GPU hours are those with one job on a GPU."] if costs else []
    notes += ["In full length: jobs that halving stops count by the part that they train."] if spec.halving else []
    header = ["Protocol", "Jobs", "In full length", "GPU hours", "GB"]
    grids = [_grid("A job of full length", ["Method", *header[-2:]], each)] if costs else []
    return [*grids, _grid(f"All jobs: {spec.n_hparams} settings, {spec.n_trials} trials", header, every, notes)]


def _grid(title: str, header: list[str], rows: list[list[str]], notes: Sequence[str] = ()) -> Grid:
    cells, numeric = [[[text] for text in row] for row in rows], [False] + [True] * (len(header) - 1)
    return Grid(title, header, cells, [False] * len(rows), notes, numeric)


def _amounts(jobs: Sequence[tuple[int, float, Cost | None]]) -> list[str]:
    """The hours and the GB of numbers of jobs, of which so many are in full length, as text."""
    if any(cost is None for *_, cost in jobs):
        return ["?", "?"]
    hours = sum(full * cost.seconds for _, full, cost in jobs if cost) / 3600
    return [f"{hours:.3g}", f"{sum(count * cost.size for count, _, cost in jobs if cost) / 1e9:.3g}"]


def fit(spec: Spec, costs: Mapping[Key, Cost], most: float) -> tuple[Spec, str]:
    """The largest sweep within `most` GPU hours, and a sentence on what was cut.

    All methods have the same settings and trials. Settings are cut first, because fewer trials widen every interval.

    Raises:
        UserError: not even the smallest comparison fits, one setting (two in a search) and two trials.
    """
    least_settings = 2 * (spec.halving or 1) if spec.protocol == SEARCH_THEN_SEEDS else 1
    for trials in range(spec.n_trials, min(2, spec.n_trials) - 1, -1):
        for settings in range(spec.n_hparams, min(least_settings, spec.n_hparams) - 1, -1):
            smaller = replace(spec, n_hparams=settings, n_trials=trials)
            if (needed := hours(smaller, costs)) <= most:
                return smaller, _cut(spec, smaller, needed, most)
    raise UserError(
        f"--max_gpu_hours is {most:g}; the smallest comparison of these methods, {smaller.n_hparams} settings and "
        f"{smaller.n_trials} trials, takes {needed:.3g}"
    )


def _cut(spec: Spec, smaller: Spec, needed: float, most: float) -> str:
    if smaller == spec:
        return f"All of it fits into {most:g} GPU hours: {needed:.3g}."
    return (
        f"Cut to {smaller.n_hparams} of {spec.n_hparams} settings and {smaller.n_trials} of {spec.n_trials} trials, "
        f"for all methods alike: {needed:.3g} GPU hours of {most:g}. To go on with it: --n_hparams {smaller.n_hparams} "
        f"--n_trials {smaller.n_trials}."
    )


def _domainbed(spec: Spec, folder: Path) -> tuple[Key, Cost]:
    """The cost of a finished job if it had the length that the sweep's jobs have."""
    records = [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    args, steps = records[0]["args"], [record["step"] for record in records]
    key = args["dataset"], folder.parent.name if spec.variants else args["algorithm"]
    total = domainbed.seconds(folder)
    if key not in _wanted(spec) or len(steps) < 2 or total is None:
        raise ValueError(f"{folder} tells nothing about {key}")
    # A record's step_time is the mean over the steps since the one before; the first step is a warm-up.
    pairs = zip(records[1:], pairwise(steps), strict=True)
    trained = sum(record["step_time"] * (now - before) for record, (before, now) in pairs)
    rest = max(0.0, total - trained - records[0]["step_time"])
    length, interval = domainbed.lengths(spec)[key[0]]
    checkpoints = len({*range(0, length, interval), length - 1})
    return key, Cost(length * trained / (steps[-1] - steps[0]) + checkpoints * rest / len(steps), _size(folder))


def _wilds(spec: Spec, folder: Path) -> tuple[Key, Cost]:
    """Likewise of a run of WILDS, by its epochs."""
    from cim_dg.wilds.config import dataset_defaults

    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    key, seconds = (record["dataset"], record["algorithm"]), wilds.seconds(record)
    if key not in _wanted(spec) or not record["finished"] or seconds is None:
        raise ValueError(f"{folder} tells nothing about {key}")
    options = spec.options or {}
    epochs = options.get("n_epochs") or dataset_defaults(key[0], options.get("defaults"))["n_epochs"]
    return key, Cost(seconds * epochs / record["config"]["n_epochs"], _size(folder))


def _wanted(spec: Spec) -> list[Key]:
    return [(dataset, algorithm) for dataset in spec.datasets for algorithm in spec.algorithms]


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
