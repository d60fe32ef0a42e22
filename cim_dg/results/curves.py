"""Curves and points of a table's runs as data: by step, in-domain against out-of-domain, and by settings tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.special import comb

from cim_dg.results import group_selection, selection
from cim_dg.results.domains import domain_names
from cim_dg.results.records import Records
from cim_dg.results.tables import Table

COLUMNS = ["panel", "method", "source", "run", "step", "value"]
POINTS = ["panel", "method", "source", "inside", "outside"]
_TEST, _VALIDATION = "test domain", "validation (training domains)"


def learning(table: Table, records: Records) -> pd.DataFrame:
    """The learning curves of the runs that the table has selected: a row per run, step and panel, in percent.

    Panels are, for DomainBed, the test domain (the table's figure) and the validation; else the table's columns.
    """
    if table.selection in selection.TITLES and not table.runs:
        chosen = _selected(table, records)[["run", "test_env", "harness", "algorithm"]].drop_duplicates("run")
        return _tidy(_by_domain(records, chosen))
    parts = [_of_column(table, records, column, table.selected) for column in table.keys]
    return _tidy(pd.concat(parts)) if parts else pd.DataFrame(columns=COLUMNS)


def in_and_out(table: Table, records: Records) -> pd.DataFrame:
    """In-domain and out-of-domain accuracy (0 to 1) of every checkpoint of every run and setting, in a panel each.

    For DomainBed: the mean validation accuracy of the training domains, and the accuracy on the test domain. For WILDS:
    the average accuracy on id_val, or on val where there is none, and the test figure that the data set is ranked by.
    """
    if not table.trials:
        return pd.DataFrame(columns=POINTS)
    if table.selection in selection.TITLES and not table.runs:
        runs = [
            (number, run.test_envs[0], run.harness, run.algorithm)
            for number, run in enumerate(records.runs)
            if run.dataset == table.dataset and len(run.test_envs) == 1 and (run.algorithm, run.harness) in table.trials
        ]
        every = pd.DataFrame(runs, columns=["run", "test_env", "harness", "algorithm"])
        frame = _tidy(_by_domain(records, every)).merge(every[["run", "test_env"]], on="run")
        wide = frame.pivot_table(index=["test_env", "method", "source", "run", "step"], columns="panel", values="value")
        if not {_TEST, _VALIDATION} <= set(wide.columns):
            return pd.DataFrame(columns=POINTS)
        wide = wide.dropna().reset_index()
        names = dict(enumerate(domain_names(table.dataset)))
        return pd.DataFrame(
            {
                "panel": [names.get(env, f"env{env}") for env in wide["test_env"]],
                "method": wide["method"],
                "source": wide["source"],
                "inside": wide[_VALIDATION] / 100,
                "outside": wide[_TEST] / 100,
            }
        )
    parts = []
    for column, _ in table.headlines.values():
        outside = _tidy(_of_column(table, records, column, table.runs))
        for split in ("id_val", "val"):
            inside = _tidy(_of_keys(table, records, [(split, "average")], column, table.runs))
            both = outside.merge(inside, on=COLUMNS[:-1], suffixes=("_out", "_in"))
            if len(both):
                both = both.assign(inside=both["value_in"] / 100, outside=both["value_out"] / 100)
                parts.append(both.assign(panel=f"{column} against {split} average")[POINTS])
                break
    return pd.concat(parts) if parts else pd.DataFrame(columns=POINTS)


def best_found(table: Table, records: Records) -> pd.DataFrame:
    """The expected test figure, in percent, of the best on validation of 1, 2, ... settings drawn from those tried.

    A row per method, cell (test domain, trial; `run`) and number of settings (`step`); only where there are several,
    and all have been trained to the same length.
    """
    if any(run.stopped for run in records.runs):
        return pd.DataFrame(columns=COLUMNS)
    rows: list[tuple[object, ...]] = []
    for number, (panel, key, ranked) in enumerate(_cells(table, records)):
        for tried, value in enumerate(expected_best(ranked), start=1):
            rows.append((panel, *key, number, tried, 100 * value))
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return frame if len(frame) and frame["step"].max() > 1 else frame.head(0)


def expected_best(values: Sequence[float]) -> np.ndarray:
    """The expected test figure of the best on validation of k settings drawn without replacement, k = 1 to n -> (n,).

    Args:
        values: the test figures (n,) of the settings, the best on validation first.

    The i-th is the best of k if it is drawn and none before it is: with probability C(n - i, k - 1) / C(n, k) (as Dodge
    et al. 2019, "Show Your Work", for draws with replacement).
    """
    n = len(values)
    drawn, place = np.arange(1, n + 1)[:, None], np.arange(1, n + 1)[None, :]
    return (comb(n - place, drawn - 1) / comb(n, drawn)) @ np.asarray(values, dtype=np.float64)


def _cells(table: Table, records: Records) -> Iterator[tuple[str, tuple[str, str], list[float]]]:
    """The panel, the row, and the test figures of the settings of each cell, the best on validation first."""
    if table.selection in selection.TITLES and not table.runs:
        ranked = selection.ranking(records, table.selection)
        ranked = ranked[(ranked["dataset"] == table.dataset) & ranked["harness"].isin([key[1] for key in table.trials])]
        for (harness, algorithm, _, _), cell in ranked.groupby(
            ["harness", "algorithm", "test_env", "trial"], observed=True, sort=False
        ):
            yield "mean over test domains", (str(algorithm), str(harness)), cell["value"].tolist()
        return
    runs = {number: records.runs[number] for number in table.runs}
    best = group_selection.figures_at(records, group_selection.best_epochs(records, runs, table.selection))
    chosen_by = group_selection.chosen_by(table.selection)
    for dataset, (column, _) in table.headlines.items():
        cells: dict[tuple[tuple[str, str], int], list[tuple[float, float]]] = {}
        for number, key in table.runs.items():
            figures = best.get(number, {})
            value = next((figures[pair] for pair in table.keys[column][1] if pair in figures), None)
            if records.runs[number].dataset == dataset and value is not None:
                pair = figures.get(chosen_by, -1.0), value
                cells.setdefault((key, records.runs[number].trial), []).append(pair)
        for (key, _), pairs in cells.items():
            yield column, key, [value for _, value in sorted(pairs, key=lambda pair: -pair[0])]


def _selected(table: Table, records: Records) -> pd.DataFrame:
    selected = selection.select(records, table.selection)
    return selected[(selected["dataset"] == table.dataset) & selected["harness"].isin([key[1] for key in table.trials])]


def _by_domain(records: Records, runs: pd.DataFrame) -> pd.DataFrame:
    """The accuracies of DomainBed's runs on the test domain's images and on the training domains' validation."""
    frame = records.frame[(records.frame["metric"] == "acc") & records.frame["run"].isin(runs["run"])]
    frame = frame[["run", "step", "split", "value"]].merge(runs, on="run")
    split_parts = frame["split"].astype(str).str.extract(r"^env(\d+)_(in|out)$")
    is_test_env = split_parts[0].astype(float) == frame["test_env"].astype(float)
    frame["panel"] = np.select(
        [is_test_env & (split_parts[1] == "in"), ~is_test_env & (split_parts[1] == "out")], [_TEST, _VALIDATION], ""
    )
    return frame[frame["panel"] != ""]


def _of_column(table: Table, records: Records, column: str, runs: Mapping[int, tuple[str, str]]) -> pd.DataFrame:
    return _of_keys(table, records, table.keys[column][1], column, runs)


def _of_keys(
    table: Table,
    records: Records,
    pairs: Sequence[tuple[str, str]],
    column: str,
    runs: Mapping[int, tuple[str, str]],
) -> pd.DataFrame:
    """Of each run on the column's data set, the first of the (split, metric) pairs that it has, as the table shows."""
    dataset = table.keys[column][0]
    numbers = [number for number in runs if records.runs[number].dataset == dataset]
    frame = records.frame[records.frame["run"].isin(numbers)]
    order = {pair: place for place, pair in enumerate(pairs)}
    place = pd.Series(
        [order.get(pair, -1) for pair in zip(frame["split"], frame["metric"], strict=True)], index=frame.index
    )
    frame = frame[place >= 0].assign(place=place[place >= 0])
    frame = frame[frame["place"] == frame.groupby("run")["place"].transform("min")]
    return frame.assign(
        panel=column,
        algorithm=[runs[number][0] for number in frame["run"]],
        harness=[runs[number][1] for number in frame["run"]],
    )


def _tidy(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.rename(columns={"algorithm": "method", "harness": "source"}).assign(value=100 * frame["value"])
    return frame.groupby(COLUMNS[:-1], observed=True, as_index=False, sort=False)["value"].mean()
