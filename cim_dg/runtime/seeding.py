"""Seeding as in DomainBed and WILDS."""

from __future__ import annotations

import random

import numpy as np
import torch

from cim_dg.errors import UserError


def check_seed(name: str, seed: object) -> None:
    """Refuse a seed, the value of `name`, that NumPy's generators do not accept.

    Raises:
        UserError: it is not a whole number from 0 to 2^32 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise UserError(f"{name} is {seed!r}; it must be a whole number from 0 to {2**32 - 1}")


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch, and make cuDNN deterministic."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
