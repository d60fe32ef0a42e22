"""Reading the YAML files and checking values against them."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from cim_dg.errors import UserError

TYPES: dict[str, Any] = {"float": float, "int": int, "bool": bool, "str": str, "object": (str, Mapping)}
DISTRIBUTIONS = ("uniform", "log10", "log2", "choice")
SMALL_IMAGES = ("Debug28", "RotatedMNIST", "ColoredMNIST", "NuisanceDigits", "Spirograph")
"""The datasets that take the `small_images` values: DomainBed's own list, and ours."""

EVERY = "averaging"
"""The file whose entries every method has."""

_FOLDER = Path(__file__).parent
_FILES: dict[str, Path] = {}


@dataclass(frozen=True)
class HParam:
    """One entry of a YAML file; the keys are described in `cim_dg.hparams`."""

    name: str
    help: str
    type: str
    default: Any
    random: Mapping[str, list[Any]] | None = None
    bounds: tuple[float | None, float | None] = (None, None)
    choices: tuple[Any, ...] = ()
    optional: bool = False
    small_images: Mapping[str, Any] | None = None
    datasets: Mapping[str, Mapping[str, Any]] | None = None

    @property
    def accepted(self) -> str:
        """What is accepted, in words."""
        if self.choices:
            words = "one of " + ", ".join(str(choice) for choice in self.choices)
        else:
            words = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}.get(
                self.type, "a name or a mapping"
            )
            low, high = self.bounds
            words += f" of at least {low:g}" if low is not None else ""
            words += f"{' and' if low is not None else ' of'} at most {high:g}" if high is not None else ""
        return words + (", or null" if self.optional else "")

    def check(self, value: Any) -> Any:
        """The value as plain Python.

        Raises:
            UserError: wrong type, out of bounds, or not among the choices.
        """
        if value is None and self.optional:
            return None
        if self.type == "float" and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        low, high = self.bounds
        fits = isinstance(value, TYPES[self.type]) and not (self.type != "bool" and isinstance(value, bool))
        fits = fits and (not self.choices or value in self.choices)
        if fits and isinstance(value, (int, float)):
            fits = math.isfinite(value) and (low is None or value >= low) and (high is None or value <= high)
        if not fits:
            raise UserError(f"{self.name} is {value!r}; accepted is {self.accepted}")
        return value

    def on(self, dataset: str | None) -> HParam:
        """The entry with the overrides for a dataset applied."""
        changes: dict[str, Any] = {}
        if dataset in SMALL_IMAGES:
            changes |= self.small_images or {}
        changes |= (self.datasets or {}).get(dataset or "", {})
        return replace(self, **changes) if changes else self


def register(name: str, file: str | Path | None = None) -> None:
    """Make the space of method `name` known: by default hparams/NAME.yaml of this package.

    Raises:
        UserError: the file is missing or not as it should be.
    """
    _FILES[name] = _FOLDER / f"{name}.yaml" if file is None else Path(file)
    _load.cache_clear()
    _load(name)


def space(name: str, dataset: str | None = None) -> dict[str, HParam]:
    """The entries of a registered method, of "common", or of "datasets/NAME", with the dataset's overrides applied.

    Empty for a dataset that has no file.
    """
    if name.startswith("datasets/") and not (_FOLDER / f"{name}.yaml").exists():
        return {}
    return {key: entry.on(dataset) for key, entry in _load(name).items()}


def dataset_names() -> set[str]:
    """The names of all hyper-parameters that datasets of ours add."""
    return {name for file in (_FOLDER / "datasets").glob("*.yaml") for name in _load(f"datasets/{file.stem}")}


def check(entries: Mapping[str, HParam], given: Mapping[str, Any]) -> dict[str, Any]:
    """The given values, checked, as plain Python.

    Raises:
        UserError: a name that is not among the entries, or a value that is not accepted.
    """
    for key in given:
        if key not in entries:
            raise UserError(f"unknown hyper-parameter {key!r}; valid names are {', '.join(sorted(entries)) or 'none'}")
    return {key: entries[key].check(value) for key, value in given.items()}


def complete(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All hyper-parameters of method `name`: the given ones, checked, and the defaults of the rest."""
    entries = space(name)
    return {key: entry.default for key, entry in entries.items()} | check(entries, given)


@functools.cache
def _load(name: str) -> dict[str, HParam]:
    path = _FILES.get(name, _FOLDER / f"{name}.yaml")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError:
        raise UserError(f"no hyper-parameters of {name!r}: {path} cannot be read") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from None
    entries = dict(_load(EVERY)) if name in _FILES else {}
    for included in content.pop("include", []):
        entries |= _load(included)
    for key, fields in content.items():
        try:
            values: dict[str, Any] = {k: tuple(v) if k in ("bounds", "choices") else v for k, v in fields.items()}
            entry = HParam(key, **values)
        except TypeError as error:
            raise UserError(f"{path}: the entry {key!r} is not as it should be: {error}") from None
        _check_entry(entry, path)
        entries[key] = entry
    return entries


def _check_entry(entry: HParam, path: Path) -> None:
    if entry.type not in TYPES:
        raise UserError(f"{path}: {entry.name} has type {entry.type!r}; accepted is one of {', '.join(TYPES)}")
    variants = [entry, *(entry.on(dataset) for dataset in ("Debug28", *(entry.datasets or {})))]
    for variant in variants:
        variant.check(variant.default)
        if variant.random is not None and [key for key in variant.random if key not in DISTRIBUTIONS]:
            raise UserError(
                f"{path}: {entry.name} has the distribution {dict(variant.random)!r}; "
                f"accepted is one of {', '.join(DISTRIBUTIONS)}"
            )
