"""The logits that runs keep for each test image, as compressed float16: written by the runners, read for metrics.

Every training imports this file: what finds the outputs of a table is in `selected_outputs`.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
