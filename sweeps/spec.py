"""The specification of a sweep: read from YAML, checked, and overridden by the command line."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, MinLen

from cim_dg.errors import UserError
from cim_dg.results.primary import Primary
from cim_dg.runtime.schema import suggestion, validated

Selection = Literal["iid", "leave-one-out", "oracle", "average", "worst-class", "worst-group", "macro-f1"]
SELECTIONS = {
    "domainbed": ("iid", "leave-one-out", "oracle"),
    "wilds": ("average", "worst-class", "worst-group", "macro-f1"),
}
Protocol = Literal["random-search", "search-then-seeds"]
Count = Annotated[int, Ge(1)]
Text = Annotated[str, MinLen(1)]
Names = Annotated[tuple[str, ...], MinLen(1)]


@dataclass(frozen=True)
class Variant:
    """A method with some hyper-parameters set, shown in its own row."""

    algorithm: Text
    """the method"""
    label: str = ""
    """the name of the row; by default the name of the variant"""
    hparams: dict[str, Any] = field(default_factory=dict)
    """hyper-parameters of the method"""


@dataclass(frozen=True)
class Spec:
    """A comparison: methods, data, number of trials, and the selection rule."""

    title: Text
    """a description of the sweep"""
    harness: Literal["domainbed", "wilds"]
    """the harness that trains and evaluates"""
    datasets: Names
    """the datasets"""
    algorithms: Names
    """the methods; if there are variants, their names (all if not given)"""
    n_trials: Count
    """the number of trial seeds (DomainBed) or of seeds (WILDS)"""
    selection: Selection
    """the rule by which checkpoints are selected: one of the harness"""
    data: tuple[str, ...]
    """the required paths in the folder of the data, with * and ?; empty if no file is needed"""
    table: Text
    """the table of published figures for the results"""
    first_trial: Annotated[int, Ge(0)] = 0
    """the first of the trial seeds: another one gives fresh seeds, on which nothing was chosen"""
    n_hparams: Count = 1
    """the default hyper-parameters, and random ones up to this number"""
    protocol: Protocol = "random-search"
    """random-search, DomainBed's, tries n_hparams settings in each trial; search-then-seeds tries them in one, and runs
    the selected setting in the others"""
    halving: Annotated[int, Ge(2)] | None = None
    """of search-then-seeds: of this many settings one goes on at each rung of the search, which stops the others early
    (successive halving); if not given, all settings train to the end"""
    command_launcher: Text = "pool"
    """the launcher of the jobs: local, parallel, multi_gpu, pool, ray or slurm"""
    steps: Count | None = None
    """DomainBed: training steps; by default the dataset's"""
    hparams: dict[str, Any] | None = None
    """DomainBed: hyper-parameters of all jobs"""
    test_envs: Names | None = None
    """DomainBed: the environments that are tested on, by name; all if not given"""
    variants: dict[str, Variant] | None = None
    """DomainBed: methods with some hyper-parameters set, each with its own row"""
    primary: Primary | None = None
    """the one comparison that the sweep is about, which is tested alone"""
    options: dict[str, Any] | None = None
    """WILDS: further options of `cim-dg wilds train`"""

    def __post_init__(self) -> None:
        for name in ("datasets", "algorithms", "data", "test_envs"):
            values = getattr(self, name) or ()
            if len(set(values)) < len(values):
                raise UserError(f"{name} is {list(values)!r}; accepted is a list in which no name comes twice")
        if self.protocol == "search-then-seeds" and self.n_hparams < 2:
            raise UserError(f"n_hparams is {self.n_hparams}; accepted is at least 2 for search-then-seeds")
        if self.halving is not None:
            self._check_halving(self.halving)
        if self.selection not in SELECTIONS[self.harness]:
            known = ", ".join(SELECTIONS[self.harness])
            raise UserError(f"selection is {self.selection!r}; accepted is one of {known} for {self.harness}")
        for pattern in self.data:
            try:
                next(Path(os.devnull).glob(pattern), None)
            except (ValueError, NotImplementedError, IndexError):  # empty, absolute, or `**` in a name
                raise UserError(f"data has {pattern!r}; accepted are paths in the folder of the data") from None
        for name in self.variants or ():
            if not (re.fullmatch(r"[\w.-]+", name) and name.strip(".")):  # it becomes a folder's name
                raise UserError(f"a variant is called {name!r}; accepted are letters, digits, '.', '_' and '-'")
        if self.variants and (unknown := [name for name in self.algorithms if name not in self.variants]):
            known = f"there are {', '.join(self.variants)}{suggestion(unknown[0], self.variants)}"
            raise UserError(f"there is no variant {unknown[0]!r}; {known}")

    def _check_halving(self, halving: int) -> None:
        if self.protocol != "search-then-seeds":
            raise UserError(f"halving is {halving}; accepted is none for {self.protocol}: it needs search-then-seeds")
        if self.selection == "oracle":  # whose last checkpoint may be worse than one at which another was stopped
            raise UserError(f"halving is {halving}; accepted is none for oracle, which takes the last checkpoint")
        if 2 * halving > self.n_hparams:
            raise UserError(f"n_hparams is {self.n_hparams}; accepted is at least {2 * halving} for halving {halving}")

    @property
    def trials(self) -> range:
        """The trial seeds."""
        return range(self.first_trial, self.first_trial + self.n_trials)


