"""Reads YAML that a person wrote: small, plain data, or an error of one sentence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from cim_dg.errors import UserError

MAX_BYTES = 2**20
MAX_DEPTH = 30
MAX_NODES = 50_000
"""The maximum number of values in a file, counting an alias' content each time it is used."""

_NO_CHARACTERS = re.compile(r"[\0\ud800-\udfff]")
_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = {_TAG + name for name in ("str", "int", "float", "bool", "null", "seq", "map")}


def read_yaml(source: Path | str, where: str | None = None) -> Any:
    """The data of a YAML file (a `Path`) or text (a `str`): dicts with texts as keys, lists, and scalars.

    Dates stay text. Aliases and merge keys are expanded.

    Args:
        source: the file, or its text.
        where: its name in messages; by default the path.

    Raises:
        UserError: the file cannot be read, is too large or not UTF-8, or is not one document of such data.
    """
    where = where or (str(source) if isinstance(source, Path) else "the text")
    try:
        content = _read_bytes(source) if isinstance(source, Path) else source.encode("utf-8", "replace")
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise UserError(f"{where} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > MAX_BYTES:
        raise UserError(f"{where} is too large; accepted are at most {MAX_BYTES:,} bytes of YAML")
    try:
        return _Loader(content.decode("utf-8-sig")).get_single_data()
    except UnicodeDecodeError:
        raise UserError(f"{where} is not YAML in UTF-8") from None
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not YAML that is accepted: {_reason(error)}") from None


def _read_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _reason(error: yaml.YAMLError) -> str:
    """The problem and its place in one line."""
    mark = getattr(error, "problem_mark", None)
    parts = (getattr(error, "context", None), getattr(error, "problem", None))
    text = " ".join(" ".join(part for part in parts if part).split()) or " ".join(str(error).split())
    return f"{text} (line {mark.line + 1}, column {mark.column + 1})" if mark else text


class _Loader(yaml.SafeLoader):
    """SafeLoader with limits on depth and size, and without its odd types, duplicate keys and recursive aliases."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # as in PyYAML
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._nodes = 0
        self._sizes: dict[str, int] = {}
        """Nodes below each anchor whose node is complete."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """As in PyYAML, with the limits."""
        event = self.peek_event()
        anchor: Any = getattr(event, "anchor", None)
        is_alias = isinstance(event, yaml.AliasEvent) and anchor in self.anchors
        if is_alias and anchor not in self._sizes:
            raise _error(f"the alias *{anchor} refers to a value that contains it", event)
        before = self._nodes
        self._nodes += self._sizes[anchor] if is_alias else 1
        if self._nodes > MAX_NODES:
            raise _error(f"there are more than {MAX_NODES:,} values, aliases expanded", event)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _error(f"values are nested deeper than {MAX_DEPTH} levels", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if anchor and not is_alias:
            self._sizes[anchor] = self._nodes - before
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """As in PyYAML, for plain data only."""
        kind = node.tag.rpartition(":")[2]
        if node.tag not in _PLAIN_TAGS:
            raise _error(f"a value has the type {kind}, which is not accepted", node)
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError):  # such as `!!int x`, or a number with thousands of digits
            raise _error(f"a value is not of its type {kind}, or is too long", node) from None
        if isinstance(value, str) and _NO_CHARACTERS.search(value):
            raise _error("a text has a null character or half of a surrogate pair", node)
        return value

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """As in PyYAML, for different texts as keys."""
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.tag == _TAG + "merge":
                continue
            if key.tag != _TAG + "str":
                name = f"the name {key.value}" if isinstance(key, yaml.ScalarNode) else "a name"
                raise _error(f"{name} is not a text; quote it if it is meant as one", key)
            if key.value in seen:
                raise _error(f"the name {key.value!r} comes twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _error(problem: str, mark: Any) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark.start_mark)
