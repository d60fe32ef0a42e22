"""What a sweep is: read from YAML, checked, and changed by the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from cim_dg.errors import UserError

HARNESSES = {"domainbed": ("iid", "leave-one-out", "oracle"), "wilds": ("average", "worst-class", "worst-group")}


@dataclass(frozen=True)
class Variant:
    """A method with some hyper-parameters set, as a row of its own, called `label`."""

    label: str
    algorithm: str
    hparams: Mapping[str, Any]


@dataclass(frozen=True)
class Spec:
    """A comparison: which methods on which data, how often, and by which rule the checkpoints are selected.

    `data` are the names (with * and ?) that must be in the folder of the data; none if no file is needed.
    `n_trials` counts trial seeds (DomainBed) or seeds (WILDS), from 0. `n_hparams`, `steps` and
    `hparams` are DomainBed's options of the same name, `test_envs` those of its environments that are tested on, by
    name (all if not given); `options` are further ones of `cim-dg wilds train`. Where there are `variants`,
    `algorithms` are names of theirs, and all of them if not given.
    """

    title: str
    harness: str
    datasets: tuple[str, ...]
    algorithms: tuple[str, ...]
    n_trials: int
    selection: str
    data: tuple[str, ...]
    table: str
    n_hparams: int = 1
    command_launcher: str = "pool"
    steps: int | None = None
    hparams: Mapping[str, Any] | None = None
    test_envs: tuple[str, ...] | None = None
    variants: Mapping[str, Variant] | None = None
    options: Mapping[str, Any] | None = None


_LISTS = ("datasets", "algorithms", "data", "test_envs")
_COUNTS = ("n_trials", "n_hparams", "steps")
_TEXTS = ("title", "harness", "selection", "command_launcher", "table")
_MAPPINGS = ("hparams", "options", "variants")
_ONLY = {
    "domainbed": ("n_hparams", "steps", "hparams", "test_envs", "variants"),
    "wilds": ("options",),
}


def names() -> list[str]:
    """The sweeps that come with the package."""
    files = resources.files("cim_dg.sweeps").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def load(name: str, changes: Mapping[str, Any] | None = None) -> Spec:
    """The sweep `name` of the package, or that of a YAML file, with `changes` (None values are none).

    Raises:
        UserError: there is no such sweep, or an entry is missing, unknown or not what is accepted.
    """
    if name in names():
        text = resources.files("cim_dg.sweeps").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    elif Path(name).suffix in (".yaml", ".yml"):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"the sweep {name} cannot be read: {error.strerror}") from None
    else:
        raise UserError(f"there is no sweep {name!r}; there are {', '.join(names())}, or give a YAML file")
    try:
        entries = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{name} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(entries, dict):
        raise UserError(f"{name} must hold named entries such as `algorithms: [ERM, CIM]`")
    spec = _checked(name, entries)
    given = {key: value for key, value in (changes or {}).items() if value is not None}
    if not given:
        return spec
    entries = {field.name: getattr(spec, field.name) for field in fields(spec)}
    return replace(spec, **{field: getattr(_checked(name, {**_plain(entries), **given}), field) for field in given})


def _plain(entries: dict[str, Any]) -> dict[str, Any]:
    """A spec's entries as a file would have them: those that only another harness has are left out."""
    others = {key for harness, keys in _ONLY.items() if harness != entries["harness"] for key in keys}
    if entries["variants"] is not None:
        entries = {**entries, "variants": {name: vars(one) for name, one in entries["variants"].items()}}
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in entries.items()
        if value is not None and key not in others
    }


def _checked(name: str, entries: Mapping[str, Any]) -> Spec:
    """The entries as a Spec, if they are right."""
    known = [field.name for field in fields(Spec)]
    if unknown := sorted(set(map(str, entries)) - set(known)):
        raise UserError(f"{name}: unknown entry {unknown[0]!r}; accepted are {', '.join(known)}")
    if isinstance(entries.get("variants"), dict):
        entries = {"algorithms": list(entries["variants"]), **entries}
    required = [field.name for field in fields(Spec)][:8]
    if missing := [key for key in required if key not in entries]:
        raise UserError(f"{name}: the entry {missing[0]!r} is missing")

    def refuse(key: str, accepted: str) -> None:
        raise UserError(f"{name}: {key} is {entries[key]!r}; accepted is {accepted}")

    for key, value in entries.items():
        if key in _LISTS and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
            refuse(key, "a list of names")
        if key in _LISTS and key != "data" and not value:
            refuse(key, "a list of at least one name")
        if key in _LISTS and len(set(value)) < len(value):
            refuse(key, "a list in which no name comes twice")
        if key in _COUNTS and not (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
            refuse(key, "a whole number of at least 1")
        if key in _TEXTS and not (isinstance(value, str) and value):
            refuse(key, "a text")
        if key in _MAPPINGS and not isinstance(value, dict):
            refuse(key, "names with values")
    if entries["harness"] not in HARNESSES:
        refuse("harness", " or ".join(HARNESSES))
    if entries["selection"] not in HARNESSES[entries["harness"]]:
        refuse("selection", f"{', '.join(HARNESSES[entries['harness']])} for {entries['harness']}")
    for harness, keys in _ONLY.items():
        if harness != entries["harness"] and (foreign := [key for key in keys if key in entries]):
            raise UserError(f"{name}: {foreign[0]} is an entry of sweeps of {harness}, not of {entries['harness']}")
    values: dict[str, Any] = {key: tuple(value) if key in _LISTS else value for key, value in entries.items()}
    if "variants" in entries:
        values["variants"] = {key: _variant(name, key, entries["variants"][key]) for key in entries["variants"]}
        if unknown := [key for key in entries["algorithms"] if key not in entries["variants"]]:
            raise UserError(f"{name}: there is no variant {unknown[0]!r}; there are {', '.join(entries['variants'])}")
    return Spec(**values)


def _variant(name: str, key: object, entries: Any) -> Variant:
    """A variant, if it is right; its name becomes a folder's."""
    if not (isinstance(key, str) and re.fullmatch(r"[\w.-]+", key) and key.strip(".")):
        raise UserError(f"{name}: the name of a variant is {key!r}; accepted are letters, digits, '.', '_' and '-'")
    if not isinstance(entries, dict):
        raise UserError(f"{name}: variant {key} is {entries!r}; accepted are the entries label, algorithm and hparams")
    if unknown := sorted(set(map(str, entries)) - {"label", "algorithm", "hparams"}):
        raise UserError(
            f"{name}: variant {key} has an unknown entry {unknown[0]!r}; accepted are label, algorithm, hparams"
        )
    variant = Variant(entries.get("label", key), entries.get("algorithm", ""), entries.get("hparams", {}))
    if not (isinstance(variant.algorithm, str) and variant.algorithm and isinstance(variant.label, str)):
        raise UserError(f"{name}: variant {key} must name its algorithm, and its label, if given, must be a text")
    if not isinstance(variant.hparams, dict):
        raise UserError(f"{name}: variant {key} has hparams {variant.hparams!r}; accepted is names with values")
    return variant
