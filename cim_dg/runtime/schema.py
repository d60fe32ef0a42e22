"""Data from outside checked against a model: an object of the model, or one sentence that says what is wrong.

A model is a dataclass, a TypedDict, a pydantic model, or a type such as `dict[str, Entry]`. A dataclass needs no import
of pydantic; its bounds are those of the package annotated_types, and `__pydantic_config__ = CLOSED` refuses unknown
names. Data is taken as JSON has it: a list does for a tuple and an int for a float, but a text or a bool is no number.
pydantic takes a tenth of a second to import, and is imported by the first check.
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from cim_dg.errors import UserError

if TYPE_CHECKING:
    from pydantic import ConfigDict, TypeAdapter

Model = TypeVar("Model")

CLOSED: ConfigDict = {"extra": "forbid", "allow_inf_nan": False, "use_attribute_docstrings": True}
"""The `__pydantic_config__` of a dataclass that refuses unknown names, and whose docstrings of fields describe them."""

_LONGEST = 100
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_MISSING = ("missing", "missing_argument")
_WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "a text",
    "null": "null",
    "object": "names with values",
}


def load_yaml(source: Path | str, model: type[Model], where: str | None = None) -> Model:
    """The data of a YAML file (a `Path`) or text (a `str`) as an object of `model`.

    Raises:
        UserError: as of `cim_dg.runtime.yaml_reader.read_yaml` and of `validated`.
    """
    from cim_dg.runtime.yaml_reader import read_yaml

    where = where or (str(source) if isinstance(source, Path) else "the text")
    return validated(model, read_yaml(source, where), where)


def validated(model: type[Model], data: object, where: str) -> Model:
    """`data` (dicts, lists, texts, numbers, bools and None) as an object of `model`.

    Args:
        model: what the data must be.
        data: plain data, such as JSON and YAML give.
        where: the file or option that it comes from, for the message.

    Raises:
        UserError: a name that is unknown or missing, or a value that is not accepted. It is one sentence with the place
            in the data, the value and what is accepted.
    """
    from pydantic import ValidationError

    try:
        text = json.dumps(data)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{where} is not plain data: {error}") from None
    try:
        return _adapter(cast(Any, model)).validate_json(text, strict=True)
    except ValidationError as error:
        # An unknown name explains best why another is missing.
        errors: list[Any] = sorted(error.errors(include_url=False), key=lambda each: each["type"] not in _UNKNOWN)
        raise UserError(_sentence(errors[0], json_schema(model), data, where)) from None


def json_schema(model: Any) -> dict[str, Any]:
    """The JSON schema of `model`, from which editors complete."""
    return _adapter(model).json_schema()


def accepted(node: Mapping[str, Any], definitions: Mapping[str, Any] | None = None) -> str:
    """What a JSON schema accepts, in words such as "a whole number of at least 1, or null"."""
    node = _resolved(node, definitions or {})
    if "const" in node or "enum" in node:
        values = node.get("enum", [node.get("const")])
        return ("one of " if len(values) > 1 else "") + ", ".join(map(str, values))
    if "anyOf" in node or "oneOf" in node:
        branches = [accepted(branch, definitions) for branch in node.get("anyOf", node.get("oneOf"))]
        null = ", or null" if "null" in branches else ""
        return " or ".join(dict.fromkeys(branch for branch in branches if branch != "null")) + null
    kind = node.get("type")
    if kind == "array":
        return _accepted_list(node, definitions)
    words = _WORDS.get(str(kind), "a value of another kind")
    if kind == "string" and node.get("minLength"):
        words += " that is not empty"
    bounds = [
        f"{words_of_bound} {node[key]:g}"
        for key, words_of_bound in {
            "exclusiveMinimum": "above",
            "minimum": "of at least",
            "exclusiveMaximum": "below",
            "maximum": "of at most" if "minimum" not in node and "exclusiveMinimum" not in node else "at most",
        }.items()
        if node.get(key) is not None
    ]
    return f"{words} {' and '.join(bounds)}" if bounds else words


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of a message on an unknown name: "; did you mean 'x'?", or nothing if no known name is like it."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


@functools.cache
def _adapter(model: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(model)


def _accepted_list(node: Mapping[str, Any], definitions: Mapping[str, Any] | None) -> str:
    if "prefixItems" in node:
        items = [accepted(item, definitions) for item in node["prefixItems"]]
        return f"a list of {len(items)} values: {'; '.join(items)}"
    item = node.get("items") or {}
    words = "a list of texts" if item.get("type") == "string" else "a list"
    return f"{words} with at least {node['minItems']}" if node.get("minItems") else words


def _sentence(error: Mapping[str, Any], schema: Mapping[str, Any], data: Any, where: str) -> str:
    """The sentence of one error of pydantic."""
    definitions = schema.get("$defs", {})
    loc = list(error["loc"])
    parent = node = _resolved(schema, definitions)
    place, value, path = "", data, list[Any]()
    for part in loc:
        if _has(value, part):  # if not, it is missing, or the name of a branch of a union
            place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else part
            parent, node, value = node, _below(node, part, definitions), value[part]
            path.append(part)
    kind = error["type"]
    if kind in _UNKNOWN or loc[-1:] == ["[key]"]:
        *outer, name = path
        known = [
            key
            for branch in _branches(parent, definitions)
            for key in (*branch.get("properties", ()), *branch.get("propertyNames", {}).get("enum", ()))
        ]
        inside = "".join(f"{part}: " for part in outer)
        names = ", ".join(known)
        return f"{where}: {inside}unknown entry {name!r}; accepted are {names}{suggestion(str(name), known)}"
    if kind in _MISSING and isinstance(loc[-1], str):
        return f"{where}: {place + ': ' if place else ''}the entry {loc[-1]!r} is missing"
    if kind == "value_error":
        return f"{where}: {place + ': ' if place else ''}{error['ctx']['error']}"
    if kind == "json_invalid":
        return f"{where} is not accepted: {error['msg']}"
    shown = repr(value) if len(repr(value)) <= _LONGEST else repr(value)[:_LONGEST] + "..."
    words = accepted(node, definitions)
    return f"{where}: {place} is {shown}; accepted is {words}" if place else f"{where} must hold {words}, not {shown}"


def _has(value: Any, part: Any) -> bool:
    if isinstance(value, Mapping):
        return part in value
    return isinstance(value, (list, tuple)) and isinstance(part, int) and part < len(value)


def _resolved(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """The node that a reference refers to, or the node itself."""
    return definitions[node["$ref"].rpartition("/")[2]] if "$ref" in node else node


def _branches(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The schemas of which one holds."""
    return [_resolved(branch, definitions) for branch in node.get("anyOf", node.get("oneOf", [node]))]


def _below(node: Mapping[str, Any], part: Any, definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of an entry or item of what `node` describes; empty if there is none."""
    for branch in _branches(node, definitions):
        if isinstance(part, int):
            items = branch.get("prefixItems", [])
            below = items[part] if part < len(items) else branch.get("items")
        else:
            below = branch.get("properties", {}).get(part, branch.get("additionalProperties"))
        if isinstance(below, Mapping):
            return _resolved(below, definitions)
    return {}
