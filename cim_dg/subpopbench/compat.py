"""SubpopBench on today's scikit-learn: its evaluation, for every algorithm of it, fails otherwise."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import numpy as np

from cim_dg.harness.registration import need


def on_eval_helper(helper: Any) -> None:
    """Have `log_loss` take `eps`, which scikit-learn 1.5 dropped: probabilities are clipped to [eps, 1 - eps]."""
    need(helper, "log_loss")
    original = helper.log_loss
    if "eps" in inspect.signature(original).parameters:
        return

    @functools.wraps(original)
    def log_loss(y_true: Any, y_pred: Any, *, eps: float = 0.0, **options: Any) -> float:
        clipped = np.clip(y_pred, eps, 1 - eps)
        if clipped.ndim == 2:  # a column per class
            clipped = clipped / clipped.sum(axis=1, keepdims=True)
        return original(y_true, clipped, **options)

    helper.log_loss = log_loss
