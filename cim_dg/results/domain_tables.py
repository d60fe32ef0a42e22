"""The tables of DomainBed's data sets: a column per test environment, and their average.

Runs of SWAD's form (SWAD, MIRO) have tables of their own: their protocol is another.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from cim_dg.results import published, statistics
from cim_dg.results.domains import dataset_of, domain_names
from cim_dg.results.primary import find
from cim_dg.results.read_swad import AVERAGED, is_averaged, is_family
from cim_dg.results.records import Records, Run, settings_tried
from cim_dg.results.selection import TITLES, select, unserved
from cim_dg.results.tables import (
    Cell,
    Comparison,
    Row,
    Table,
    Trials,
    cell,
    compare,
    flag_notes,
    method_order,
    primary_note,
    published_rows,
    same_baseline,
    summary_cell,
    tried_note,
)

NAMES = {"VLCS": "vlcs", "NuisanceDigits": "digits", "VLCSMini": "vlcs-mini"}
AVERAGE = "Average"
_SWAD_TITLE = ", SWAD's protocol"
_PAPER_COLUMNS = {"VLCS": ["Caltech", "LabelMe", "Pascal", "Sun"]}


def table_name(dataset: str) -> str:
    """The name of a data set's table on the command line."""
    dataset = dataset_of(dataset)
    return NAMES.get(dataset, dataset.lower())


def domain_tables(records: Records, rules: Sequence[str], baseline: str, with_published: bool) -> list[Table]:
    """A table for each DomainBed data set under each rule and protocol. A rule that does not apply is explained."""
    runs = [run for run in records.runs if run.test_envs]
    kinds = {(run.dataset, is_family(run.harness)) for run in runs}
    selected = {rule: select(records, rule) for rule in rules}
    return [
        _table(dataset, swad, rule, selected[rule], records, baseline, with_published)
        for dataset, swad in sorted(kinds, key=lambda kind: (dataset_of(kind[0]) not in NAMES, kind))
        for rule in rules
    ]


def published_tables(name: str, rules: Sequence[str]) -> list[Table]:
    """A table with published figures only, under each rule."""
    figures = published.figures(name)
    dataset = figures[0].dataset
    domains = dict.fromkeys(figure.column for figure in figures if figure.column != AVERAGE)
    columns = [*_PAPER_COLUMNS.get(dataset, domains), AVERAGE]
    kinds = [(swad, rule) for swad in (False, True) for rule in rules if _published(dataset, rule, swad)]
    return [_finish(dataset, swad, rule, columns, [], [], [], "", True) for swad, rule in kinds or [(True, "iid")]]


def _table(
    dataset: str, swad: bool, rule: str, selected: pd.DataFrame, records: Records, baseline: str, with_published: bool
) -> Table:
    of_dataset = selected[(selected["dataset"] == dataset) & (selected["harness"].map(is_family) == swad)]
    runs = [run for run in records.runs if run.dataset == dataset and run.test_envs and is_family(run.harness) == swad]
    names = domain_names(dataset, _environments(records, dataset))
    columns = [name for name in _PAPER_COLUMNS.get(dataset, names) if name in names] or names
    if chosen := _chosen_environments(
        records, runs, len(names), bool(with_published and _published(dataset, rule, swad))
    ):
        columns = [name for name in columns if names.index(name) in chosen]
    shown_columns = columns if chosen or not columns else [*columns, AVERAGE]
    per_row = {
        (str(algorithm), str(harness)): _by_column(part, names)
        for (harness, algorithm), part in of_dataset.groupby(["harness", "algorithm"], observed=True, sort=False)
    }
    rows, trials, notes = [], {}, []
    if not len(of_dataset) and swad:
        notes.append(f"{dataset}: {TITLES[rule]} is no part of SWAD's protocol.")
    elif not len(of_dataset) and (reason := unserved(records, rule)):
        notes.append(f"{dataset}: {reason}")
    for harness in sorted({run.harness for run in runs}):
        if is_averaged(harness) and rule != "iid":
            continue  # averages are chosen by training domains
        for method in method_order(
            [run.algorithm for run in runs if run.harness == harness], baseline, records.variants
        ):
            by_column = per_row.get((method, harness), {})
            averages = _averages(by_column, columns)
            cells = {name: cell(values) for name, values in by_column.items()}
            if AVERAGE in shown_columns and (average := _average(cells, averages, columns)):
                cells[AVERAGE] = average
            rows.append(Row(method, harness, rule, cells))
            trials[method, harness] = {**by_column, **({AVERAGE: averages} if AVERAGE in cells else {})}
            notes += _gaps(method, harness, by_column, columns) if len(of_dataset) else []
    notes += _settings(dataset, runs, records.variants)
    primary = find(records.primaries, [dataset], rule, baseline)
    comparisons = compare(trials, same_baseline(trials, baseline), shown_columns, primary=primary)
    notes += primary_note(primary, comparisons)
    table = _finish(dataset, swad, rule, shown_columns, rows, comparisons, notes, baseline, with_published)
    return replace(table, trials=trials, headlines={dataset: (AVERAGE, "average over the test domains")})


def _finish(
    dataset: str,
    swad: bool,
    rule: str,
    columns: list[str],
    rows: list[Row],
    comparisons: list[Comparison],
    notes: list[str],
    baseline: str,
    with_published: bool,
) -> Table:
    printed_rows = published_rows(_published(dataset, rule, swad)) if with_published else []
    if printed_rows:
        notes = [*notes, *flag_notes(printed_rows), _protocols(dataset, rule, swad)]
    if swad and any(is_averaged(row.source) for row in rows):
        notes = [f"{AVERAGED.strip()}: SWAD's average over steps, as its log.txt has it.", *notes]
    if swad and rule == "oracle":
        notes = ["SWAD's oracle takes the best checkpoint, DomainBed's the last.", *notes]
    return Table(
        name=table_name(dataset),
        title=f"{dataset}{_SWAD_TITLE if swad else ''}: test accuracy (%)",
        selection=rule,
        columns=columns,
        rows=[*rows, *printed_rows],
        baseline=baseline,
        comparisons=comparisons,
        notes=[f"Model selection: {TITLES[rule]}.", *notes],
        dataset=dataset,
    )


