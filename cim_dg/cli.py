"""The command `cim-dg`. Each subcommand is defined next to its code; this file only combines them."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from cim_dg import __version__
from cim_dg.errors import exit_code, plain_warnings
from cim_dg.runtime.arguments import Parser

COMMANDS = (
    "cim_dg.commands.demo",
    "cim_dg.sweeps.command",
    "cim_dg.commands.status",
    "cim_dg.results.command",
    "cim_dg.results.audit_command",
    "cim_dg.tracking.command",
    "cim_dg.wilds.cli",
    "cim_dg.wilds.submission",
    "cim_dg.data.command",
    "cim_dg.commands.morph",
    "cim_dg.commands.predict",
    "cim_dg.commands.export",
    "cim_dg.commands.new",
    "cim_dg.commands.doctor",
    "cim_dg.commands.completion",
)
"""Modules with `add_parser(subparsers)`, which sets the default `run`, a function of the parsed arguments that returns
the exit code. Importing one must be cheap: every call of `cim-dg` imports them all."""


def parser() -> Parser:
    """The parser of the whole command."""
    top = Parser(prog="cim-dg", description="CIM, CIM + VIB, SCL and VIB in DomainBed and WILDS", allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"cim-dg {__version__}")
    subparsers = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        import_module(name).add_parser(subparsers)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns 0 done, 1 a run failed, 2 wrong input, 130 interrupted. Errors are one line on stderr."""
    # As with `python -m`, a DomainBed clone in the working directory is found. Last, so that nothing is shadowed.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    plain_warnings(Warning)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # for names of files that are no text
    arguments = parser().parse_args(argv)
    return exit_code(lambda: arguments.run(arguments), "cim-dg")


if __name__ == "__main__":
    raise SystemExit(main())
