"""`cim-dg demo`: CIM and the baselines on digits over nuisance backgrounds, in minutes, under both harnesses."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from cim_dg.errors import RunError

NEW_BACKGROUNDS = (2,)
"""NuisanceDigits' environment 'new', whose backgrounds follow nothing: as the test environment, what CIM is about."""
WILDS_METHODS = ("ERM", "CIM")
WILDS_EPOCHS = 3


def add_parser(subparsers: Any) -> None:
    """Add `demo` to the command line."""
    parser = subparsers.add_parser(
        "demo",
        help="train CIM and the baselines on digits over nuisance backgrounds, and compare them",
        description="Trains ERM, VIB, SCL, CIM and CIM + VIB on NuisanceDigits through DomainBed's own sweep, then ERM "
        "and CIM on digits in the format of Waterbirds, and shows the comparison and the morphed images. Run again, "
        "it does only what is missing.",
    )
    parser.add_argument("--output_dir", type=Path, default=Path("runs/demo"))
    parser.add_argument("--n_trials", type=int, default=3, help="repetitions with other splits and seeds (default 3)")
    parser.add_argument("--steps", type=int, help="steps of each DomainBed job, for a quick look (default 200)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train what is missing, then show the tables and where everything is.

    Raises:
        UserError: the folder cannot be used, or a number is not positive.
        RunError: a job failed.
    """
    output_dir = arguments.output_dir
    _domainbed(output_dir / "domainbed", {"n_trials": arguments.n_trials, "steps": arguments.steps})
    _wilds(output_dir / "wilds", output_dir / "data")
    _show(output_dir)
    return 0


def _domainbed(folder: Path, changes: dict[str, int | None]) -> None:
    """What `cim-dg sweep digits` runs: DomainBed's own sweep, in a process of its own as its users run it."""
    from cim_dg.sweeps import plan as planning
    from cim_dg.sweeps.spec import load

    plan = planning.make_plan(load("digits", changes), None, folder)
    print(plan.describe(), file=sys.stderr)
    planning.run(plan, folder)


def _wilds(folder: Path, data: Path) -> None:
    """A short run of each of `WILDS_METHODS` on two classes of digits over two kinds of stripes, Waterbirds' way."""
    from cim_dg import cli

    commands = [(data / "waterbirds_v1.0", ["digits", "--root_dir", str(data)])]
    for name in WILDS_METHODS:
        log = folder / name
        options = {"dataset": "waterbirds", "defaults": "digits", "algorithm": name, "root_dir": data}
        options |= {"log_dir": log, "n_epochs": WILDS_EPOCHS}
        words = [word for option, value in options.items() for word in (f"--{option}", str(value))]
        commands.append((log / "run.json", ["train", *words, "--resume", "True"]))
    for made, words in commands:
        if not made.exists():
            print("$ cim-dg wilds", *words, file=sys.stderr)
            if code := cli.main(["wilds", *words]):
                raise RunError(f"`cim-dg wilds {words[0]}` ended with exit code {code}")


def _show(output_dir: Path) -> None:
    from cim_dg import cli
    from cim_dg.results import build, render_text

    folders = [output_dir / "domainbed", output_dir / "wilds"]
    report = build.report(folders)
    print(render_text.render(report.grids(), colour=sys.stdout.isatty()))
    assert report.records is not None  # there are folders
    for job in report.records.runs:
        if (job.algorithm, job.trial, job.test_envs) == ("CIM", 0, NEW_BACKGROUNDS):
            checkpoint, picture = str(job.folder / "model.pkl"), str(output_dir / "morph.png")
            cli.main(["morph", "--checkpoint", checkpoint, "--output", picture])
    print(f"{output_dir}/morph.png     x, the mask m, and psi(x) = m * x, on backgrounds not seen in training")
    print(f"{output_dir}/domainbed/    a folder per job, as DomainBed writes them, with provenance.json")
    print(f"{output_dir}/wilds/        logs as WILDS writes them")
    print("Tables again:         cim-dg collect", *folders)
    print("One page of it all:   cim-dg collect", *folders, "--format html --output report.html")
