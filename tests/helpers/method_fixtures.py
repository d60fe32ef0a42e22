"""Building methods on a tiny featurizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cim_dg.algorithms import REGISTRY, Algorithm, Batch
from cim_dg.nn.networks import SmallCNN
from cim_dg.nn.pixels import PixelSpace

CLASSES, DOMAINS = 4, 3


@pytest.fixture
def make() -> Callable[..., Algorithm]:
    def build(name: str, channels: int = 3, classes: int = CLASSES, **hparams: Any) -> Algorithm:
        torch.manual_seed(0)
        return REGISTRY[name](
            SmallCNN(channels, width=8),
            lambda n: nn.Linear(n, classes),
            PixelSpace.of("unit", channels),
            classes,
            DOMAINS,
            hparams,
        )

    return build


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(
        torch.rand(12, 3, 20, 24, generator=generator),
        torch.arange(12) % CLASSES,
        torch.arange(12) // 4,
    )
