"""Repairs of the PyPI package `wilds` 2.0.0 for today's pandas, and for environments without torch_scatter.

`cim_dg.autoload` calls a function here right after the module that it repairs was imported, so that a plain
`import wilds` works. `repair` does the same without autoload. The package's files are not changed.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from types import ModuleType, SimpleNamespace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

# celebA and rxrx1 assign to `values`, which pandas 3 forbids. The others convert `values` to tensors; PyTorch then
# warns.
DATASETS_ON_PANDAS = ("camelyon17", "celebA", "rxrx1", "waterbirds")


def avg_over_groups(v: Tensor, g: Tensor, n_groups: int) -> tuple[Tensor, Tensor]:
    """The mean of `v` in each group, and the groups' sizes. Unlike wilds' own, it does not need torch_scatter.

    Args:
        v: (N,) values.
        g: (N,) group indices in [0, n_groups).
        n_groups: the number of groups.

    Returns:
        (n_groups,) means, 0 for an empty group, differentiable in `v`; (n_groups,) counts, float32.
    """
    means = v.new_zeros(n_groups).scatter_reduce(0, g, v, reduce="mean", include_self=False)
    return means, torch.bincount(g, minlength=n_groups).to(torch.float32)


class _WritableSeries(pd.Series):
    """A column with writable `values`, as before pandas 3."""

    @property
    def _constructor(self) -> type[_WritableSeries]:
        return _WritableSeries

    @property
    def values(self) -> Any:
        return self.to_numpy(copy=True)


class _WritableFrame(pd.DataFrame):
    """A table with writable `values`, also in its columns."""

    @property
    def _constructor(self) -> type[_WritableFrame]:
        return _WritableFrame

    _constructor_sliced = _WritableSeries

    @property
    def values(self) -> Any:
        return self.to_numpy(copy=True)


def _read_csv(*args: Any, **kwargs: Any) -> _WritableFrame:
    return _WritableFrame(pd.read_csv(*args, **kwargs))


def on_common_utils(module: ModuleType) -> None:
    """Replace the group averages of `wilds.common.utils`, unless torch_scatter is installed."""
    if importlib.util.find_spec("torch_scatter") is None:
        module.avg_over_groups = avg_over_groups  # type: ignore[attr-defined]


def on_dataset(module: ModuleType) -> None:
    """Make a module `wilds.datasets.*_dataset` read tables with writable arrays."""
    module.pd = SimpleNamespace(**{**vars(pd), "read_csv": _read_csv})  # type: ignore[attr-defined]


def on_wilds_dataset(module: ModuleType) -> None:
    """Add the command that gets a missing dataset to wilds' error: the package's own host is down."""
    base: Any = vars(module)["WILDSDataset"]
    initialize = base.initialize_data_dir
    if hasattr(initialize, "__wrapped__"):
        return

    @functools.wraps(initialize)
    def initialize_data_dir(self: Any, root_dir: Any, download: Any) -> Any:
        try:
            return initialize(self, root_dir, download)
        except FileNotFoundError as error:
            from cim_dg.data.present import sentence

            advice = sentence("wilds", str(self.dataset_name), root_dir)
            raise FileNotFoundError(f"{error} {advice}." if advice else str(error)) from None

    base.initialize_data_dir = initialize_data_dir


def repair() -> None:
    """Apply all repairs, for when autoload is off or wilds was imported before it. Repeating it is harmless."""
    for name in ("utils", "metrics.metric", "metrics.loss", "metrics.all_metrics"):
        on_common_utils(importlib.import_module(f"wilds.common.{name}"))
    for name in DATASETS_ON_PANDAS:
        on_dataset(importlib.import_module(f"wilds.datasets.{name}_dataset"))
