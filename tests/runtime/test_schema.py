"""Data against models: what comes out, and the sentence on what does not fit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Le, MinLen

from cim_dg.errors import UserError
from cim_dg.runtime.schema import accepted, json_schema, load_yaml, validated


@dataclass(frozen=True)
class Inner:
    name: Annotated[str, MinLen(1)]
    label: str = ""


@dataclass(frozen=True)
class Outer:
    """A model of every kind of value."""

    count: Annotated[int, Ge(1)]
    """How many there are."""
    names: Annotated[tuple[str, ...], MinLen(1)] = ("a",)
    share: Annotated[float, Gt(0), Le(1)] = 1.0
    rate: Annotated[float, Ge(0)] = 0.0
    kind: Literal["small", "large"] = "small"
    size: Annotated[int, Ge(1)] | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    either: float | str | None = None
    inner: Mapping[str, Inner] | None = None
    keys: Mapping[Literal["x", "y"], int] | None = None
    anything: Any = None

    def __post_init__(self) -> None:
        if self.count == 7:
            raise UserError("seven are not accepted")


def test_data_becomes_the_model() -> None:
    data = {"count": 2, "names": ["a", "b"], "share": 1, "inner": {"i": {"name": "n"}}, "keys": {"x": 1}}
    expected = Outer(count=2, names=("a", "b"), share=1.0, inner={"i": Inner("n")}, keys={"x": 1})
    assert validated(Outer, data, "mine") == expected
    assert type(validated(Outer, data, "mine").share) is float
    assert validated(dict[str, Inner], {"i": {"name": "n"}}, "mine") == {"i": Inner("n")}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "mine: the entry 'count' is missing"),
        ({"coun": 1}, "mine: unknown entry 'coun'; accepted are count, names,"),
        ({"coun": 1}, "; did you mean 'count'?"),
        ({"count": "1"}, "mine: count is '1'; accepted is a whole number of at least 1"),
        ({"count": True}, "mine: count is True; accepted is a whole number of at least 1"),
        ({"count": 1.5}, "mine: count is 1.5;"),
        ({"count": 7}, "mine: seven are not accepted"),
        ({"count": 1, "names": []}, "mine: names is []; accepted is a list of at least 1 text"),
        ({"count": 1, "names": "ab"}, "mine: names is 'ab'; accepted is a list of at least 1 text"),
        ({"count": 1, "names": ["a", 3]}, "mine: names[1] is 3; accepted is a text"),
        ({"count": 1, "share": 0}, "mine: share is 0; accepted is a number above 0 and at most 1"),
        ({"count": 1, "rate": float("inf")}, "mine: rate is inf; accepted is a number of at least 0"),
        ({"count": 1, "rate": float("nan")}, "mine: rate is nan; accepted is a number of at least 0"),
        ({"count": 1, "kind": "Small"}, "mine: kind is 'Small'; accepted is one of small, large"),
        ({"count": 1, "size": 0}, "mine: size is 0; accepted is a whole number of at least 1, or null"),
        ({"count": 1, "pair": [1]}, "mine: pair is [1]; accepted is a list of a number; a number"),
        ({"count": 1, "either": [1]}, "mine: either is [1]; accepted is a number or a text, or null"),
        ({"count": 1, "inner": {"i": {"nam": "n"}}}, "mine: inner.i: unknown entry 'nam'; accepted are name, label;"),
        ({"count": 1, "inner": {"i": {}}}, "mine: inner.i: the entry 'name' is missing"),
        ({"count": 1, "inner": {"i": 3}}, "mine: inner.i is 3; accepted is names with values"),
        ({"count": 1, "inner": {"\n": 3}}, r"mine: inner.'\n' is 3; accepted is names with values"),
        ({"count": 1, "\n": 3}, r"mine: unknown entry '\n'; accepted are count, names,"),
        ({"count": 1, "keys": {"z": 1}}, "mine: keys: unknown entry 'z'; accepted are x, y"),
        ([], "mine must hold names with values, not []"),
        ({"count": "x" * 1000}, "xxx...; accepted"),
        ({"count": "\ud800"}, "mine: unexpected end of hex escape"),
        ({"count": {1}}, "mine is not plain data: Object of type set"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(data: object, message: str) -> None:
    with pytest.raises(UserError) as raised:
        validated(Outer, data, "mine")
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("count: 3\nrate: 1e-5\n")  # YAML 1.1 reads this rate as a text
    with pytest.raises(UserError, match=r"mine\.yaml: rate is '1e-5'; accepted is a number"):
        load_yaml(file, Outer)
    assert load_yaml("count: 3", Outer) == Outer(count=3)


def test_the_schema_describes_every_field_with_a_docstring() -> None:
    assert json_schema(Outer)["properties"]["count"]["description"] == "How many there are."


def test_words_for_schemas() -> None:
    assert accepted({"type": "integer", "minimum": 1, "maximum": 5}) == "a whole number of at least 1 and at most 5"
    assert accepted({"type": "number", "maximum": 5}) == "a number of at most 5"
    assert accepted({"enum": ["a", "b"]}) == "one of a, b"


def test_pydantic_is_imported_by_the_first_check_only() -> None:
    code = "import sys, cim_dg.runtime.schema; sys.exit('pydantic' in sys.modules or 'yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
