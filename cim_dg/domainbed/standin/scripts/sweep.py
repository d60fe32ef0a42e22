"""Plan the runs of every algorithm on every data set, and launch the missing ones or delete the incomplete ones."""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import random
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cim_dg.data import present
from cim_dg.errors import UserError
from cim_dg.launchers import check as check_launcher
from cim_dg.launchers import notes
from cim_dg.launchers.job import clear
from cim_dg.runtime import locks
from cim_dg.runtime.arguments import Parser
from cim_dg.runtime.bounds import share, whole

from .. import algorithms, command_launchers, datasets, hparams_registry
from ..lib import command
from ..lib.misc import seed_hash

TrainArgs = dict[str, Any]


class Job:
    """One run of `domainbed.scripts.train`. Its folder is named after its arguments, and shows its state."""

    NOT_LAUNCHED, INCOMPLETE, DONE = "Not launched", "Incomplete", "Done"

    def __init__(self, train_args: TrainArgs, sweep_output_dir: str) -> None:
        name = hashlib.md5(json.dumps(train_args, sort_keys=True).encode("utf-8")).hexdigest()
        self.output_dir = os.path.join(sweep_output_dir, name)
        self.train_args = {**copy.deepcopy(train_args), "output_dir": self.output_dir}
        self.command = " ".join(["python -m domainbed.scripts.train", *map(_flag, sorted(self.train_args.items()))])
        if os.path.exists(os.path.join(self.output_dir, "done")):
            self.state = Job.DONE
        else:
            self.state = Job.INCOMPLETE if os.path.exists(self.output_dir) else Job.NOT_LAUNCHED

    def is_running(self) -> bool:
        """Whether a process is running it now. The sweep then leaves it alone."""
        return locks.is_claimed(self.output_dir)

    def is_waiting(self) -> bool:
        """Whether a launcher is going to run it."""
        return Path(self.output_dir) in notes.busy([Path(self.output_dir)])

    def __str__(self) -> str:
        summary = tuple(self.train_args[name] for name in ("dataset", "algorithm", "test_envs", "hparams_seed"))
        return f"{self.state}: {self.output_dir} {summary}"

    @staticmethod
    def launch(jobs: list[Job], launcher: command_launchers.Launcher) -> None:
        """Run the jobs in random order, so that an interrupted sweep has run a fair sample of them.

        Raises:
            RunError: the launcher waited for the jobs, and some failed.
        """
        print("Launching...")
        jobs = random.sample(jobs, len(jobs))
        print("Making job directories:")
        for job in tqdm(jobs, leave=False):
            os.makedirs(job.output_dir, exist_ok=True)
        if not command.announced():
            command.announce()
        os.environ[command.ANNOUNCED] = "1"
        sys.stdout.flush()  # the jobs write to it too
        launcher([job.command for job in jobs])
        print(f"Launched {len(jobs)} jobs!")

    @staticmethod
    def delete(jobs: list[Job]) -> None:
        """Remove the folders of the jobs."""
        print("Deleting...")
        for job in jobs:
            clear(Path(job.output_dir), remove=True)
        print(f"Deleted {len(jobs)} jobs!")


