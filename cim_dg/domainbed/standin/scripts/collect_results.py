"""Print the tables of a sweep, for each way of model selection, and write them to results.txt or results.tex."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence

import numpy as np

from cim_dg.errors import UserError

from .. import algorithms, datasets, model_selection
from ..lib import command, reporting, tables
from ..lib.misc import Tee

SELECTION_METHODS: list[type[model_selection.SelectionMethod]] = [
    model_selection.IIDAccuracySelectionMethod,
    model_selection.LeaveOneOutSelectionMethod,
    model_selection.OracleSelectionMethod,
]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="domainbed.scripts.collect_results", description=__doc__)
    parser.add_argument("--input_dir", required=True, help="a sweep's --output_dir")
    parser.add_argument("--latex", action="store_true")
    parser.add_argument("--auto_lr", action="store_true", help="in the real DomainBed only")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    command.announce()
    return command.run(lambda: collect(args))


def collect(args: argparse.Namespace) -> None:
    if args.auto_lr:
        raise UserError("--auto_lr is not in this stand-in: its runs are made and collected by the real DomainBed")
    records = reporting.load_records(args.input_dir)
    unknown = {record["args"]["dataset"] for record in records} - set(datasets.DATASETS)
    if unknown:
        print(f"warning: no table for {', '.join(sorted(unknown))}, unknown here", file=sys.stderr)
    results = os.path.join(args.input_dir, "results.tex" if args.latex else "results.txt")
    with Tee(sys.stdout, results, "w") as tee, contextlib.redirect_stdout(tee):
        if args.latex:
            print("\\documentclass{article}")
            print("\\usepackage{booktabs}")
            print("\\usepackage{adjustbox}")
            print("\\begin{document}")
            print("\\section{Full DomainBed results}")
            print("% Total records:", len(records))
        else:
            print("Total records:", len(records))
        for method in SELECTION_METHODS:
            if args.latex:
                print(f"\n\\subsection{{Model selection: {method.name}}}")
            print_tables(records, method, args.latex)
        if args.latex:
            print("\\end{document}")


def print_tables(records: list[reporting.Record], method: type[model_selection.SelectionMethod], latex: bool) -> None:
    """A table for each data set and one of their averages."""
    results = [
        (group, accuracy)
        for group in reporting.get_grouped_records(records)
        if (accuracy := method.sweep_acc(group.records)) is not None
    ]
    seen_algorithms = dict.fromkeys(record["args"]["algorithm"] for record in records)
    algorithm_names = sorted(seen_algorithms, key=_place_in(algorithms.ALGORITHMS))
    seen_datasets = {record["args"]["dataset"] for record in records}
    dataset_names = [name for name in datasets.DATASETS if name in seen_datasets]

    for dataset in dataset_names:
        if latex:
            print(f"\n\\subsubsection{{{dataset}}}")
        environments = datasets.get_dataset_class(dataset).ENVIRONMENTS
        rows = []
        for algorithm in algorithm_names:
            cells: list[list[float]] = [[] for _ in environments]
            for group, accuracy in results:
                if (group.dataset, group.algorithm) == (dataset, algorithm):
                    cells[group.test_env].append(accuracy)
            rows.append(tables.row(algorithm, cells, latex))
        title = f"Dataset: {dataset}, model selection method: {method.name}"
        tables.print_table(title, ["Algorithm", *environments, "Avg"], rows, 20, latex)

    if latex:
        print("\n\\subsubsection{Averages}")
    rows = []
    for algorithm in algorithm_names:
        cells = []
        for dataset in dataset_names:
            trials: dict[int, list[float]] = {}
            for group, accuracy in results:
                if (group.dataset, group.algorithm) == (dataset, algorithm):
                    trials.setdefault(group.trial_seed, []).append(accuracy)
            cells.append([float(np.mean(trials[trial])) for trial in sorted(trials)])
        rows.append(tables.row(algorithm, cells, latex))
    title = f"Averages, model selection method: {method.name}"
    tables.print_table(title, ["Algorithm", *dataset_names, "Avg"], rows, 25, latex)


def _place_in(order: list[str]) -> Callable[[str], int]:
    return lambda name: order.index(name) if name in order else len(order)


if __name__ == "__main__":
    sys.exit(main())
