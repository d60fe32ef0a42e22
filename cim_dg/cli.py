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

COMMANDS = {
    "demo": "cim_dg.commands.demo",
    "sweep": "cim_dg.sweeps.command",
    "status": "cim_dg.commands.status",
    "collect": "cim_dg.results.command",
    "audit": "cim_dg.results.audit_command",
    "log": "cim_dg.tracking.command",
    "wilds": "cim_dg.wilds.cli",
    "submission": "cim_dg.wilds.submission",
    "data": "cim_dg.data.command",
    "signal": "cim_dg.commands.signal",
    "morph": "cim_dg.commands.morph",
    "predict": "cim_dg.commands.predict",
    "export": "cim_dg.commands.export",
    "new": "cim_dg.commands.new",
    "doctor": "cim_dg.commands.doctor",
    "completion": "cim_dg.commands.completion",
}
"""Command -> the module with `add_parser(subparsers)`, which sets the default `run`, a function of the parsed arguments
that returns the exit code. Importing one must be cheap: `cim-dg --help` imports them all."""


def parser(command: str | None = None) -> Parser:
    """The parser of the whole command; of `command` alone, if there is one of that name, which imports less."""
    top = Parser(prog="cim-dg", description="CIM, CIM + VIB, SCL and VIB in DomainBed and WILDS", allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"cim-dg {__version__}")
    subparsers = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in [COMMANDS[command]] if command in COMMANDS else COMMANDS.values():
        import_module(module).add_parser(subparsers)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns 0 done, 1 a run failed, 2 wrong input, 130 interrupted. Errors are one line on stderr."""
    # As with `python -m`, a DomainBed clone in the working directory is found. Last, so that nothing is shadowed.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    plain_warnings(Warning)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # for names of files that are no text
    words = sys.argv[1:] if argv is None else argv
    arguments = parser(words[0] if words else None).parse_args(argv)
    return exit_code(lambda: arguments.run(arguments), "cim-dg")


if __name__ == "__main__":
    raise SystemExit(main())
