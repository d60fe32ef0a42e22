"""YAML that a person wrote, and what is not accepted of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cim_dg.errors import UserError
from cim_dg.runtime.yaml_reader import MAX_BYTES, read_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("", None),
        ("a: [1, 2.5, true, null, x]", {"a": [1, 2.5, True, None, "x"]}),
        ("day: 2020-01-01", {"day": "2020-01-01"}),
        ("a: &x {k: 1}\nb: {<<: *x, l: 2}\nc: *x", {"a": {"k": 1}, "b": {"k": 1, "l": 2}, "c": {"k": 1}}),
        ("a: &x {k: 1}\nb: {<<: *x, k: 2}", {"a": {"k": 1}, "b": {"k": 2}}),
        ("'1': x", {"1": "x"}),
    ],
)
def test_plain_data_is_read(text: str, data: object, tmp_path: Path) -> None:
    assert read_yaml(text) == data
    (tmp_path / "file.yaml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_yaml(tmp_path / "file.yaml") == data, "with a byte order mark, as some editors write it"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", r"expected the node content.* \(line 1, column 5\)$"),
        ("a: 1\na: 2", r"the name 'a' comes twice \(line 2, column 1\)"),
        ("1: x", "the name 1 is not a text"),
        ("on: x", "the name on is not a text"),
        ("[a]: x", "a name is not a text"),
        ("a: &x [*x]", r"the alias \*x refers to a value that contains it"),
        ("a: &x {b: {<<: *x}}", r"the alias \*x refers to a value that contains it"),
        ("a: *x", "undefined alias"),
        (BOMB, "more than 50,000 values"),
        ("[" * 100_000, "nested deeper than 30 levels"),
        ("a: !!set {x}", "the type set"),
        ("a: !!timestamp 2020-01-01", "the type timestamp"),
        ("a: !!python/name:os.system x", "the type "),
        ("a: !!int x", "not of its type int"),
        ("a: !!bool x", "not of its type bool"),
        ("a: " + "9" * 10_000, "is too long"),
        ('a: "\\ud800"', "surrogate"),
        ('a: "\\0"', "a null character"),
        ("a: \x00", "special characters are not allowed"),
        ("--- 1\n--- 2", "a single document"),
        ("#" * (MAX_BYTES + 1), "too large"),
    ],
)
def test_what_is_not_accepted_is_said_in_a_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        read_yaml(text, "mine")
    assert str(raised.value).startswith("mine is ") and "\n" not in str(raised.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "a\0b"):
        with pytest.raises(UserError, match="cannot be read"):
            read_yaml(path)
    (tmp_path / "utf16").write_text("a: é", encoding="utf-16")
    with pytest.raises(UserError, match="utf16 is not YAML in UTF-8"):
        read_yaml(tmp_path / "utf16")
