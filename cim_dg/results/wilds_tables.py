"""The tables of WILDS' and SubpopBench's data sets: the paper's two (subgroups, backgrounds), and accuracy per split or
group for the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cim_dg.results import published, settings
from cim_dg.results.group_selection import Figures, best_epochs, by_rule, chosen_by, figures_at, is_subpopbench
from cim_dg.results.primary import find
from cim_dg.results.read_wilds import EXAMPLES, GAP, MACRO_F1, group_labels, has_balanced_validation
from cim_dg.results.records import Records, Run
from cim_dg.results.tables import (
    Comparison,
    Keys,
    Row,
    Table,
    cell,
    compare,
    flag_notes,
    method_order,
    primary_note,
    published_rows,
)

SUBGROUPS = "subgroups"
_PAPER = ("CelebA", "Waterbirds")
_GROUP_COLUMNS = ("worst group", "average")
BACKGROUNDS = "backgrounds"
_CHALLENGE = "BackgroundChallenge"
# The paper's four columns, and further figures of the runner.
_BACKGROUND_COLUMNS = {
    "OR": ("original", "average"),
    "MS": ("mixed_same", "average"),
    "MR": ("mixed_rand", "average"),
    "BGp": GAP,
    "Only-BG-T": ("only_bg_t", "average"),
    "Adversarial": ("adversarial", "vulnerable"),
}
_BACKGROUND_NOTE = (
    "OR original images, MS mixed backgrounds of the same class, MR random ones, BGp the gap MS - MR in points: lower "
    "leans less on the background."
)
_MORE_COLUMNS_NOTE = (
    "Only-BG-T: accuracy where only the background is left. Adversarial: foregrounds that at least one of the "
    "backgrounds spoils; lower is better."
)
_SPLITS = ("id_val", "val", "id_test", "test")
# The metric of WILDS' leaderboard, if it is not the average accuracy.
_HEADLINES = {"fmow": ("worst_group", "average"), "iwildcam": (MACRO_F1, "average")}
_TITLES = {
    "oracle": "the epoch with the best test accuracy of the worst group (oracle), which uses the test set",
    "average": "the epoch with the best average validation accuracy, which uses no group labels",
    "worst-class": "the epoch with the best validation accuracy of the worst class, which uses no group labels",
    "macro-f1": "the epoch with the best macro F1 of validation, which uses no group labels",
    "worst-group": "the epoch with the best validation accuracy of the worst group, which uses group labels",
}


def wilds_tables(records: Records, rules: Sequence[str], baseline: str, with_published: bool) -> list[Table]:
    """The tables of all runs of WILDS and SubpopBench under each of `rules`; if there are none, under default rules."""
    tables = []
    for rule, runs in by_rule(records, rules).items():
        best = figures_at(records, best_epochs(records, runs, rule))
        by_table: dict[tuple[str, str], dict[int, Run]] = {}
        for number, run in runs.items():
            name = table_name(run.dataset)
            # Runs on other numbers of images (--frac, say) have a table each.
            by_table.setdefault((name, "" if name == SUBGROUPS else run.dataset), {})[number] = run
        tables += [
            _table(key[0], by_table[key], rule, best, baseline, with_published, records)
            for key in sorted(by_table, key=lambda key: (key[0] != SUBGROUPS, key))
        ]
    return tables


def published_subgroups() -> Table:
    """The table of subgroups with published figures only."""
    return _finish(SUBGROUPS, "published", _group_columns(_PAPER), [], [], [], "", True)


def published_backgrounds() -> Table:
    """The table of the Backgrounds Challenge with published figures only."""
    return _finish(BACKGROUNDS, "published", list(_BACKGROUND_COLUMNS)[:4], [], [], [_BACKGROUND_NOTE], "", True)


def table_name(dataset: str) -> str:
    """The name of a data set's table on the command line."""
    if dataset == _CHALLENGE:
        return BACKGROUNDS
    return SUBGROUPS if dataset in _PAPER else dataset.lower().replace(" ", "-").split("-(")[0]


