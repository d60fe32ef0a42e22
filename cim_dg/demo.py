"""`cim-dg demo`: CIM and the baselines on digits over nuisance backgrounds, under DomainBed's protocol, in minutes."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from cim_dg.errors import RunError, UserError

ALGORITHMS = ("ERM", "VIB", "SCL", "CIM", "CIM_VIB")
NEW_BACKGROUNDS = 2
"""NuisanceDigits' environment 'new', whose backgrounds follow nothing: as the test environment, what CIM is about."""


def add_parser(subparsers: Any) -> None:
    """Add `demo` to the command line."""
    parser = subparsers.add_parser(
        "demo",
        help="train CIM and the baselines on digits over nuisance backgrounds, and compare them",
        description="Trains ERM, VIB, SCL, CIM and CIM + VIB on NuisanceDigits through DomainBed's own sweep, and shows "
        "the comparison and the morphed images. Run again, it does only what is missing.",
    )
    parser.add_argument("--output_dir", type=Path, default=Path("runs/demo"))
    parser.add_argument("--n_trials", type=int, default=3, help="repetitions with other splits and seeds (default 3)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train what is missing, then show the table and where everything is.

    Raises:
        UserError: the folder cannot be used, or no trial is asked for.
        RunError: a job failed.
    """
    if arguments.n_trials < 1:
        raise UserError(f"--n_trials is {arguments.n_trials}; accepted is a whole number of at least 1")
    sweep = arguments.output_dir / "domainbed"
    try:
        sweep.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output_dir {arguments.output_dir} cannot be used: {error.strerror}") from None
    # Jobs that an earlier demo left half-way start over; finished ones stay.
    for command in ("delete_incomplete", "launch"):
        _sweep(command, sweep, arguments.n_trials)
    picture = arguments.output_dir / "morph.png"
    _show(sweep, picture)
    print("Written:")
    print(f"  {picture}  x, the mask m, and psi(x) = m * x, on backgrounds not seen in training")
    print(f"  {sweep}/*/  one folder a job, as DomainBed writes them: results.jsonl, model.pkl, provenance.json, out.txt")
    print(f"Tables again: cim-dg collect {sweep}")
    return 0


def _sweep(command: str, folder: Path, n_trials: int) -> None:
    """DomainBed's own sweep, in a process of its own as its users run it. What it prints goes to a file."""
    from tqdm import tqdm

    arguments = [
        *("--algorithms", *ALGORITHMS, "--datasets", "NuisanceDigits"),
        *("--n_hparams", "1", "--n_trials", str(n_trials), "--single_test_envs"),
        # NuisanceDigits reads no files; DomainBed wants the flag, and names the job's folder after it.
        *("--data_dir", "none", "--output_dir", str(folder)),
        *("--command_launcher", "parallel", "--skip_confirmation"),
    ]
    line = ["python", "-m", "domainbed.scripts.sweep", command, *arguments]
    if command == "launch":
        tqdm.write("$ " + " ".join(line), file=sys.stderr)
    with open(folder.parent / f"{command}.txt", "w") as output:
        code = subprocess.call([sys.executable, *line[1:]], stdout=output)
    if code:
        raise RunError(f"`domainbed.scripts.sweep {command}` ended with exit code {code}; see {output.name}")


def _show(sweep: Path, picture: Path) -> None:
    from cim_dg import cli
    from cim_dg.results import build, render_text

    report = build.report([sweep])
    print(render_text.render(report.grids(), colour=sys.stdout.isatty()))
    assert report.records is not None  # there are folders
    for job in report.records.runs:
        if (job.algorithm, job.trial, job.test_envs) == ("CIM", 0, (NEW_BACKGROUNDS,)):
            cli.main(["morph", "--checkpoint", str(job.folder / "model.pkl"), "--output", str(picture)])
