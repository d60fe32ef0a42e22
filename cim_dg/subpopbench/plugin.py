"""What is registered in SubpopBench, module by module, as `cim_dg.autoload` sees them imported.

Names that are there already are kept as they are. `subpopbench.train` accepts only listed algorithms, while a plain
`subpopbench.sweep` runs every listed one: ours are listed where it is `train` that runs.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from cim_dg import hparams as spaces
from cim_dg.algorithms import methods
from cim_dg.harness.compat import restore_adamw
from cim_dg.harness.registration import add, extended_hparams, need, ours_in

PROGRAM = "subpopbench.train"


def on_networks(networks: ModuleType) -> None:
    """Nothing of the networks: a sign that `subpopbench.learning.optimizers`, which needs it, is imported next."""
    restore_adamw()


def on_algorithms(algorithms: ModuleType) -> None:
    """Add every registered method as an algorithm."""
    from cim_dg.subpopbench.adapter import make_adapter

    need(algorithms, "Algorithm", "get_algorithm_class", "ALGORITHMS")
    for name, method in methods().items():
        add(algorithms, name, make_adapter(method, algorithms))
    if getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", None) == PROGRAM:
        algorithms.ALGORITHMS.extend(ours_in(algorithms, methods()))


def on_hparams_registry(registry: Any) -> None:
    """Give our methods their hyper-parameters, on top of the harness' own."""
    need(registry, "default_hparams", "random_hparams")
    default, random = registry.default_hparams, registry.random_hparams

    @functools.wraps(default)
    def default_hparams(algorithm: str, dataset: str) -> dict[str, Any]:
        return _extended(algorithm, dataset, default, spaces.defaults)

    @functools.wraps(random)
    def random_hparams(algorithm: str, dataset: str, seed: int) -> dict[str, Any]:
        return _extended(
            algorithm, dataset, lambda *names: random(*names, seed), lambda entries: spaces.sample(entries, seed)
        )

    registry.default_hparams, registry.random_hparams = default_hparams, random_hparams


def _extended(
    algorithm: str,
    dataset: str,
    upstream: Callable[[str, str], Mapping[str, Any]],
    draw: Callable[[Mapping[str, spaces.HParam]], dict[str, Any]],
) -> dict[str, Any]:
    if not ours_in(import_module("subpopbench.learning.algorithms"), [algorithm]):
        return dict(upstream(algorithm, dataset))
    return extended_hparams(algorithm, dataset, lambda: upstream("ERM", dataset), draw)