def _table(
    name: str,
    runs: Mapping[int, Run],
    rule: str,
    best: Mapping[int, Figures],
    baseline: str,
    with_published: bool,
    records: Records,
) -> Table:
    datasets = sorted({run.dataset for run in runs.values()})
    subpopbench = any(map(is_subpopbench, runs.values()))
    # The published figures are of the protocols of WILDS and of the paper.
    with_published = with_published and not all(map(is_subpopbench, runs.values()))
    columns = _columns(name, datasets, [best[number] for number in runs if number in best], with_published, subpopbench)
    trials: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    labels: dict[tuple[str, str], dict[str, str]] = {}
    chosen: dict[tuple[tuple[str, str], str, int], int] = {}
    names = settings.row_names(runs, rule)
    # Of two runs with the same seed, the better one on validation comes last and replaces the other. Of equals, the
    # highest hparams seed does, as in SubpopBench.
    for number in sorted(runs, key=lambda run: (best.get(run, {}).get(chosen_by(rule), -1.0), runs[run].hparams_seed)):
        run, key = runs[number], (names[number], runs[number].harness)
        balanced = ", but validation is balanced over backgrounds" if has_balanced_validation(run) else ""
        used = group_labels(run, rule)
        labels.setdefault(key, {})[run.dataset] = used + (balanced if used == "no" else "")
        row = trials.setdefault(key, {})
        for column, (dataset, keys) in columns.items():
            value = next((best[number][key] for key in keys if key in best.get(number, {})), None)
            if run.dataset == dataset and value is not None:
                row.setdefault(column, {})[run.trial] = value
                chosen[key, column, run.trial] = number
    rows = [
        Row(
            *key,
            rule,
            {column: cell(values, share=GAP not in columns[column][1]) for column, values in trials[key].items()},
            group_labels=_shorter("; ".join(f"{dataset}: {text}" for dataset, text in sorted(labels[key].items()))),
        )
        for key in _row_order({(names[number], run.harness): run.algorithm for number, run in runs.items()}, baseline)
    ]
    primary = find(records.primaries, [name, *datasets], rule, baseline)
    pairs = settings.baselines(names, runs, baseline)
    comparisons = compare(trials, pairs, list(columns), settings.share_data(runs.values()), primary)
    shown = {key for _, keys in columns.values() for key in keys}
    untested = [runs[number] for number in runs if number in best and not shown & best[number].keys()]
    notes = [*_notes(runs, best, rule), *settings.notes(names, runs), *_untested(untested)]
    notes += primary_note(primary, comparisons)
    table = _finish(name, rule, list(columns), rows, comparisons, notes, baseline, with_published)
    row_of = {number: (names[number], run.harness) for number, run in runs.items()}
    return replace(
        table,
        trials=trials,
        headlines=_headlines(columns),
        runs=row_of,
        selected={number: row_of[number] for number in sorted(set(chosen.values()))},
        keys=columns,
    )


def _columns(
    name: str, datasets: Sequence[str], figures: Sequence[Figures], with_published: bool, subpopbench: bool
) -> dict[str, Keys]:
    """Column -> its data set and its (split, metric) pairs, of which the first that a run has is shown."""
    worst, average = [("test", "worst_group")], [("test", "adjusted_average"), ("test", "average")]
    if subpopbench:  # which has no adjusted average
        average = average[1:]
    if name == SUBGROUPS:
        column_datasets = _PAPER if with_published else datasets
        return {
            f"{dataset} {kind}": (dataset, keys)
            for dataset in column_datasets
            for kind, keys in zip(_GROUP_COLUMNS, (worst, average), strict=True)
        }
    if name.startswith(BACKGROUNDS):
        available = {key for figure in figures for key in figure}
        return {title: (datasets[0], [key]) for title, key in _BACKGROUND_COLUMNS.items() if key in available}
    (dataset,) = datasets
    if "format" in dataset or subpopbench:
        return {kind: (dataset, keys) for kind, keys in zip(_GROUP_COLUMNS, (worst, average), strict=True)}
    available = {key for figure in figures for key in figure}
    metrics = _HEADLINES.get(dataset, ("average",))
    return {
        f"{split} {metric.replace('_', ' ')}": (dataset, [(split, metric)])
        for metric in metrics
        for split in _SPLITS
        if (split, metric) in available
    }


def _headlines(columns: Mapping[str, Keys]) -> dict[str, tuple[str, str]]:
    """Each data set's test figure that its leaderboard or paper ranks by: its column, and its name."""
    if "MR" in columns:  # of the Backgrounds Challenge
        return {columns["MR"][0]: ("MR", "mixed random")}
    ranked = {}
    for column, (dataset, keys) in columns.items():
        group_column = column.endswith(_GROUP_COLUMNS[0]) and not column.endswith(f"val {_GROUP_COLUMNS[0]}")
        metric = "worst_group" if group_column else _HEADLINES.get(dataset, ("average",))[0]
        if keys[0] == ("test", metric) and dataset not in ranked:
            ranked[dataset] = column, f"test {metric.replace('_', ' ')}"
    return ranked


