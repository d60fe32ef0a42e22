"""Checks external data against a model: returns an object of the model, or raises an error of one sentence.

A model is a dataclass, a TypedDict, a pydantic model, or a type such as `dict[str, Entry]`. Unknown names of a
dataclass or a TypedDict are refused. Bounds come from the package annotated_types, and a docstring after a field
describes it. Such models do not import pydantic, which takes a tenth of a second and is imported at the first check.
Data has JSON's types: a list is accepted as a tuple and an int as a float, but neither text nor a bool as a number.
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
Node = Mapping[str, Any]

_LONGEST = 100
_WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "a text",
    "object": "names with values",
    "null": "null",
    None: "another value",
}
_BOUNDS = {
    "minLength": "of a length of at least",
    "exclusiveMinimum": "above",
    "minimum": "of at least",
    "exclusiveMaximum": "below",
    "maximum": "of at most",
}


def load_yaml(source: Path | str, model: type[Model], where: str | None = None) -> Model:
    """The data of a YAML file (a `Path`) or text (a `str`) as an object of `model`.

    Raises:
        UserError: as of `cim_dg.runtime.yaml_reader.read_yaml` and of `validated`.
    """
    from cim_dg.runtime.yaml_reader import read_yaml

    where = where or (str(source) if isinstance(source, Path) else "the text")
    return validated(model, read_yaml(source, where), where)


def load_json(path: Path, model: type[Model], what: str) -> Model:
    """The content of a JSON file that this package has written as an object of `model`.

    Raises:
        UserError: it cannot be read, or is not `what`, as the message calls it; or as of `validated`.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{path} is not {what}; move it away") from None
    return validated(model, data, str(path))


def validated(model: type[Model], data: object, where: str) -> Model:
    """`data` (dicts, lists, texts, numbers, bools and None) as an object of `model`.

    Args:
        model: what the data must be.
        data: plain data, such as JSON and YAML give.
        where: its file or option, for the message.

    Raises:
        UserError: a name is unknown or missing, or a value is not accepted. The sentence has the position in the data,
            the value and what is accepted.
    """
    from pydantic import ValidationError

    try:
        text = json.dumps([data])
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{where} is not plain data: {error}") from None
    try:
        return cast(Model, _adapter(cast(Any, model)).validate_json(text, strict=True)[0])
    except ValidationError as error:
        # An unknown name often explains a missing one, so it comes first.
        errors: list[Any] = sorted(error.errors(include_url=False), key=lambda each: not _is_unknown(each["type"]))
        raise UserError(f"{where}{_problem(errors[0], json_schema(model), data)}") from None


def json_schema(model: Any) -> dict[str, Any]:
    """The JSON schema of `model`, which editors use for completion."""
    whole = _adapter(model, described=True).json_schema()
    definitions = whole.get("$defs", {})
    for definition in definitions.values():
        definition.pop("description", None)  # the docstring is for programmers
        if "properties" in definition:  # pydantic writes it for some kinds of models only
            definition.setdefault("additionalProperties", False)
    root = whole["items"]
    if "$ref" in root:
        root = definitions.pop(root["$ref"].rpartition("/")[2])
    return {**root, "$defs": definitions} if definitions else root


def accepted(node: Node, definitions: Node | None = None) -> str:
    """The values that a node of a JSON schema accepts, as text such as "a whole number of at least 1, or null"."""
    *others, last = (_accepted_text(branch, definitions or {}) for branch in _branches(node, definitions or {}))
    if others and last == "null":
        return " or ".join(others) + ", or null"
    return " or ".join((*others, last))


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of a message on an unknown name: "; did you mean 'x'?", or nothing if no known name is similar."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


@functools.cache
def _adapter(model: Any, described: bool = False) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    # pydantic takes no configuration for a dataclass from outside, but for a list, whose items inherit it. To look for
    # docstrings takes longer than all else.
    config: ConfigDict = {"extra": "forbid", "allow_inf_nan": False, "use_attribute_docstrings": described}
    return TypeAdapter(list[model], config=config)


