"""Restores names that harnesses import and that their libraries have since removed."""

from __future__ import annotations

import functools
import sys


def restore_adamw() -> None:
    """Give transformers 4.50 and later the AdamW that harnesses import: PyTorch's, with the old defaults."""
    # transformers replaces the executed module by a lazily importing one.
    transformers = sys.modules.get("transformers")
    if transformers is not None and not hasattr(transformers, "AdamW"):
        import torch

        transformers.AdamW = functools.partial(torch.optim.AdamW, eps=1e-6, weight_decay=0.0)  # type: ignore[attr-defined]
