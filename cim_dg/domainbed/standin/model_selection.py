"""Which hyper-parameters and which checkpoint a result is read from: DomainBed's three rules.

Every rule reports the accuracy on the in-split of the test environment, and differs in the validation accuracy that it
maximises. Among runs with the same validation accuracy the one with the largest hparams_seed is taken, among
checkpoints the first. Gulrajani and Lopez-Paz, "In Search of Lost Domain Generalization", 2021, section 3.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypedDict

import numpy as np

from .lib.reporting import Record


class Accuracies(TypedDict):
    """The accuracy that is maximised and the one that is reported, in [0, 1]."""

    val_acc: float
    test_acc: float


class SelectionMethod(ABC):
    """A rule. Records are those of one (trial, dataset, algorithm, test environment)."""

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def run_acc(cls, run_records: list[Record]) -> Accuracies | None:
        """The accuracies of the checkpoint chosen from the records of one hparams_seed; None if they do not suffice."""

    @classmethod
    def hparams_accs(cls, records: list[Record]) -> list[tuple[Accuracies, list[Record]]]:
        """What `run_acc` gives for every hparams_seed, with its records; the best comes first."""
        runs = []
        for run_records in _grouped(records, lambda record: record["args"]["hparams_seed"]):
            accuracies = cls.run_acc(run_records)
            if accuracies is not None:
                runs.append((accuracies, run_records))
        return sorted(runs, key=lambda run: _nan_last(run[0]["val_acc"]))[::-1]

    @classmethod
    def sweep_acc(cls, records: list[Record]) -> float | None:
        """The test accuracy of the best hyper-parameters; None if no run can be judged."""
        runs = cls.hparams_accs(records)
        return runs[0][0]["test_acc"] if runs else None


class IIDAccuracySelectionMethod(SelectionMethod):
    """Maximises the mean accuracy on the out-splits of the training environments, over checkpoints and hparams."""

    name = "training-domain validation set"

    @classmethod
    def run_acc(cls, run_records: list[Record]) -> Accuracies | None:
        return _best([cls._step_acc(record) for record in _with_test_envs(run_records, 1)])

    @staticmethod
    def _step_acc(record: Record) -> Accuracies:
        (test_env,) = record["args"]["test_envs"]
        validation = [record[f"env{env}_out_acc"] for env in range(_num_envs(record)) if env != test_env]
        return {"val_acc": np.mean(validation), "test_acc": record[f"env{test_env}_in_acc"]}


class LeaveOneOutSelectionMethod(SelectionMethod):
    """Maximises the mean accuracy on each training environment of the run that left it, too, out of the training."""

    name = "leave-one-domain-out cross-validation"

    @classmethod
    def run_acc(cls, run_records: list[Record]) -> Accuracies | None:
        steps = [cls._step_acc(records) for records in _grouped(run_records, lambda record: record["step"])]
        return _best([accuracies for accuracies in steps if accuracies is not None])

    @staticmethod
    def _step_acc(records: list[Record]) -> Accuracies | None:
        test_records = _with_test_envs(records, 1)
        if len(test_records) != 1:
            return None
        (test_env,) = test_records[0]["args"]["test_envs"]
        left_out: dict[int, float] = {}
        for record in _with_test_envs(records, 2):
            (env,) = set(record["args"]["test_envs"]) - {test_env}
            left_out[env] = record[f"env{env}_in_acc"]
        others = [env for env in range(_num_envs(records[0])) if env != test_env]
        if any(env not in left_out for env in others):
            return None
        return {
            "val_acc": np.sum([left_out[env] for env in others]) / len(others),
            "test_acc": test_records[0][f"env{test_env}_in_acc"],
        }


class OracleSelectionMethod(SelectionMethod):
    """Maximises the accuracy on the test environment's out-split over hparams, at the last checkpoint."""

    name = "test-domain validation set (oracle)"

    @classmethod
    def run_acc(cls, run_records: list[Record]) -> Accuracies | None:
        test_records = _with_test_envs(run_records, 1)
        if not test_records:
            return None
        (test_env,) = test_records[0]["args"]["test_envs"]
        last = sorted(test_records, key=lambda record: record["step"])[-1]
        return {"val_acc": last[f"env{test_env}_out_acc"], "test_acc": last[f"env{test_env}_in_acc"]}


def _grouped(records: list[Record], key: Any) -> list[list[Record]]:
    """The records with equal keys together, in the order of the keys."""
    return [list(group) for _, group in itertools.groupby(sorted(records, key=key), key)]


def _with_test_envs(records: list[Record], count: int) -> list[Record]:
    return [record for record in records if len(record["args"]["test_envs"]) == count]


def _num_envs(record: Record) -> int:
    return next(env for env in itertools.count() if f"env{env}_out_acc" not in record)


def _best(candidates: list[Accuracies]) -> Accuracies | None:
    return max(candidates, key=lambda accuracies: accuracies["val_acc"], default=None)


def _nan_last(value: float) -> float:
    return -math.inf if math.isnan(value) else value
