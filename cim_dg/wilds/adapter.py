"""Code shared by the runner and the plugin: our methods' command-line options, and whether a method sees domains."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from cim_dg import hparams as spaces
from cim_dg.algorithms import methods
from cim_dg.errors import UserError
from cim_dg.harness.domains import asks_for_domains
from cim_dg.hparams import HParam
from cim_dg.runtime.arguments import flag

ALIASES = {"groupDRO": "GroupDRO"}  # as WILDS writes it


def canonical(algorithm: str) -> str:
    """The name of a method in this package.

    Raises:
        UserError: no such method.
    """
    algorithm = ALIASES.get(algorithm, algorithm)
    if algorithm not in methods():
        raise UserError(f"algorithm is {algorithm!r}; accepted is one of {', '.join(sorted(methods()))}")
    return algorithm


def add_hparam_options(parser: argparse.ArgumentParser) -> None:
    """Add an option --NAME for each hyper-parameter of each registered method, and --bf16; None if not given."""
    group = parser.add_argument_group("hyper-parameters of the methods")
    flag(group, "--bf16", help=spaces.space("common")["bf16"].help)
    for name, entry in _all_entries().items():
        # argparse interprets % in a help text.
        text = f"{entry.help} (default {entry.default})".replace("%", "%%")
        group.add_argument(f"--{name}", metavar=entry.type.upper(), help=text)


def read_hparam_options(arguments: argparse.Namespace, algorithm: str) -> dict[str, Any]:
    """The hyper-parameters given on the command line, checked.

    Raises:
        UserError: `algorithm` does not have the hyper-parameter, or a value is not accepted.
    """
    texts = {name: getattr(arguments, name, None) for name in _all_entries()}
    own = spaces.space(algorithm)
    values = {}
    for name, text in texts.items():
        if text is None:
            continue
        if name not in own:
            accepted = ", ".join(f"--{key}" for key in own) or "none"
            raise UserError(f"--{name} is not an option of {algorithm}; it has {accepted}")
        values[name] = own[name].check(name, parse_value(own[name], text))
    return values


def parse_value(entry: HParam, text: str) -> Any:
    """The value of an option's `text`. Text of the wrong type is returned as it is, for `HParam.check` to refuse."""
    if entry.optional and text.lower() in ("none", "null"):
        return None
    if entry.type == "bool":
        return {"true": True, "false": False}.get(text.lower(), text)
    convert: Callable[[str], Any] = {"float": float, "int": int}.get(entry.type, str)
    try:
        return convert(text)
    except ValueError:
        return text


def check_domains(algorithm: str, hparams: Mapping[str, Any], use_domains: bool) -> bool:
    """Whether the method gets domain labels: if the user asks for it, or the method needs domains.

    WILDS' domains of Waterbirds and CelebA are the groups that accuracy is reported for. A method that claims not to
    use group labels must not get them.

    Raises:
        UserError: a hyper-parameter needs domains and `use_domains` is false.
    """
    if (asking := asks_for_domains(hparams)) and not use_domains:
        raise UserError(f"{asking} uses domain labels, which on some datasets are the groups; add --use_domains True")
    return use_domains or methods()[algorithm].needs_domains


def _all_entries() -> dict[str, HParam]:
    return {name: entry for method in methods() for name, entry in spaces.space(method).items()}
