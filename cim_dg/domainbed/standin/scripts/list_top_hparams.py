"""List one algorithm's runs on one test environment, best hyper-parameters first, by trial and model selection."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cim_dg.errors import UserError
from cim_dg.results import read_domainbed
from cim_dg.runtime.arguments import Parser

from ..lib import command, reporting
from ..model_selection import SELECTION_METHODS


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments."""
    parser = Parser(prog="domainbed.scripts.list_top_hparams", description=__doc__)
    parser.add_argument("--input_dir", required=True, help="a sweep's --output_dir")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--algorithm", required=True)
    parser.add_argument("--test_env", type=int, required=True)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = parse_args(argv)
    command.announce()
    return command.run(lambda: list_top_hparams(args))


def list_top_hparams(args: argparse.Namespace) -> None:
    """Print the runs.

    Raises:
        UserError: --input_dir is no folder, or has no such run.
    """
    records = reporting.load_records(args.input_dir)
    read_domainbed.from_lines(records)  # damaged ones are refused
    print("Total records:", len(records))
    requested = (args.dataset, args.algorithm, args.test_env)
    groups = [group for group in reporting.get_grouped_records(records) if group[1:4] == requested]
    if not groups:
        dataset, algorithm, test_env = requested
        raise UserError(f"{args.input_dir} has no run of {algorithm} on {dataset} with test environment {test_env}")
    for method in SELECTION_METHODS:
        print(f"Model selection: {method.name}")
        for group in groups:
            print(f"trial_seed: {group.trial_seed}")
            for accuracies, run_records in method.hparams_accs(group.records):
                print(f"\t{accuracies}")
                print("\t\thparams:")
                for name, value in sorted(run_records[0].get("hparams", {}).items()):
                    print(f"\t\t\t{name}: {value}")
                print("\t\toutput_dirs:")
                for output_dir in dict.fromkeys(record["args"].get("output_dir", "?") for record in run_records):
                    print(f"\t\t\t{output_dir}")


if __name__ == "__main__":
    sys.exit(main())
