"""`cim-dg sweep`: run a published comparison, or your own, through its harness' own commands."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cim_dg.errors import UserError
from cim_dg.tracking.command import TARGETS
from cim_dg.tracking.sidecar import VARIABLE

if TYPE_CHECKING:
    from cim_dg.sweeps.spec import Spec


def add_parser(subparsers: Any) -> None:
    """Add `sweep` to the `cim-dg` command."""
    parser = subparsers.add_parser(
        "sweep",
        help="run what a comparison table needs, and show the table",
        description="Plan a comparison, show the plan, run the jobs that are missing through the harness' own "
        "commands, and end with the table. Only the jobs that the selection rule needs are run.",
    )
    parser.add_argument(
        "name",
        metavar="NAME_OR_YAML",
        help="digits, ablation, vlcs, backgrounds, waterbirds, camelyon17, ..., or a YAML file",
    )
    parser.add_argument("--data_dir", help="folder of the data (for WILDS its root_dir); digits needs none")
    parser.add_argument("--output_dir", type=Path, required=True, help="where the jobs' folders are, or will be")
    parser.add_argument("--dry_run", action="store_true", help="show the plan and the commands, run nothing")
    parser.add_argument(
        "--plan", action="store_true", help="show jobs by protocol and, from a pilot, GPU hours and GB; run nothing"
    )
    parser.add_argument("--pilot", type=Path, help="folder of finished jobs from which hours are reckoned")
    parser.add_argument(
        "--max_gpu_hours", type=float, help="run the largest comparison within these hours, equal for all methods"
    )
    parser.add_argument(
        "--log",
        nargs="+",
        action="extend",
        choices=TARGETS,
        help="pass the curves on while jobs run (see `cim-dg log`)",
    )
    parser.add_argument("--skip_confirmation", action="store_true", help="do not ask")
    parser.add_argument("--require_gpu", action="store_true", help="do not run where no GPU can be used")
    parser.add_argument("--skip_model_save", action="store_true", help="keep no model of a finished job")
    change = parser.add_argument_group("instead of what the sweep says")
    change.add_argument("--datasets", nargs="+", help="those of the same files, or of none")
    change.add_argument("--algorithms", nargs="+")
    change.add_argument("--test_envs", nargs="+", help="of DomainBed: the environments to test on, by name")
    change.add_argument("--hparams", help="of DomainBed: hyper-parameters of all jobs, as a JSON object")
    change.add_argument("--n_trials", type=int)
    change.add_argument("--first_trial", type=int, help="the first trial seed (WILDS: seed); 0 if not given")
    change.add_argument(
        "--n_hparams", type=int, help="how many settings to search: the default hparams and random ones"
    )
    change.add_argument(
        "--protocol",
        help="random-search: all settings in every trial, as in DomainBed; search-then-seeds: in one trial, then the "
        "selected setting of each method and test environment in the others",
    )
    change.add_argument(
        "--halving",
        type=int,
        metavar="N",
        help="of search-then-seeds: stop settings of the search early; of N settings the best goes on at each rung",
    )
    change.add_argument("--steps", type=int, help="of DomainBed")
    change.add_argument(
        "--selection", help="iid, leave-one-out or oracle; average, worst-class, worst-group or macro-f1 for WILDS"
    )
    change.add_argument("--command_launcher", help="local, parallel, multi_gpu, pool, ray or slurm")
    parser.set_defaults(run=run)


_CHANGES = (
    *("datasets", "algorithms", "test_envs", "n_trials", "first_trial", "n_hparams", "protocol", "halving"),
    *("steps", "selection", "command_launcher"),
)


def run(args: argparse.Namespace) -> int:
    """Plan, confirm, run, and print the table.

    Raises:
        UserError: the sweep or a folder is invalid, the jobs cannot work here, or the plan is not confirmed.
        RunError: a job failed.
    """
    from cim_dg import launchers
    from cim_dg.domainbed.standin.hparams_registry import read_overrides
    from cim_dg.sweeps import domainbed
    from cim_dg.sweeps import plan as planning
    from cim_dg.sweeps.spec import load

    hparams = None if args.hparams is None else read_overrides(args.hparams)
    spec = load(args.name, {"hparams": hparams, **{name: getattr(args, name) for name in _CHANGES}})
    if args.output_dir.exists() and not args.output_dir.is_dir():
        raise UserError(f"--output_dir is {args.output_dir}, which is a file; accepted is a folder")
    if spec.harness == "domainbed":
        domainbed.check_has_sweep()
    if args.plan:
        planning.check_on_paper(spec, args.data_dir)
    if args.plan or args.max_gpu_hours is not None:
        spec = _within_budget(spec, args)
    elif args.pilot is not None:
        raise UserError(f"--pilot is {args.pilot}; it is accepted with --plan or --max_gpu_hours alone")
    if args.plan:
        return 0
    plan = planning.make_plan(spec, args.data_dir, args.output_dir)
    plan.check()
    print(plan.describe())
    if args.dry_run:
        for command in plan.commands:
            print(shlex.join(command.words))
        return 0
    if plan.commands:
        for flag in ("require_gpu", "skip_model_save"):  # DomainBed's sweep does not have these
            if getattr(args, flag):
                os.environ[f"CIM_DG_{flag.upper()}"] = "1"
        launchers.check(spec.command_launcher)
    if plan.commands and not args.skip_confirmation and not _confirmed():
        print("Nothing was run.")
        return 0
    if spec.primary is not None:
        planning.declare_primary(plan, args.output_dir)
    if plan.commands and args.log:
        _log_to(args.log)
    while plan.commands:
        planning.run(plan, args.output_dir)
        if plan.only_submits() and plan.still_missing():
            print("The jobs are submitted. The same command again shows what follows when they are done.")
            return 0
        if plan.is_last():
            break
        plan = planning.make_plan(spec, args.data_dir, args.output_dir)
        plan.check()
        print(plan.describe())
    _show(args.output_dir, spec.selection, spec.table)
    return 0


def _within_budget(spec: Spec, args: argparse.Namespace) -> Spec:
    """The sweep, cut to the budget if there is one; prints what it costs, and what was cut."""
    from cim_dg.results.render_text import for_stdout
    from cim_dg.sweeps import budget

    if args.pilot is not None and not args.pilot.is_dir():
        raise UserError(f"--pilot is {args.pilot}; there is no such folder")
    note = ""
    try:
        costs = budget.measure(spec, args.pilot or args.output_dir)
    except UserError as error:
        note = f"{error}. Run a pilot of short jobs, and add --pilot PILOT:\n{_pilot(spec, args)}"
        if args.pilot is not None or args.max_gpu_hours is not None:
            raise UserError(note) from None
        costs = {}  # the number of jobs is known all the same
    if args.max_gpu_hours is not None:
        spec, sentence = budget.fit(spec, costs, args.max_gpu_hours)
        print(sentence)
    if args.plan:
        print(for_stdout(budget.tables(spec, costs)), end=f"?: {note}\n" if note else "")
    return spec


def _pilot(spec: Spec, args: argparse.Namespace) -> str:
    """The command that runs one job of each method on each test environment, with three checkpoints at most."""
    from cim_dg.sweeps import domainbed

    needs_data = spec.data or spec.harness == "wilds"
    words = ["cim-dg", "sweep", args.name, *(["--data_dir", args.data_dir or "DATA"] if needs_data else [])]
    words += ["--output_dir", "PILOT", "--n_trials", "1", "--n_hparams", "1", "--protocol", "random-search"]
    for name in ("datasets", "algorithms", "test_envs"):
        words += [f"--{name}", *getattr(args, name)] if getattr(args, name) else []
    words += ["--hparams", args.hparams] if args.hparams else []
    if spec.harness == "domainbed":
        words += ["--steps", str(min(min(of, 2 * interval + 1) for of, interval in domainbed.lengths(spec).values()))]
    return shlex.join(words)


def _log_to(targets: list[str]) -> None:
    """Send the jobs' curves to `targets`, by an environment variable of the jobs."""
    from cim_dg.tracking.writers import check

    check(targets)
    os.environ[VARIABLE] = ",".join(targets)


def _confirmed() -> bool:
    try:
        return input("Run the missing jobs? (y/n) ").strip().lower().startswith("y")
    except EOFError:
        raise UserError("nobody is there to confirm; give --skip_confirmation to run without asking") from None


def _show(folder: Path, selection: str, table: str) -> None:
    from cim_dg.results import build, render_text

    report = build.report([folder], rules=[selection])
    for sentence in report.left_out:
        print(sentence, file=sys.stderr)
    # Runs on other data than a published table's (digits in the format of Waterbirds, say) have a table of another
    # name.
    report = replace(
        report, tables=[candidate for candidate in report.tables if candidate.name == table] or report.tables
    )
    print(render_text.for_stdout(report.grids()), end="")
    print(f"Again, or in another format: cim-dg collect {shlex.quote(str(folder))} --selection {selection}")
