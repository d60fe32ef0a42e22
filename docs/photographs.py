"""What size, alignment and the number of digits do to CIM, as Markdown tables of paired differences to ERM.

    python docs/photographs.py runs/photographs [--studies size shift digits] [--values 0 4] [--dry_run]
    python docs/photographs.py SWEEP_FOLDER --masks

A study changes one property of NuisanceDigits. Each value of it is a sweep of its own, of ERM and of CIM with and
without its contrast, tested on backgrounds not seen in training, on trial seeds that chose nothing. Jobs that are done
are not run again, and a table has the values that were run. `--masks` runs nothing: it prints what training did to the
masks of a DomainBed sweep with variants.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cim_dg.results.read import read
from cim_dg.results.selection import select
from cim_dg.results.statistics import Difference, holm, paired, summarise

TRIALS, FIRST_TRIAL = 12, 3000
ROWS: dict[str, dict[str, Any]] = {
    "ERM": {"algorithm": "ERM"},
    "CIM": {"algorithm": "CIM"},
    "lambda-0": {"label": "λ = 0", "algorithm": "CIM", "hparams": {"cim_lambda": 0.0}},
}
AT_36 = {"compared-at-36": {"label": "compared at 36", "algorithm": "CIM", "hparams": {"cim_contrast_side": 36}}}
_ALIGN = {"cim_align": 4, "cim_normalize": "simple"}
ALIGNED = {
    "simple": {"label": "CIM, simple", "algorithm": "CIM", "hparams": {"cim_normalize": "simple"}},
    "aligned": {"label": "aligned", "algorithm": "CIM", "hparams": _ALIGN},
    "aligned-4": {"label": "aligned, 4 pairs", "algorithm": "CIM", "hparams": _ALIGN | {"cim_pairs": 4}},
    "aligned-4-shuffled": {
        "label": "aligned, 4 pairs, shuffled labels",
        "algorithm": "CIM",
        "hparams": _ALIGN | {"cim_pairs": 4, "cim_shuffle_labels": True},
    },
}
MORE_ROWS = {
    **{("nuisance_side", side): AT_36 for side in (72, 108, 224)},
    ("nuisance_shift", 4): ALIGNED,
}
BASELINES = ("ERM", "λ = 0")
DEFAULTS = {"size": 36, "shift": 0, "digits": 300}
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
    parser.add_argument("--masks", action="store_true", help="print the masks' means and spreads in a sweep's jobs")
    arguments = parser.parse_args()
    if arguments.masks:
        print(masks(arguments.output))
        return 0
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
    return output / ("default" if value == DEFAULTS[name] else f"{name}-{value}")


def variants(study: Study, value: int) -> dict[str, dict[str, Any]]:
    """The rows of a sweep."""
    return ROWS | MORE_ROWS.get((study.hparam, value), {})


def run(name: str, value: int, folder: Path) -> None:
    """Run the missing jobs of a sweep."""
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
        "variants": variants(STUDIES[name], value),
        **({} if value == DEFAULTS[name] else {"hparams": {STUDIES[name].hparam: value}}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(sweep, allow_unicode=True), encoding="utf-8")
    words = ["sweep", str(file), "--output_dir", str(folder), "--skip_confirmation", "--skip_model_save"]
    subprocess.run([sys.executable, "-m", "cim_dg.cli", *words], check=True, stdout=subprocess.DEVNULL)


def table(study: Study, cells: dict[int, Path]) -> str:
    """Accuracies in %, mean and standard error, and differences to ERM and to λ = 0 in points, with intervals of 95%.

    The p are two-sided, of paired t tests, corrected by Holm over the table.
    """
    rows: list[tuple[list[str], list[Difference | None]]] = []
    for value, folder in cells.items():
        if not list(folder.glob("*/*/done")):
            continue  # not run
        chosen = select(read([folder]), "iid")
        by_method = {str(method): group.set_index("trial")["value"] for method, group in chosen.groupby("algorithm")}
        labels = [variant.get("label", name) for name, variant in variants(study, value).items()]
        by_method = {label: by_method[label] for label in labels if len(by_method.get(label, ())) == TRIALS}
        for method, accuracies in by_method.items():
            mean = summarise(list(accuracies), scale=100)
            differences = [
                None
                if method in {other, "ERM"} or other not in by_method
                else paired(list(accuracies), list(by_method[other][accuracies.index]), 100)
                for other in BASELINES
            ]
            rows.append(([str(value), method, f"{mean.mean:.1f} ± {mean.stderr:.1f}"], differences))
    every = [each for _, differences in rows for each in differences if each is not None]
    corrected = iter(holm([1.0 if each.p is None else each.p for each in every]))
    header = [study.column, "method", "'new'", *(title for other in BASELINES for title in (f"less {other}", "p"))]
    lines = [header, ["---"] * len(header)]
    for texts, differences in rows:
        cell = [("", "") if each is None else (interval(each), f"{next(corrected):.2g}") for each in differences]
        lines.append([*texts, *(text for pair in cell for text in pair)])
    return as_markdown(lines)


def masks(folder: Path) -> str:
    """The mask's mean, and its spread within an image, of each variant with a mask: mean ± standard error over jobs.

    Before: the first record of a job, the mean of its first step. After: the last, of the steps since the one before.
    """
    lines = [["variant", "jobs", "mean before", "after", "spread before", "after"], ["---"] * 6]
    for variant in sorted(each for each in folder.iterdir() if each.is_dir()):
        logs = [path.read_text(encoding="utf-8").splitlines() for path in variant.glob("*/results.jsonl")]
        ends = [(json.loads(log[0]), json.loads(log[-1])) for log in logs]
        if not ends or "mask_mean" not in ends[0][0]:
            continue  # no mask
        figures = []
        for term in ("mask_mean", "mask_spread"):
            for of_all in zip(*ends, strict=True):
                figure = summarise([record[term] for record in of_all])
                figures.append(f"{figure.mean:.3f} ± {figure.stderr:.3f}")
        lines.append([variant.name, str(len(ends)), *figures])
    return as_markdown(lines)


def as_markdown(lines: list[list[str]]) -> str:
    """The rows of a table as Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def interval(difference: Difference) -> str:
    """A difference in points with its interval, as text."""
    low, high = difference.interval or (float("nan"),) * 2
    return f"{difference.mean:+.1f} [{low:+.1f}, {high:+.1f}]".replace("-", "\u2212")


if __name__ == "__main__":
    sys.exit(main())
