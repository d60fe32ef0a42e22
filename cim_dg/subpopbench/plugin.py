"""Registers our algorithms in SubpopBench, one hook per module (see `cim_dg.autoload`).

Existing names are kept. `subpopbench.train` accepts only listed algorithms, but a plain `subpopbench.sweep` runs every
listed one. Therefore ours are listed only while `train` is the running program.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from cim_dg.algorithms import methods
from cim_dg.harness.compat import restore_adamw
from cim_dg.harness.endings import end_in_a_sentence
from cim_dg.harness.registration import Asked, add, extend_registry, need, ours_in, refuse_bf16

PROGRAM = "subpopbench.train"


def on_networks(networks: ModuleType) -> None:
    """Refuse bf16 to its algorithms, and restore what `subpopbench.learning.optimizers`, imported next, needs."""
    refuse_bf16(networks)
    restore_adamw()


def on_algorithms(algorithms: ModuleType) -> None:
    """Add every registered method as an algorithm."""
    from cim_dg.subpopbench.adapter import make_adapter

    need(algorithms, "Algorithm", "get_algorithm_class", "ALGORITHMS")
    end_in_a_sentence()
    for name, method in methods().items():
        add(algorithms, name, make_adapter(method, algorithms))
    if getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", None) == PROGRAM:
        algorithms.ALGORITHMS.extend(ours_in(algorithms, methods()))


def on_hparams_registry(registry: Any) -> None:
    """Add our methods' hyper-parameters to the harness' own."""
    extend_registry(registry, _asked)


def _asked(algorithm: str, dataset: str) -> Asked:
    ours = ours_in(import_module("subpopbench.learning.algorithms"), [algorithm])
    return (algorithm, "ERM", dataset) if ours else (None, algorithm, dataset)
