"""Reads the YAML files and checks values against them."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MinLen
from typing_extensions import TypedDict

from cim_dg.errors import UserError
from cim_dg.runtime.schema import accepted, suggestion, validated

SMALL_IMAGES = ("Debug28", "RotatedMNIST", "ColoredMNIST", "NuisanceDigits", "Spirograph")
"""The datasets with the `small_images` values: those of DomainBed's list, and this package's."""

SHARED = "averaging"
"""The file of every method's entries."""

_FOLDER = Path(__file__).parent
_FILES: dict[str, Path] = {}
_TYPES: dict[str, Any] = {"float": float, "int": int, "bool": bool, "str": str, "object": (str, Mapping)}
_JSON_TYPES = {"float": "number", "int": "integer", "bool": "boolean", "str": "string"}


End = Annotated[float, Ge(-1e300), Le(1e300)]
Exponent = Annotated[float, Ge(-300), Le(300)]


class Distribution(TypedDict, total=False):
    """The distribution of random values, one of these. Values of type int are rounded down."""

    uniform: tuple[End, End]
    """uniform between two numbers"""
    log10: tuple[Exponent, Exponent]
    """10 to the power of a uniform number"""
    log2: tuple[Exponent, Exponent]
    """2 to the power of a uniform number"""
    choice: Annotated[list[Any], MinLen(1)]
    """one of these values"""


class Override(TypedDict, total=False):
    """The differences on some datasets."""

    default: Any
    """the value of hparams_seed 0"""
    random: Distribution | None
    """the distribution of the others"""


@dataclass(frozen=True)
class HParam:
    """A hyper-parameter, as a YAML file describes it.

    Raises:
        UserError: a default, here or in an override, is not accepted, or there is not exactly one distribution.
    """

    help: str
    """what it does, in a line"""
    type: Literal["float", "int", "bool", "str", "object"]
    """what its values are; an object is a name or a mapping, checked where it is used"""
    default: Any
    """the value of hparams_seed 0"""
    random: Distribution | None = None
    """the distribution of the values of the other seeds; without one they have the default"""
    bounds: tuple[float | None, float | None] = (None, None)
    """the lowest and the highest value that is accepted, null for none"""
    choices: tuple[Any, ...] = ()
    """the values that are accepted"""
    optional: bool = False
    """whether null is accepted"""
    small_images: Override = field(default_factory=Override)
    """what differs on datasets of small images"""
    datasets: Mapping[str, Override] = field(default_factory=dict)
    """what differs on datasets, by name"""

    def __post_init__(self) -> None:
        self.check("default", self.default)
        if self.random is not None and len(self.random) != 1:
            raise UserError(f"random is {dict(self.random)!r}; accepted is one distribution")
        for dataset in (SMALL_IMAGES[0], *self.datasets):
            try:
                self.on(dataset)
            except UserError as error:
                raise UserError(f"on {dataset}, {error}") from None

    @property
    def accepted(self) -> str:
        """The accepted values as text."""
        if self.type == "object" and not self.choices:
            words = "a name or a mapping"
        elif self.choices:
            words = accepted({"enum": list(self.choices)})
        else:
            low, high = self.bounds
            words = accepted({"type": _JSON_TYPES[self.type], "minimum": low, "maximum": high})
        return words + (", or null" if self.optional else "")

    def check(self, name: str, value: Any) -> Any:
        """The value of the hyper-parameter, which is called `name`, as plain Python.

        Raises:
            UserError: wrong type, out of bounds, or not among the choices.
        """
        if value is None and self.optional:
            return None
        plain = value
        if self.type == "float" and type(value) is int:
            with contextlib.suppress(OverflowError):
                plain = float(value)
        low, high = self.bounds
        fits = isinstance(plain, _TYPES[self.type]) and (self.type == "bool" or not isinstance(plain, bool))
        fits = fits and (not self.choices or plain in self.choices)
        if fits and isinstance(plain, (int, float)):
            fits = (-math.inf if low is None else low) <= plain <= (math.inf if high is None else high)
            fits = fits and (abs(plain) != math.inf if isinstance(plain, float) else abs(plain) < 2**63)
        if not fits:
            raise UserError(f"{name} is {value!r}; accepted is {self.accepted}")
        return plain

    def on(self, dataset: str | None) -> HParam:
        """The hyper-parameter with a dataset's overrides."""
        overrides = self.small_images if dataset in SMALL_IMAGES else {}
        overrides = {**overrides, **self.datasets.get(dataset or "", {})}
        return replace(self, small_images={}, datasets={}, **overrides) if overrides else self


