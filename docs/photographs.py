"""What size, alignment and the number of digits do to CIM, as Markdown tables of paired differences to ERM.

    python docs/photographs.py runs/photographs [--studies size shift digits] [--values 0 4] [--dry_run]

A study changes one property of NuisanceDigits. Each value of it is a sweep of its own, of ERM and of CIM with and
without its contrast, tested on backgrounds not seen in training, on trial seeds that chose nothing. Jobs that are done
are not run again, and a table has the values that were run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cim_dg.results.read import read
from cim_dg.results.selection import select
from cim_dg.results.statistics import holm, paired, summarise

TRIALS, FIRST_TRIAL = 12, 3000
ROWS: dict[str, dict[str, Any]] = {
    "ERM": {"algorithm": "ERM"},
    "CIM": {"algorithm": "CIM"},
    "lambda-0": {"label": "λ = 0", "algorithm": "CIM", "hparams": {"cim_lambda": 0.0}},
}
AT_36 = {"compared-at-36": {"label": "compared at 36", "algorithm": "CIM", "hparams": {"cim_contrast_side": 36}}}
BASELINE = {"size": 36, "shift": 0, "digits": 300}
"""The values that are NuisanceDigits' defaults: one sweep for the three studies."""


@dataclass(frozen=True)
class Study:
    """A property of NuisanceDigits, and the values that are compared."""

    hparam: str
    column: str
    values: tuple[int, ...]


STUDIES = {
    "size": Study("nuisance_side", "side, pixels", (36, 72, 108, 224)),
    "shift": Study("nuisance_shift", "shift up to, pixels", (0, 1, 2, 3, 4)),
    "digits": Study("nuisance_digits", "digits in an environment", (100, 300, 700)),
}


def main() -> int:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--studies", nargs="+", choices=list(STUDIES), default=list(STUDIES))
    parser.add_argument("--values", nargs="+", type=int, help="only these values of the property")
    parser.add_argument("--dry_run", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    for name in arguments.studies:
        study = STUDIES[name]
        cells = {value: folder_of(arguments.output, name, value) for value in study.values}
        for value, folder in cells.items():
            if not arguments.dry_run and value in (arguments.values or study.values):
                run(name, value, folder)
        print(f"\n{table(study, cells)}")
    return 0


def folder_of(output: Path, name: str, value: int) -> Path:
    """The folder of a sweep; the default of every property is the same sweep."""
    return output / ("default" if value == BASELINE[name] else f"{name}-{value}")


def run(name: str, value: int, folder: Path) -> None:
    """Run the missing jobs of a sweep."""
    variants = ROWS | (AT_36 if name == "size" and value != BASELINE[name] else {})
    sweep = {
        "title": f"NuisanceDigits, {name} {value}",
        "harness": "domainbed",
        "datasets": ["NuisanceDigits"],
        "test_envs": ["new"],
        "first_trial": FIRST_TRIAL,
        "n_trials": TRIALS,
        "selection": "iid",
        "data": [],
        "table": "digits",
        "variants": variants,
        **({} if value == BASELINE[name] else {"hparams": {STUDIES[name].hparam: value}}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(sweep, allow_unicode=True), encoding="utf-8")
    words = ["sweep", str(file), "--output_dir", str(folder), "--skip_confirmation", "--skip_model_save"]
    subprocess.run([sys.executable, "-m", "cim_dg.cli", *words], check=True, stdout=subprocess.DEVNULL)


def table(study: Study, cells: dict[int, Path]) -> str:
    """Accuracies in %, mean and standard error, and differences to ERM in points, with 95% intervals.

    The p are two-sided, of paired t tests, corrected by Holm over the table.
    """
    lines = [
        f"| {study.column} | method | 'new' | less ERM | p |",
        "|---|---|---|---|---|",
    ]
    rows = []
    for value, folder in cells.items():
        if len(list(folder.glob("*/*/done"))) < TRIALS * len(ROWS):
            continue  # not run, or not to the end
        chosen = select(read([folder]), "iid")
        by_method = {method: group.set_index("trial")["value"] for method, group in chosen.groupby("algorithm")}
        erm = by_method.pop("ERM")
        rows.append((value, "ERM", summarise(list(erm), scale=100), None))
        for method, accuracies in by_method.items():
            both = sorted(set(erm.index) & set(accuracies.index))
            difference = paired(list(accuracies[both]), list(erm[both]), scale=100)
            rows.append((value, method, summarise(list(accuracies), scale=100), difference))
    corrected = iter(holm([difference.p for *_, difference in rows if difference is not None]))
    for value, method, accuracy, difference in rows:
        cells_of_row = [str(value), str(method), f"{accuracy.mean:.1f} ± {accuracy.stderr:.1f}", "", ""]
        if difference is not None and difference.interval is not None:
            low, high = difference.interval
            cells_of_row[3:] = [f"{difference.mean:+.1f} [{low:+.1f}, {high:+.1f}]", f"{next(corrected):.2g}"]
        lines.append(f"| {' | '.join(cells_of_row)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
