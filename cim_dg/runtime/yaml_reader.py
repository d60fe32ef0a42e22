"""Reading YAML that a person wrote: small, plain data, or one sentence that says what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from cim_dg.errors import UserError

MAX_BYTES = 2**20
MAX_DEPTH = 30
MAX_NODES = 50_000
"""Values in a file, counting what an alias stands for each time it is used."""

_NO_CHARACTERS = re.compile(r"[\0\ud800-\udfff]")
_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map")}


def read_yaml(source: Path | str, where: str | None = None) -> Any:
    """The data of a YAML file (a `Path`) or text (a `str`): dicts with texts as keys, lists, and scalars.

    A date stays a text. Aliases and merge keys are expanded.

    Args:
        source: the file, or the text itself.
        where: what messages call it; by default the path.

    Raises:
        UserError: the file cannot be read, is too large or not UTF-8, or holds anything but one document of such data.
    """
    where = where or (str(source) if isinstance(source, Path) else "the text")
    content = _read_bytes(source, where) if isinstance(source, Path) else source.encode("utf-8", "replace")
    if len(content) > MAX_BYTES:
        raise UserError(f"{where} is too large; accepted are at most {MAX_BYTES:,} bytes of YAML")
    try:
        loader = _Loader(content.decode("utf-8-sig"))
        return loader.get_single_data()
    except UnicodeDecodeError:
        raise UserError(f"{where} is not YAML in UTF-8") from None
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not YAML that is accepted: {_reason(error)}") from None


def _read_bytes(path: Path, where: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise UserError(f"{where} cannot be read: {getattr(error, 'strerror', None) or error}") from None


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
        if isinstance(event, yaml.AliasEvent) and event.anchor in self.anchors:
            if event.anchor not in self._sizes:
                raise _refusal(f"the alias *{event.anchor} refers to a value that contains it", event)
            self._count(self._sizes[event.anchor], event)
            return super().compose_node(parent, index)
        before = self._nodes
        self._count(1, event)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _refusal(f"values are nested deeper than {MAX_DEPTH} levels", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if getattr(event, "anchor", None):
            self._sizes[event.anchor] = self._nodes - before
        return node

    def _count(self, nodes: int, event: Any) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise _refusal(f"there are more than {MAX_NODES:,} values, aliases expanded", event)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """As in PyYAML, for plain data only."""
        if node.tag not in _PLAIN_TAGS:
            raise _refusal(f"a value has the type {node.tag.rpartition(':')[2]}, which is not accepted", node)
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError):  # such as `!!int x`, or a number of thousands of digits
            kind = node.tag.rpartition(":")[2]
            raise _refusal(f"a value is not of its type {kind}, or is too long", node) from None
        if isinstance(value, str) and _NO_CHARACTERS.search(value):
            raise _refusal("a text has a null character or half of a surrogate pair", node)
        return value

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """As in PyYAML, for different texts as keys."""
        if isinstance(node, yaml.MappingNode):
            merge = "tag:yaml.org,2002:merge"
            self._check_keys([key for key, _ in node.value if key.tag != merge])
        return super().construct_mapping(node, deep)

    @staticmethod
    def _check_keys(keys: Iterable[Any]) -> None:
        seen = set()
        for key in keys:
            if key.tag != "tag:yaml.org,2002:str":
                name = f"the name {key.value}" if isinstance(key, yaml.ScalarNode) else "a name"
                raise _refusal(f"{name} is not a text; quote it if it is meant as one", key)
            if key.value in seen:
                raise _refusal(f"the name {key.value!r} comes twice", key)
            seen.add(key.value)


def _refusal(problem: str, node: Any) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