def _finish(
    name: str,
    rule: str,
    columns: Sequence[str],
    rows: Sequence[Row],
    comparisons: Sequence[Comparison],
    notes: Sequence[str],
    baseline: str,
    with_published: bool,
) -> Table:
    printed_rows = _published(name) if with_published else []
    first = [f"Model selection: {_TITLES.get(rule, f'the best validation {rule}')}."] if rows else []
    if printed_rows:
        notes = [
            *notes,
            *flag_notes(printed_rows),
            *([note] if name == SUBGROUPS and (note := published.celeba_note()) else []),
            "† Published, as printed. Settings and selection differ between sources, and most do not state whether "
            "group labels were used in selection: published rows and your own are not comparable."
            if name == SUBGROUPS
            else "† Published, as printed. The paper states neither its training nor its training images: published "
            "rows and your own are not comparable.",
        ]
    titles = {SUBGROUPS: "Subgroups: test accuracy (%)", BACKGROUNDS: "Backgrounds Challenge: accuracy (%)"}
    return Table(
        name=name,
        title=titles.get(name, f"{name}: test accuracy (%)"),
        selection=rule,
        columns=columns,
        rows=[*rows, *printed_rows],
        baseline=baseline,
        comparisons=comparisons,
        notes=[*first, *notes],
        group_labels=not name.startswith(BACKGROUNDS),
        dataset="" if name == SUBGROUPS else name,
    )


def _published(name: str) -> list[Row]:
    """The published rows of a table, if any. The rows of subgroups have both data sets side by side."""
    if name != SUBGROUPS:
        return published_rows(published.figures(name)) if name == BACKGROUNDS else []
    merged: dict[tuple[str, str], Row] = {}
    for dataset in _PAPER:
        figures = [figure for figure in published.figures(SUBGROUPS) if figure.dataset == dataset]
        for row in published_rows(figures):
            cells = {f"{dataset} {column.replace('_', ' ')}": cell for column, cell in row.cells.items()}
            labels = f"{dataset}: {row.group_labels or 'not stated'}"
            known = merged.get((row.method, row.source))
            if known is not None:
                cells, labels = {**known.cells, **cells}, f"{known.group_labels}; {labels}"
            merged[row.method, row.source] = replace(row, cells=cells, group_labels=labels)
    return [replace(row, group_labels=_shorter(row.group_labels)) for row in merged.values()]


def _shorter(labels: str) -> str:
    """'no' instead of 'CelebA: no; Waterbirds: no'."""
    uses = {part.split(": ")[1] for part in labels.split("; ")}
    return uses.pop() if len(uses) == 1 else labels


def _group_columns(datasets: Sequence[str]) -> list[str]:
    return [f"{dataset} {kind}" for dataset in datasets for kind in _GROUP_COLUMNS]


def _row_order(methods: Mapping[tuple[str, str], str], baseline: str) -> list[tuple[str, str]]:
    """The rows, given with their methods, by harness, and within a harness in the order of methods."""
    order = method_order(list(methods.values()), baseline)
    return sorted(methods, key=lambda key: (key[1], order.index(methods[key])))


def _untested(runs: Sequence[Run]) -> list[str]:
    """Which trials have no figure, because the epoch that was selected is not evaluated on these splits yet."""
    names = ", ".join(f"{run.algorithm} seed {run.trial} ({run.folder})" for run in runs)
    return [f"Left out, since the selected epoch has no test figures yet: {names}."] if runs else []


def _notes(runs: Mapping[int, Run], best: Mapping[int, Figures], rule: str) -> list[str]:
    notes = []
    adjusted = any("adjusted_average" in metric for figures in best.values() for _, metric in figures)
    if any(map(is_subpopbench, runs.values())):
        notes.append("average: over the test images; SubpopBench has no average that weighs the groups.")
    elif adjusted:
        notes.append(
            "Waterbirds' average weighs the groups by their shares of the training split, as its authors report it."
        )
    if any(GAP in figures for figures in best.values()):
        notes += [_BACKGROUND_NOTE, _MORE_COLUMNS_NOTE]
    else:
        notes.append("Group labels: derived from what each run used in training, and from the selection rule.")
    if any(run.harness == EXAMPLES for run in runs.values()):
        notes.append(f"{EXAMPLES}: runs of WILDS' own run_expt.py.")
    if unselected := [run for number, run in runs.items() if number not in best]:
        notes.append(
            f"Left out: {len(unselected)} runs without the validation figure that {rule} needs "
            f"(first: {unselected[0].folder})."
        )
    if unofficial := sorted({run.dataset for run in runs.values() if "format" in run.dataset}):
        notes.append(f"{', '.join(unofficial)}: not the official data, so no published figure stands beside it.")
    return notes
