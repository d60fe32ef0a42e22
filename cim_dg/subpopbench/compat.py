"""Repairs SubpopBench's evaluation, which fails for every algorithm with current scikit-learn."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import numpy as np

from cim_dg.harness.registration import need


def on_eval_helper(helper: Any) -> None:
    """Make `log_loss` accept `eps`, which scikit-learn 1.5 removed: probabilities are clipped to [eps, 1 - eps]."""
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
