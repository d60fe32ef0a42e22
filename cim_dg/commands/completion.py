"""`cim-dg completion`: the script with which a shell completes the commands, options and values of `cim-dg`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHELLS = ("bash", "zsh", "tcsh")


def add_parser(subparsers: Any) -> None:
    """Add `completion` to the command line."""
    parser = subparsers.add_parser(
        "completion",
        help="print the script for completion in a shell",
        description="Print the script with which a shell completes commands, options, choices and paths. For bash: "
        "cim-dg completion bash > ~/.local/share/bash-completion/completions/cim-dg",
    )
    parser.add_argument("shell", choices=SHELLS)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    from cim_dg import cli

    parser = cli.parser()
    for each in _all(parser):
        if late := getattr(each, "before_parsing", None):
            late(each)
        for action in each._actions:
            _say_what_completes(each, action)
    print(shtab.complete(parser, arguments.shell))
    return 0


def _all(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser and those of its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _all(inner)


def _say_what_completes(parser: argparse.ArgumentParser, action: Any) -> None:
    """Give an action of `parser` what shtab reads: `choices`, or `complete` for files and folders."""
    from shtab import DIRECTORY, FILE

    from cim_dg.sweeps import spec

    if action.choices is not None or action.nargs == 0:
        return
    if parser.prog.endswith(" sweep") and action.dest == "name":
        action.choices = spec.names()
    elif action.dest.endswith("_dir") or action.metavar in ("DIR", "LOGDIR"):
        action.complete = DIRECTORY
    elif action.type is Path or "PATH" in str(action.metavar):
        action.complete = FILE
