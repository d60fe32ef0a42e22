"""The kept logits of the models that a table selected."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cim_dg.results import group_selection, selection
from cim_dg.results.domains import domain_names
from cim_dg.results.outputs import BEST, LAST, Outputs, read
from cim_dg.results.records import Records, Run
from cim_dg.results.tables import Key, Table


def of_run(run: Run, step: int) -> Outputs | None:
    """The outputs on the test images of the model at `step`; None if the run has not kept them."""
    paths = [run.folder / BEST, run.folder / LAST] if run.test_envs else _of_wilds(run.folder)
    found = (read(path) for path in paths)
    return next((outputs for outputs in found if outputs is not None and outputs.step == step), None)


def _of_wilds(folder: Path) -> list[Path]:
    return sorted(folder.glob("*_split:test_*_epoch:best_logits.npz"))


def selected(table: Table, records: Records) -> Iterator[tuple[Key, str, int, dict[str, Outputs | None]]]:
    """Row, data set (empty if the table has one), trial, and the selected models' outputs by test domain."""
    if table.selection in selection.TITLES and not table.runs:
        chosen = selection.select(records, table.selection)
        chosen = chosen[(chosen["dataset"] == table.dataset) & chosen["harness"].isin([key[1] for key in table.trials])]
        for (harness, method, trial), part in chosen.groupby(["harness", "algorithm", "trial"], observed=True):
            models = {}
            for run, env, step, n_envs in zip(part["run"], part["test_env"], part["step"], part["n_envs"], strict=True):
                models[domain_names(table.dataset, n_envs)[env]] = of_run(records.runs[run], step)
            yield (str(method), str(harness)), "", int(trial), models
        return
    runs = {number: records.runs[number] for number in table.selected}
    epochs = group_selection.best_epochs(records, runs, table.selection)
    datasets = {run.dataset for run in runs.values()}
    for number, key in table.selected.items():
        run = runs[number]
        yield key, run.dataset if len(datasets) > 1 else "", run.trial, {"test": of_run(run, epochs[number])}
