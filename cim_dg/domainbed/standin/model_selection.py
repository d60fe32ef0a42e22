"""DomainBed's three rules for selecting hyper-parameters and a checkpoint, under its names.

`cim_dg.results.selection` implements them. All report the accuracy on the in-split of the test environment; they
differ in the validation accuracy that they maximise.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from cim_dg.results import read_domainbed, selection

Record = dict[str, Any]


class SelectionMethod:
    """A rule, applied to the records of one (trial, dataset, algorithm, test environment)."""

    rule: ClassVar[str]
    name: ClassVar[str]

    @classmethod
    def run_acc(cls, run_records: list[Record]) -> dict[str, float] | None:
        """`val_acc` and `test_acc` (0 to 1) of the checkpoint selected for one hparams_seed; None if there is none."""
        runs = cls.hparams_accs(run_records)
        return runs[0][0] if runs else None

    @classmethod
    def hparams_accs(cls, records: list[Record]) -> list[tuple[dict[str, float], list[Record]]]:
        """`run_acc` and records of every hparams_seed that has a result, the best first."""
        ranking = selection.ranking(read_domainbed.from_lines(records), cls.rule)
        return [
            (
                {"val_acc": cls._validation(run.validation), "test_acc": float(run.value)},
                [record for record in records if record["args"]["hparams_seed"] == run.hparams_seed],
            )
            for run in ranking.itertuples()
        ]

    @classmethod
    def sweep_acc(cls, records: list[Record]) -> float | None:
        """The test accuracy (0 to 1) of the best hyper-parameters; None if no run has a result."""
        accuracies = cls.run_acc(records)
        return None if accuracies is None else accuracies["test_acc"]

    @staticmethod
    def _validation(accuracy: float) -> float:
        """The validation accuracy as DomainBed prints it: a mean of several is a NumPy float."""
        return np.float64(accuracy)


class IIDAccuracySelectionMethod(SelectionMethod):
    """Maximises the mean accuracy on the out-splits of the training environments, over checkpoints and hparams."""

    rule, name = "iid", selection.TITLES["iid"]


class LeaveOneOutSelectionMethod(SelectionMethod):
    """Maximises the mean accuracy on the training environments, each in the run that also leaves it out of training."""

    rule, name = "leave-one-out", selection.TITLES["leave-one-out"]


class OracleSelectionMethod(SelectionMethod):
    """Maximises the accuracy on the test environment's out-split over hparams, at the last checkpoint."""

    rule, name = "oracle", selection.TITLES["oracle"]

    @staticmethod
    def _validation(accuracy: float) -> float:
        return float(accuracy)


SELECTION_METHODS: list[type[SelectionMethod]] = [
    IIDAccuracySelectionMethod,
    LeaveOneOutSelectionMethod,
    OracleSelectionMethod,
]
