"""Defaults and random values, in DomainBed's stream."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cim_dg.hparams.space import HParam


def seed_hash(*args: Any) -> int:
    """DomainBed's seed of `args`: the md5 of their text modulo 2^31."""
    return int(hashlib.md5(str(args).encode()).hexdigest(), 16) % 2**31


def defaults(entries: Mapping[str, HParam]) -> dict[str, Any]:
    """The default of every entry, as plain Python."""
    return {name: entry.default for name, entry in entries.items()}


def sample(entries: Mapping[str, HParam], seed: int) -> dict[str, Any]:
    """A random value of every entry, as plain Python, each drawn from RandomState(seed_hash(seed, name))."""
    return {name: _draw(entry, np.random.RandomState(seed_hash(seed, name))) for name, entry in entries.items()}


def _draw(entry: HParam, random: np.random.RandomState) -> Any:
    if entry.random is None:
        return entry.default
    distribution: str
    values: Any
    ((distribution, values),) = entry.random.items()
    if distribution == "choice":
        return values[int(random.choice(len(values)))]
    value = random.uniform(*values)
    if distribution != "uniform":
        value = (10 if distribution == "log10" else 2) ** value
    return int(value) if entry.type == "int" else float(value)