def _accepted_text(node: Node, definitions: Node) -> str:
    """The values that a node without branches accepts, as text."""
    if "enum" in node or "const" in node:
        values = node.get("enum", [node.get("const")])
        return f"{'one of ' if len(values) > 1 else ''}{', '.join(map(str, values))}"
    if "prefixItems" in node:
        return f"a list of {'; '.join(accepted(item, definitions) for item in node['prefixItems'])}"
    if node.get("type") == "array":
        least = node.get("minItems", 0)
        noun = "text" if node.get("items", {}).get("type") == "string" else "value"
        return f"a list of {f'at least {least} ' if least else ''}{noun}{'' if least == 1 else 's'}"
    bounds = " and ".join(f"{words} {node[key]:g}" for key, words in _BOUNDS.items() if node.get(key) is not None)
    pattern = f"that matches {node['pattern']}" if "pattern" in node else ""
    return " ".join(filter(None, (_WORDS[node.get("type")], bounds.replace("and of", "and"), pattern)))


def _problem(error: Node, schema: Node, data: Any) -> str:
    """The sentence of one of pydantic's errors, from the position on."""
    definitions, loc, kind = schema.get("$defs", {}), list(error["loc"])[1:], error["type"]
    parent = node = schema
    path, outer, name, value = "", "", "", data
    for part in loc:
        if part in value if isinstance(value, Mapping) else isinstance(value, list) and part in range(len(value)):
            parent, node, value = node, _below(node, part, definitions), value[part]
            name = str(part)
            shown = name if name.isprintable() else repr(name)
            outer, path = path, path + (f"[{part}]" if isinstance(part, int) else f".{shown}" if path else shown)
        # Otherwise it is missing, or the name of a branch of a union.
    at = f": {path}" if path else ""
    if _is_unknown(kind) or loc[-1:] == ["[key]"]:
        branches = _branches(parent, definitions)
        known = [k for b in branches for k in (*b.get("properties", ()), *b.get("propertyNames", {}).get("enum", ()))]
        known_names = f"accepted are {', '.join(known)}{suggestion(name, known)}"
        return f"{': ' if outer else ''}{outer}: unknown entry {name!r}; {known_names}"
    if kind in ("missing", "missing_argument") and isinstance(loc[-1], str):
        return f"{at}: the entry {loc[-1]!r} is missing"
    if kind in ("value_error", "json_invalid"):
        return f"{at}: {error.get('ctx', {}).get('error')}"
    value_text = repr(value) if len(repr(value)) <= _LONGEST else repr(value)[:_LONGEST] + "..."
    accepted_text = accepted(node, definitions)
    return (
        f"{at} is {value_text}; accepted is {accepted_text}"
        if path
        else f" must hold {accepted_text}, not {value_text}"
    )


def _is_unknown(kind: str) -> bool:
    return kind in ("extra_forbidden", "unexpected_keyword_argument")


def _branches(node: Node, definitions: Node) -> list[Node]:
    """The alternative schemas with references resolved; null comes last."""
    if "$ref" in node:
        return _branches(definitions[node["$ref"].rpartition("/")[2]], definitions)
    inner = node.get("anyOf", node.get("oneOf"))
    return [node] if inner is None else [leaf for branch in inner for leaf in _branches(branch, definitions)]


def _below(node: Node, part: Any, definitions: Node) -> Node:
    """The schema of an entry or item of `node`; empty if there is none."""
    for branch in _branches(node, definitions):
        if isinstance(part, int):
            items = branch.get("prefixItems", [])
            below = items[part] if part < len(items) else branch.get("items")
        else:
            below = branch.get("properties", {}).get(part, branch.get("additionalProperties"))
        if isinstance(below, Mapping):
            return below
    return {}
