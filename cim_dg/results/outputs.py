"""The logits that runs keep for each test image, as compressed float16: written by the runners, read for metrics."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cim_dg.results import group_selection, selection
from cim_dg.results.domains import domain_names
from cim_dg.results.records import Records, Run
from cim_dg.results.tables import Key, Table
from cim_dg.runtime.files import write_atomically

BEST, LAST = "logits_best.npz", "logits_last.npz"
"""Files of a stand-in's job: of the checkpoint that is best on the training domains' validation, and of the last."""
_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Outputs:
    """A model's outputs.

    Attributes:
        logits: (N, K); from a file, of float16's precision and at most 0.
        y: (N,) true classes.
        image: (N,) numbers of the images in the data set (DomainBed: in the environment), the same in every run.
        step: the step or epoch of the model.
        validation: the figure that chose it; NaN if none did.
    """

    logits: np.ndarray
    y: np.ndarray
    image: np.ndarray
    step: int
    validation: float = float("nan")

    @property
    def probabilities(self) -> np.ndarray:
        """(N, K), the softmax of the logits."""
        from scipy.special import softmax

        return softmax(self.logits.astype(np.float64), axis=1)

    def write(self, path: Path) -> None:
        """Write a compressed .npz file, with the logits as float16, clipped to what it can hold.

        Each row is shifted so that its largest logit is 0, which changes no probability: near 0, float16 tells apart
        logits that float32 does, so that the predicted class stays the same.
        """
        data = io.BytesIO()
        logits = np.maximum(self.logits - self.logits.max(axis=1, keepdims=True), -_LARGEST).astype(np.float16)
        number = np.int32 if self.image.max(initial=0) < 2**31 else np.int64
        np.savez_compressed(
            data,
            logits=logits,
            y=self.y.astype(np.int32),
            image=self.image.astype(number),
            step=self.step,
            validation=self.validation,
        )
        write_atomically(path, data.getvalue())


def read(path: Path) -> Outputs | None:
    """The outputs in a file; None if it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as data:
            outputs = Outputs(
                data["logits"].astype(np.float32),
                data["y"].astype(np.int64),
                data["image"].astype(np.int64),
                int(data["step"]),
                float(data["validation"]),
            )
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    n = len(outputs.y) if outputs.y.ndim == 1 else -1
    whole = outputs.logits.ndim == 2 and outputs.logits.shape[0] == n and outputs.image.shape == (n,) and n > 0
    return outputs if whole and 0 <= outputs.y.min() <= outputs.y.max() < outputs.logits.shape[1] else None


def keep(folder: Path, outputs: Outputs) -> None:
    """Write the outputs of a checkpoint as the last, and as the best if none before was as good on validation."""
    outputs.write(folder / LAST)
    best = read(folder / BEST)
    if best is None or best.step >= outputs.step or outputs.validation > best.validation:
        outputs.write(folder / BEST)


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
