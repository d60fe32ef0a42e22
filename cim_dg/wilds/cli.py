"""`cim-dg wilds`: train, digits, backgrounds and run-expt."""

from __future__ import annotations

from typing import Any

from cim_dg.wilds import backgrounds, digits, run, run_expt


def add_parser(subparsers: Any) -> None:
    """Add the command `wilds` with its subcommands."""
    parser = subparsers.add_parser("wilds", help="train on WILDS datasets", allow_abbrev=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=run.LateParser)
    for module in (run, digits, backgrounds, run_expt):
        module.add_parser(commands)