def _flag(argument: tuple[str, Any]) -> str:
    name, value = argument
    if isinstance(value, list):
        return f"--{name} {' '.join(map(str, value))}"
    return f"--{name} {shlex.quote(value) if isinstance(value, str) else value}"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments."""
    parser = Parser(prog="domainbed.scripts.sweep", description=__doc__)
    parser.add_argument("command", choices=["launch", "delete_incomplete"])
    all_datasets = [name for name in datasets.DATASETS if "Debug" not in name]
    parser.add_argument("--datasets", nargs="+", default=all_datasets)
    parser.add_argument("--algorithms", nargs="+", default=algorithms.ALGORITHMS)
    parser.add_argument("--task", default=command.TASKS[0], choices=command.TASKS)
    parser.add_argument("--n_hparams_from", type=whole(), default=0)
    seeds = "hparams seeds from --n_hparams_from up to this, without it"
    parser.add_argument("--n_hparams", type=whole(1), default=20, help=seeds)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--seed", type=whole(), default=0, help="without effect, as in DomainBed")
    parser.add_argument("--n_trials", type=whole(1), default=3)
    parser.add_argument("--command_launcher", required=True)
    parser.add_argument("--steps", type=whole(1))
    parser.add_argument("--hparams", help="a JSON object of values for every run")
    parser.add_argument("--holdout_fraction", type=share(), default=0.2)
    pairs = "no pairs: leave-one-domain-out selection needs them"
    parser.add_argument("--single_test_envs", action="store_true", help=pairs)
    parser.add_argument("--skip_confirmation", action="store_true")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = parse_args(argv)
    command.announce()
    os.environ[command.ANNOUNCED] = "1"
    return command.run(lambda: sweep(args))


def sweep(args: argparse.Namespace) -> None:
    """Print the plan and, once confirmed, do what `args.command` says.

    Raises:
        UserError: an argument is wrong. No job has been started.
        RunError: jobs have failed.
    """
    check(args)
    jobs = [Job(train_args, args.output_dir) for train_args in plan(args)]
    for job in jobs:
        print(job)
    count = {state: sum(job.state == state for job in jobs) for state in (Job.DONE, Job.INCOMPLETE, Job.NOT_LAUNCHED)}
    done, incomplete, not_launched = count.values()
    print(f"{len(jobs)} jobs: {done} done, {incomplete} incomplete, {not_launched} not launched.")

    stopped = [job for job in jobs if job.state == Job.INCOMPLETE and not job.is_running()]
    if running := incomplete - len(stopped):
        print(f"{running} of the incomplete jobs are running now, and are left alone.", file=sys.stderr)
    if args.command == "launch":
        missing = [*(job for job in jobs if job.state == Job.NOT_LAUNCHED), *stopped]
        print(f"About to launch {len(missing)} jobs.")
        if stopped:
            print(
                f"{len(stopped)} of them are incomplete and go on where they stopped; to have them start over: "
                "delete_incomplete.",
                file=sys.stderr,
            )
        if args.skip_confirmation or confirmed():
            Job.launch(missing, command_launchers.REGISTRY[args.command_launcher])
    else:
        deleted = [job for job in stopped if not job.is_waiting()]
        print(f"About to delete {len(deleted)} jobs.")
        if args.skip_confirmation or confirmed():
            Job.delete(deleted)


def check(args: argparse.Namespace) -> None:
    """Check everything that a run would refuse, before any run starts.

    Raises:
        UserError: a launcher, algorithm, data set or hyper-parameter is unknown, a name comes twice, a value is out of
            bounds, there are too few environments, or the data or a GPU that the jobs need are not there.
    """
    if args.n_hparams_from >= args.n_hparams:
        raise UserError(
            f"--n_hparams_from is {args.n_hparams_from}; accepted is less than --n_hparams {args.n_hparams}"
        )
    for option in ("datasets", "algorithms"):
        names = vars(args)[option]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"--{option} names {twice[0]} twice")
    if args.command_launcher not in (known := command_launchers.REGISTRY):
        raise UserError(f"there is no launcher {args.command_launcher!r}; there are {', '.join(known)}")
    for algorithm in args.algorithms:
        algorithms.get_algorithm_class(algorithm)
    for dataset in args.datasets:
        if datasets.num_environments(dataset) < 3 and not args.single_test_envs:
            raise UserError(f"{dataset} has too few environments for pairs to test on: give --single_test_envs")
        for algorithm in args.algorithms:
            defaults = hparams_registry.default_hparams(algorithm, dataset)
            hparams_registry.with_overrides(defaults, args.hparams, algorithm)
    runs = args.command == "launch" and args.command_launcher != "dummy"
    if runs and (lacking := present.needed("domainbed", args.datasets, args.data_dir)):
        raise UserError(f"--data_dir {args.data_dir} lacks data: {lacking[0]}")
    if runs:
        check_launcher(args.command_launcher)


def plan(args: argparse.Namespace) -> Iterator[TrainArgs]:
    """The arguments of every run."""
    for trial_seed in range(args.n_trials):
        for dataset in args.datasets:
            for algorithm in args.algorithms:
                for test_envs in test_env_choices(datasets.num_environments(dataset), args.single_test_envs):
                    for hparams_seed in range(args.n_hparams_from, args.n_hparams):
                        train_args: TrainArgs = {
                            "dataset": dataset,
                            "algorithm": algorithm,
                            "test_envs": test_envs,
                            "holdout_fraction": args.holdout_fraction,
                            "hparams_seed": hparams_seed,
                            "data_dir": args.data_dir,
                            "task": args.task,
                            "trial_seed": trial_seed,
                            "seed": seed_hash(dataset, algorithm, test_envs, hparams_seed, trial_seed),
                        }
                        options = {"steps": args.steps, "hparams": args.hparams}
                        yield train_args | {name: value for name, value in options.items() if value is not None}


def test_env_choices(count: int, single: bool) -> Iterator[list[int]]:
    """Every environment as the test environment and, unless `single`, every pair, in DomainBed's order."""
    for first in range(count):
        yield [first]
        if not single:
            yield from ([first, second] for second in range(first + 1, count))


def confirmed() -> bool:
    """Ask on the terminal; returns whether the answer is yes.

    Raises:
        UserError: there is no terminal to ask on.
    """
    try:
        answer = input("Are you sure? (y/n) ")
    except EOFError:
        raise UserError("there is nobody to answer: give --skip_confirmation") from None
    if answer.lower().strip().startswith("y"):
        return True
    print("Nevermind!")
    return False


if __name__ == "__main__":
    sys.exit(main())
