"""Metrics of kept logits, without training again: calibration, likelihood, ranking, F1 and accuracy by class.

All but the calibration error are scikit-learn's; that is put together from its calibration curve.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from cim_dg.results import protocols
from cim_dg.results.outputs import Outputs
from cim_dg.results.records import Records
from cim_dg.results.selected_outputs import selected
from cim_dg.results.tables import Cell, Key, Row, Table, Trials, cell, compare, same_baseline

_BINS = 15  # as Guo et al. 2017


def calibration_error(found: Outputs) -> float:
    """The expected calibration error with 15 bins of equal width (Guo et al. 2017): 0 is perfect."""
    from sklearn.calibration import calibration_curve

    probabilities = found.probabilities
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == found.y
    accuracy, mean_confidence = calibration_curve(right, confidence, n_bins=_BINS)
    edges = np.linspace(0, 1, _BINS + 1)
    # Its bins are open at the left, and those without an image are left out.
    counts = np.bincount(np.searchsorted(edges[1:-1], confidence), minlength=_BINS)
    return float(np.average(np.abs(accuracy - mean_confidence), weights=counts[counts > 0]))


def negative_log_likelihood(found: Outputs) -> float:
    """The mean cross entropy, in nats."""
    from sklearn.metrics import log_loss

    return float(log_loss(found.y, found.probabilities, labels=np.arange(found.logits.shape[1])))


def area_under_roc(found: Outputs) -> float:
    """The area under the ROC curve; with more than two classes the mean over classes against the rest (present ones).

    NaN if the images are of one class.
    """
    from sklearn.metrics import roc_auc_score

    present = np.unique(found.y)
    if len(present) < 2:
        return float("nan")
    if found.logits.shape[1] == 2:
        return float(roc_auc_score(found.y, found.probabilities[:, 1]))
    return float(np.mean([roc_auc_score(found.y == label, found.probabilities[:, label]) for label in present]))


def macro_f1(found: Outputs) -> float:
    """The mean F1 score of the classes that are present, as iWildCam's own."""
    from sklearn.metrics import f1_score

    predicted = found.logits.argmax(axis=1)
    return float(f1_score(found.y, predicted, labels=np.unique(found.y), average="macro", zero_division=0))


def balanced_accuracy(found: Outputs) -> float:
    """The mean accuracy of the classes that are present."""
    return float(np.mean(_class_accuracies(found)))


def worst_class_accuracy(found: Outputs) -> float:
    """The lowest accuracy of a class that is present."""
    return float(np.min(_class_accuracies(found)))


def _class_accuracies(found: Outputs) -> np.ndarray:
    from sklearn.metrics import recall_score

    predicted = found.logits.argmax(axis=1)
    return np.asarray(recall_score(found.y, predicted, labels=np.unique(found.y), average=None, zero_division=0))


METRICS: dict[str, tuple[str, Callable[[Outputs], float]]] = {
    "ece": ("ECE", calibration_error),
    "nll": ("100 NLL", negative_log_likelihood),
    "auroc": ("AUROC", area_under_roc),
    "macro-f1": ("macro F1", macro_f1),
    "balanced": ("balanced accuracy", balanced_accuracy),
    "worst-class": ("worst class", worst_class_accuracy),
}
"""The values of --metrics: the column, and the function."""


def metric_tables(tables: Sequence[Table], records: Records, names: Sequence[str]) -> list[Table]:
    """A table of metrics of the selected models for each table whose runs have kept their logits."""
    made = [_table(table, protocols.of(records, table.protocol), names) for table in tables]
    return [table for table in made if table is not None]


def _table(table: Table, records: Records, names: Sequence[str]) -> Table | None:
    trials: dict[Key, dict[str, dict[int, float]]] = {}
    lacking = 0
    for key, dataset, trial, by_domain in selected(table, records):
        models = list(by_domain.values())
        if any(found is None for found in models):
            lacking += 1
            continue
        for name in names:
            title, metric = METRICS[name]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # scikit-learn's on classes without images, which are left out
                value = float(np.mean([metric(found) for found in models if found is not None]))
            if np.isfinite(value):
                column = f"{dataset} {title}" if dataset else title
                trials.setdefault(key, {}).setdefault(column, {})[trial] = value
    if not trials:
        return None
    columns = list(dict.fromkeys(column for row in trials.values() for column in row))
    paired = all(comparison.difference.paired for comparison in table.comparisons)
    rows = [
        Row(row.method, row.source, row.protocol, _cells(trials[row.method, row.source]), group_labels=row.group_labels)
        for row in table.rows
        if not row.published and (row.method, row.source) in trials
    ]
    notes = [
        "From the kept logits of the selected models on the test images; of several test domains, the mean. ECE: "
        "expected calibration error, 15 bins; NLL: in nats. Lower is better for these two."
    ]
    if lacking:
        notes.append(f"Left out: {lacking} trials whose selected models have kept no logits.")
    return Table(
        name=table.name,
        title=f"{table.dataset or table.name}: metrics of the test images (%)",
        selection=table.selection,
        columns=columns,
        rows=rows,
        baseline=table.baseline,
        comparisons=compare(trials, same_baseline(trials, table.baseline), columns, paired),
        notes=[*table.notes[:1], *notes],
        group_labels=table.group_labels,
        dataset=table.dataset,
        protocol=table.protocol,
    )


def _cells(row: Mapping[str, Trials]) -> dict[str, Cell]:
    return {column: cell(values, share="NLL" not in column) for column, values in row.items()}