_OWN_ENTRIES = {
    "domainbed": ("steps", "hparams", "test_envs", "variants"),
    "wilds": ("options",),
}


def names() -> list[str]:
    """The sweeps that come with the package."""
    files = resources.files("cim_dg.sweeps").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def load(name: str, changes: Mapping[str, Any] | None = None) -> Spec:
    """The sweep `name` of the package, or of a YAML file, with `changes` (None values are ignored).

    Raises:
        UserError: there is no such sweep, or an entry is missing, unknown or not accepted.
    """
    from cim_dg.runtime.yaml_reader import read_yaml

    if name in names():
        entries = read_yaml(resources.files("cim_dg.sweeps").joinpath(f"{name}.yaml").read_text(encoding="utf-8"), name)
    elif Path(name).suffix in (".yaml", ".yml"):
        entries = read_yaml(Path(name), f"the sweep {name}")
    else:
        known = f"there are {', '.join(names())}, or give a YAML file{suggestion(name, names())}"
        raise UserError(f"there is no sweep {name!r}; {known}")
    spec = _checked(name, entries)
    _check_primary(name, spec)
    overrides = {key: value for key, value in (changes or {}).items() if value is not None}
    return _checked(name, {**entries, **overrides}) if overrides else spec


def _check_primary(name: str, spec: Spec) -> None:
    if spec.primary is None:
        return
    variants = spec.variants or {}
    rows = [variants[row].label if row in variants else row for row in spec.algorithms]
    for entry in ("method", "baseline"):
        if (value := getattr(spec.primary, entry)) not in rows:
            raise UserError(f"{name}: the {entry} of primary is {value!r}; accepted is one of {', '.join(rows)}")
    if spec.primary.dataset not in ("", *spec.datasets) or (len(spec.datasets) > 1 and not spec.primary.dataset):
        raise UserError(
            f"{name}: the dataset of primary is {spec.primary.dataset!r}; accepted is one of {', '.join(spec.datasets)}"
        )


def _checked(name: str, entries: Any) -> Spec:
    """The entries as a Spec, if they are valid."""
    if isinstance(entries, dict):
        harness = str(entries.get("harness"))
        for other, keys in _OWN_ENTRIES.items():
            if harness in _OWN_ENTRIES and harness != other and (foreign := [key for key in keys if key in entries]):
                raise UserError(f"{name}: {foreign[0]} is an entry of sweeps of {other}, not of {harness}")
        if isinstance(variants := entries.get("variants"), dict):
            variants = {key: {"label": key, **v} if isinstance(v, dict) else v for key, v in variants.items()}
            entries = {"algorithms": list(variants), **entries, "variants": variants}
    return validated(Spec, entries, name)