def register(name: str, file: str | Path | None = None) -> None:
    """Register the space of method `name`: by default hparams/NAME.yaml of this package, which is read when used.

    Raises:
        UserError: the file is missing or invalid.
    """
    _FILES[name] = _FOLDER / f"{name}.yaml" if file is None else Path(file)
    read.cache_clear()
    if file is not None:
        space(name)


def space(name: str, dataset: str | None = None) -> dict[str, HParam]:
    """The entries of a registered method, of "common", or of "datasets/NAME", with the dataset's overrides applied.

    It is empty for a dataset without a file.
    """
    if name.startswith("datasets/") and not (_FOLDER / f"{name}.yaml").exists():
        return {}
    return {key: entry.on(dataset) for key, entry in _load(name).items()}


def dataset_names() -> set[str]:
    """The names of all hyper-parameters that this package's datasets add."""
    return {name for file in (_FOLDER / "datasets").glob("*.yaml") for name in _load(f"datasets/{file.stem}")}


def of_domainbed(algorithm: str) -> dict[str, HParam]:
    """The entries that a DomainBed job may set: all datasets', DomainBed's own, and ours, a registered method's last.

    Of equal names the later wins: a dataset's bounds of `batch_size` do not hold for other datasets.
    """
    entries: dict[str, HParam] = {}
    for file in sorted((_FOLDER / "datasets").glob("*.yaml")):
        entries |= _load(f"datasets/{file.stem}")
    return entries | space("domainbed") | space("common") | (space(algorithm) if algorithm in _FILES else {})


def check(entries: Mapping[str, HParam], values: Mapping[str, Any]) -> dict[str, Any]:
    """The checked values, as plain Python.

    Raises:
        UserError: a name is not among the entries, or a value is not accepted.
    """
    for key in values:
        if key not in entries:
            valid = f"valid names are {', '.join(sorted(entries)) or 'none'}{suggestion(key, entries)}"
            raise UserError(f"unknown hyper-parameter {key!r}; {valid}")
    return {key: entries[key].check(key, value) for key, value in values.items()}


def complete(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """All hyper-parameters of method `name`: the checked `values`, and the defaults of the others."""
    entries = space(name)
    return {key: entry.default for key, entry in entries.items()} | check(entries, values)


def _load(name: str, included_by: tuple[str, ...] = ()) -> dict[str, HParam]:
    """The entries of a method: every method's, those that its file includes, and its own."""
    path = _FILES.get(name, _FOLDER / f"{name}.yaml")
    if not path.is_file():
        raise UserError(f"no hyper-parameters of {name!r}: {path} cannot be read")
    if name in included_by:
        raise UserError(f"{path} includes itself: {' includes '.join((*included_by, name))}")
    includes, own = read(path)
    entries = _load(SHARED) if name in _FILES else {}
    for other in includes:
        entries |= _load(other, (*included_by, name))
    return entries | own


@functools.cache
def read(path: Path) -> tuple[tuple[str, ...], dict[str, HParam]]:
    """The names that a file includes, and its own entries.

    Raises:
        UserError: it cannot be read, or is invalid.
    """
    from cim_dg.runtime.yaml_reader import read_yaml

    content = read_yaml(path)
    content = {} if content is None else content
    includes = content.pop("include", []) if isinstance(content, dict) else []
    return (
        validated(tuple[str, ...], includes, f"{path}: include"),
        validated(dict[str, HParam], content, str(path)),
    )
