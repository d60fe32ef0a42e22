"""`cim-dg audit`: what is unfair about a comparison, and what to run to mend it."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from cim_dg.results.command import add_runs_options


def add_parser(subparsers: Any) -> None:
    """Add `audit` to the `cim-dg` command."""
    parser = subparsers.add_parser(
        "audit",
        help="say what is unfair about a comparison, and what to run to mend it",
        description="Compare the runs of each dataset and protocol: settings, trials, backbone, weights, steps, batch, "
        "resolution, optimiser, learning rate, code, libraries, harness, selection, group labels, jobs, what is known "
        "of the dataset, and what is claimed. `cim-dg collect --format html` has the findings too.",
    )
    add_runs_options(parser, nargs="+")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if anything unfair is found; notes are not")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the findings and notes; returns 1 if there are any and `--strict` is given."""
    from cim_dg.results import audit, build

    report = build.report(args.folders, rules=args.selection, baseline=args.baseline)
    found = audit.findings(report)
    for sentence in report.left_out:
        print(sentence, file=sys.stderr)
    print(audit.as_text(found, audit.notes(report)), end="")
    return 1 if found and args.strict else 0
