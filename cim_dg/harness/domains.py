"""Which methods use domains. In WILDS and SubpopBench these may be the groups that accuracy is reported for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cim_dg.algorithms import Algorithm

USES_DOMAINS = {"cim_positives": "other_domain", "cim_negatives": "same_domain"}
"""Hyper-parameters with a value that makes a method use domains."""


def asks_for_domains(hparams: Mapping[str, Any]) -> str | None:
    """The first hyper-parameter with a value that uses domains, as "name value"; None if there is none."""
    return next((f"{name} {value}" for name, value in USES_DOMAINS.items() if hparams.get(name) == value), None)


def claims_domains(method: Algorithm) -> bool:
    """Whether the method needs domains, by itself or because of its hyper-parameters."""
    return method.needs_domains or asks_for_domains(method.hparams) is not None