def _chosen_environments(records: Records, runs: list[Run], environments: int, with_published: bool) -> set[int]:
    """The environments that a sweep tests on, where it leaves some out, if all runs and rows are its."""
    tested = {env for run in runs for env in run.test_envs}
    only_variants = all(run.algorithm in records.variants for run in runs)
    if len(tested) == environments or (with_published and not only_variants):
        return set()
    return tested


def _environments(records: Records, dataset: str) -> int:
    """The number of environments in the data set's records."""
    frame = records.frame
    splits = frame["split"][(frame["dataset"] == dataset) & (frame["metric"] == "acc")].unique()
    numbers = [int(match[1]) for split in splits if (match := re.match(r"env(\d+)_", split))]
    return max(numbers, default=-1) + 1


def _by_column(part: pd.DataFrame, names: list[str]) -> dict[str, Trials]:
    by_column: dict[str, dict[int, float]] = {}
    for env, trial, value in zip(part["test_env"], part["trial"], part["value"], strict=True):
        by_column.setdefault(names[env], {})[int(trial)] = float(value)
    return dict(by_column)


def _averages(by_column: dict[str, Trials], columns: list[str]) -> Trials:
    """The mean over the environments of each trial that has them all."""
    if any(name not in by_column for name in columns) or not columns:
        return {}
    complete = sorted(set.intersection(*(set(by_column[name]) for name in columns)))
    return {trial: sum(by_column[name][trial] for name in columns) / len(columns) for trial in complete}


def _average(cells: dict[str, Cell], averages: Trials, columns: list[str]) -> Cell | None:
    """DomainBed's average, the mean of the columns, with the uncertainty of the complete trials' averages."""
    if not columns or any(name not in cells for name in columns):
        return None
    mean = sum(cells[name].mean for name in columns) / len(columns)
    if not averages:
        return Cell(mean, trials=0)
    return summary_cell(statistics.summarise(list(averages.values()), scale=100.0), mean)


def _gaps(method: str, harness: str, by_column: dict[str, Trials], columns: list[str]) -> list[str]:
    missing = [name for name in columns if name not in by_column]
    if missing:
        return [
            f"{method} ({harness}) has no selectable run with test environment {', '.join(missing)}, so it has no "
            "average."
        ]
    trials = {name: sorted(by_column[name]) for name in columns}
    if len(set(map(tuple, trials.values()))) > 1:
        trial_counts = "; ".join(f"{name}: {', '.join(map(str, numbers))}" for name, numbers in trials.items())
        return [
            f"{method} ({harness}) does not have the same trials everywhere ({trial_counts}): its average is the mean "
            "of the columns, and the average's uncertainty is that of the complete trials."
        ]
    return []


def _settings(dataset: str, runs: list[Run], variants: Sequence[str]) -> list[str]:
    """A warning for each of the harness' settings that differs between the runs. Variants may differ in hparams,
    and the seeds of a search have those that it selected."""
    notes = []
    for name in ("steps", "holdout_fraction", "uda_holdout_fraction", "task", "hparams"):
        exempt = variants if name == "hparams" else ()
        compared = [run for run in runs if run.algorithm not in exempt and not (name == "hparams" and run.protocol)]
        values = sorted({str(run.args.get(name)) for run in compared})
        if len(values) > 1:
            notes.append(
                f"Careful: the runs of {dataset} differ in --{name} ({', '.join(values)}); they are pooled all the "
                "same, as DomainBed pools them."
            )
    if len({run.bf16 for run in runs if run.algorithm not in variants}) > 1:
        notes.append(f"Careful: of the runs of {dataset}, some computed in bfloat16 (bf16), others in float32.")
    methods: dict[str, list[Run]] = {}
    for run in runs:
        methods.setdefault(run.algorithm, []).append(run)
    if methods:
        notes.append(tried_note({name: str(settings_tried(of_method)) for name, of_method in methods.items()}, ""))
    if any(run.harness == "domainbed-standin" for run in runs):
        notes.append("domainbed-standin is the small stand-in of this package, not the real DomainBed.")
    return notes


def _published(dataset: str, rule: str, swad: bool) -> list[published.Figure]:
    """The published figures of a data set under the protocol of the runs."""
    protocols = [f"swad-{rule}"] if swad else ["paper", f"domainbed-{rule}"]
    figures = published.figures(table_name(dataset))
    return [figure for figure in figures if figure.dataset == dataset and figure.protocol in protocols]


def _protocols(dataset: str, rule: str, swad: bool) -> str:
    """Why published rows cannot be compared, with two figures as an example."""
    figures = [] if swad else _published(dataset, rule, swad)
    average = {(figure.method, figure.protocol): figure.printed for figure in figures if figure.column == AVERAGE}
    erm, cim = average.get(("ERM", f"domainbed-{rule}")), average.get(("CIM", "paper"))
    example = f" (DomainBed's own ERM averages {erm} under this rule, the paper's CIM {cim})" if erm and cim else ""
    return (
        f"† Published, as printed. Protocols differ{example}: rows of different protocols, and published rows and your "
        "own, are not comparable; methods run under one protocol are."
    )
