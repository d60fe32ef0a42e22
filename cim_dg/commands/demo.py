"""`cim-dg demo`: CIM and the baselines on digits over nuisance backgrounds, in minutes, under both harnesses."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from pathlib import Path
from typing import Any

NEW_BACKGROUNDS = (2,)
"""NuisanceDigits' environment 'new', whose backgrounds do not follow the class: the test environment."""


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
    """Run the missing jobs, then print the tables and the paths of all files.

    Raises:
        UserError: the folder cannot be used, a number is not positive, or it is a fork of DomainBed without a sweep.
        RunError: a job failed.
    """
    from cim_dg import cli
    from cim_dg.sweeps import domainbed

    domainbed.check_has_sweep()
    output_dir = arguments.output_dir
    changes = {"n_trials": arguments.n_trials, "steps": arguments.steps}
    _sweep("digits", output_dir / "domainbed", None, changes)
    data_dir = output_dir / "data"
    if not (data_dir / "waterbirds_v1.0").exists():
        with contextlib.redirect_stdout(sys.stderr):  # stdout has only the tables
            cli.main(["wilds", "digits", "--root_dir", str(data_dir)])
    _sweep("waterbirds-digits", output_dir / "wilds", data_dir, {})
    _show(output_dir)
    return 0


def _sweep(name: str, folder: Path, data_dir: Path | None, changes: dict[str, int | None]) -> None:
    """Run `cim-dg sweep NAME`, which runs the harness' own commands in separate processes, as users do."""
    from cim_dg.sweeps import plan as planning
    from cim_dg.sweeps.spec import load

    plan = planning.make_plan(load(name, changes), None if data_dir is None else str(data_dir), folder)
    print(plan.describe(), file=sys.stderr)
    planning.run(plan, folder, folder.parent / f"{folder.name}.txt")


def _show(output_dir: Path) -> None:
    from cim_dg import cli
    from cim_dg.results import build, page, render_text
    from cim_dg.runtime.files import write_atomically

    folders = [output_dir / "domainbed", output_dir / "wilds"]
    report = build.report(folders)
    print(render_text.for_stdout(report.grids()))
    assert report.records is not None  # there are folders
    for job in report.records.runs:
        if (job.algorithm, job.trial, job.test_envs) == ("CIM", 0, NEW_BACKGROUNDS):
            checkpoint, picture = str(job.folder / "model.pkl"), str(output_dir / "morph.png")
            with contextlib.redirect_stdout(sys.stderr):
                cli.main(["morph", "--checkpoint", checkpoint, "--output", picture])
    write_atomically(output_dir / "report.html", page.render(report))
    print(f"{output_dir}/report.html   all of it on one page: open it in a browser")
    print(f"{output_dir}/morph.png     x, the mask m, and psi(x) = m * x, on backgrounds not seen in training")
    print(f"{output_dir}/domainbed/    a folder per job, as DomainBed writes them, with provenance.json")
    print(f"{output_dir}/wilds/        logs as WILDS writes them")
    print(f"{output_dir}/*.txt         what the harnesses' commands printed")
    print("Tables again:", shlex.join(["cim-dg", "collect", str(output_dir)]))
