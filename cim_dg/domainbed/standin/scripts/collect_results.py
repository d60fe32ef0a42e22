"""Print the tables of a sweep for each model selection, and write them to results.txt or results.tex."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from cim_dg.errors import UserError
from cim_dg.results import domainbed_report, read_domainbed
from cim_dg.runtime.arguments import Parser
from cim_dg.runtime.files import write_atomically

from .. import algorithms, datasets
from ..lib import command, reporting


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments."""
    parser = Parser(prog="domainbed.scripts.collect_results", description=__doc__)
    parser.add_argument("--input_dir", required=True, help="a sweep's --output_dir")
    parser.add_argument("--latex", action="store_true")
    parser.add_argument("--auto_lr", action="store_true", help="in the real DomainBed only")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = parse_args(argv)
    command.announce()
    return command.run(lambda: collect(args))


def collect(args: argparse.Namespace) -> None:
    """Print the tables, and write them into --input_dir.

    Raises:
        UserError: --input_dir is no folder, a record in it is damaged, or --auto_lr is asked for.
    """
    if args.auto_lr:
        raise UserError("--auto_lr is not in this stand-in: its runs are made and collected by the real DomainBed")
    records = reporting.load_records(args.input_dir)
    runs = read_domainbed.from_lines(records)
    with_records = {record["args"]["dataset"] for record in records}
    unknown = with_records - set(datasets.DATASETS)
    if unknown:
        print(f"warning: no table for {', '.join(sorted(unknown))}, unknown here", file=sys.stderr)
    environments = {
        name: datasets.get_dataset_class(name).ENVIRONMENTS for name in datasets.DATASETS if name in with_records
    }
    report = domainbed_report.render(runs, len(records), algorithms.ALGORITHMS, environments, args.latex)
    sys.stdout.write(report)
    write_atomically(os.path.join(args.input_dir, "results.tex" if args.latex else "results.txt"), report)


if __name__ == "__main__":
    sys.exit(main())
