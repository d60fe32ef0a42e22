"""The cost of a full comparison, from a pilot: finished DomainBed jobs of a few steps each, on the machine to be used.

    python docs/cost.py PILOT_FOLDER [--sweep vlcs] [--steps 5001] [--checkpoint_freq 300] [--gpus 1 8 64]

A method's seconds per step are the mean over its jobs' results.jsonl, without the first step, which is a warm-up. The
rest of a job's time, by the dates of its files, is divided by its checkpoints. It is mostly evaluation, and part of the
start-up, so short pilots overestimate it. The pilot needs the batch size and the data of the comparison.
"""

from __future__ import annotations

import argparse
import heapq
import json
import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cim_dg.sweeps import domainbed
from cim_dg.sweeps.spec import load


@dataclass(frozen=True)
class Cost:
    """The cost of a pilot job: seconds per step, seconds per checkpoint with all other time, and bytes on disk."""

    step: float
    checkpoint: float
    size: int


def measure(job: Path) -> tuple[str, Cost]:
    """A finished pilot job's algorithm, and its cost."""
    records = [json.loads(line) for line in (job / "results.jsonl").read_text().splitlines()]
    steps = [record["step"] for record in records]
    if len(steps) < 2:
        raise SystemExit(f"{job} has one checkpoint; a pilot needs more steps, or a smaller --checkpoint_freq")
    # A record's step_time is the mean over the steps since the one before.
    pairs = zip(records[1:], pairwise(steps), strict=True)
    trained = sum(record["step_time"] * (step - before) for record, (before, step) in pairs)
    written = [file.stat().st_mtime for file in job.iterdir() if file.is_file()]
    rest = max(written) - min(written) - trained - records[0]["step_time"]
    size = sum(file.stat().st_size for file in job.iterdir() if file.is_file())
    return records[0]["args"]["algorithm"], Cost(trained / (steps[-1] - steps[0]), max(0.0, rest) / len(steps), size)


def days_on(gpus: int, seconds: list[float]) -> float:
    """Days until the last job ends, if each GPU takes the longest job that is left."""
    free = [0.0] * gpus
    for job in sorted(seconds, reverse=True):
        heapq.heapreplace(free, free[0] + job)
    return max(free) / 86_400


def main() -> None:
    """Print the cost of a sweep, from the pilot given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pilot", type=Path)
    parser.add_argument("--sweep", default="vlcs", help="a sweep of DomainBed, as `cim-dg sweep` takes it")
    parser.add_argument("--steps", type=int, default=5001, help="of a job; DomainBed's number for VLCS is 5001")
    parser.add_argument("--checkpoint_freq", type=int, default=300, help="likewise; 300 for VLCS")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64], help="jobs that run side by side")
    arguments = parser.parse_args()

    pilots: dict[str, list[Cost]] = defaultdict(list)
    for done in sorted(arguments.pilot.glob("*/done")):
        algorithm, cost = measure(done.parent)
        pilots[algorithm].append(cost)
    jobs = Counter(job.algorithm for job in domainbed.jobs(load(arguments.sweep), None, Path("unused")))
    if missing := sorted(set(jobs) - set(pilots)):
        raise SystemExit(f"{arguments.pilot} has no finished job of {', '.join(missing)}")
    checkpoints = len({*range(0, arguments.steps, arguments.checkpoint_freq), arguments.steps - 1})

    table = Table(
        "method", "jobs", "s / step", "s / checkpoint", "hours / job", "GPU hours", "GB", title=arguments.sweep
    )
    seconds: list[float] = []
    disk = 0.0
    for algorithm, count in jobs.items():
        step, checkpoint, size = (
            statistics.mean(getattr(cost, name) for cost in pilots[algorithm])
            for name in ("step", "checkpoint", "size")
        )
        each = arguments.steps * step + checkpoints * checkpoint
        seconds += [each] * count
        disk += count * size / 1e9
        cells = (f"{step:.3f}", f"{checkpoint:.1f}", f"{each / 3600:.2f}", f"{each * count / 3600:.0f}")
        table.add_row(algorithm, str(count), *cells, f"{count * size / 1e9:.1f}")
    Console().print(table)
    print(f"{len(seconds)} jobs, {sum(seconds) / 3600:.0f} GPU hours, {disk:.1f} GB")
    for gpus in arguments.gpus:
        print(f"{gpus} side by side: {days_on(gpus, seconds):.2f} days")


if __name__ == "__main__":
    main()
