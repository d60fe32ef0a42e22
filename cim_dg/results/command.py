"""`cim-dg collect`: results of any harness as comparison tables."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cim_dg.errors import UserError
from cim_dg.runtime.files import write_atomically

if TYPE_CHECKING:
    from cim_dg.results.build import Report

FORMATS = ("text", "markdown", "latex", "csv", "html")
DOMAINBED_RULES = ("iid", "leave-one-out", "oracle")
METRICS = ("ece", "nll", "auroc", "macro-f1", "balanced", "worst-class")
WILDS_RULES = ("average", "worst-class", "worst-group", "macro-f1")


def add_runs_options(parser: argparse.ArgumentParser, nargs: str) -> None:
    """Add what tells which runs are compared, and how: the folders (as many as `nargs`), the rules, the baseline."""
    parser.add_argument("folders", nargs=nargs, metavar="DIR", help="folders of runs, searched to any depth")
    parser.add_argument(
        "--selection",
        nargs="+",
        action="extend",
        choices=DOMAINBED_RULES + WILDS_RULES,
        default=[],
        metavar="RULE",
        help=f"DomainBed and SWAD: {', '.join(DOMAINBED_RULES)} (default iid); WILDS and SubpopBench: "
        f"{', '.join(WILDS_RULES)} (default: each WILDS run's own; worst-group and worst-class of SubpopBench, which "
        "has oracle too)",
    )
    parser.add_argument(
        "--baseline", metavar="METHOD", help="the method that all others are compared with (default ERM)"
    )


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `collect` to the `cim-dg` command."""
    parser = subparsers.add_parser(
        "collect",
        help="comparison tables from runs of DomainBed and its forks, SubpopBench and WILDS",
        description="Read any mix of DomainBed sweep folders (real, fork or stand-in), SWAD's and MIRO's train_output, "
        "SubpopBench's output and WILDS log folders, and print comparison tables with 95% intervals and paired tests "
        "beside the published figures.",
    )
    add_runs_options(parser, nargs="*")
    parser.add_argument(
        "--format", choices=FORMATS, default="text", help="text (default), markdown, latex, csv or html"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write there instead of to the terminal")
    parser.add_argument(
        "--table", nargs="+", default=[], metavar="NAME", help="only these tables, such as vlcs, subgroups, digits"
    )
    parser.add_argument(
        "--published",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="show published figures, marked, in rows of their own",
    )
    parser.add_argument(
        "--best_hparams", action="store_true", help="list the selected hparams and checkpoint of every cell"
    )
    parser.add_argument(
        "--metrics",
        nargs="*",
        action="extend",
        choices=METRICS,
        metavar="METRIC",
        help=f"further metrics of the test images, of runs that kept their logits: {', '.join(METRICS)} (all if "
        "none is named)",
    )
    parser.add_argument(
        "--show_images",
        action="store_true",
        help="with --format html: show small pictures of images on which methods disagree, where the dataset is there "
        "(the page then has parts of it)",
    )
    parser.add_argument(
        "--save", type=Path, metavar="FRAME", help="also save the frame of all evaluations as .csv or .parquet"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Collect, and print or write what was asked for.

    Raises:
        UserError: options do not go together, or a file cannot be written.
    """
    if args.show_images and args.format != "html":
        raise UserError(f"--show_images shows images on a page, and --format is {args.format}; accepted is html")
    with _no_garbage_collection():
        from cim_dg.results import build

        report = build.report(
            args.folders,
            rules=args.selection,
            names=args.table,
            baseline=args.baseline,
            with_published=args.published,
            best_hparams=args.best_hparams,
            metrics=None if args.metrics is None else args.metrics or METRICS,
        )
    for sentence in report.left_out:
        print(sentence, file=sys.stderr)
    if args.save is not None:
        if report.records is None:
            raise UserError(f"--save {args.save} needs folders of runs to read.")
        report.records.save(args.save)
    _write(_render(report, args), args.output)
    return 0


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Without searches for garbage, here and at the interpreter's end: of thousands of runs they take a sixth of the
    time, and records have no cycles."""
    atexit.register(gc.freeze)
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _render(report: Report, args: argparse.Namespace) -> str:
    form, output = args.format, args.output
    if form == "text":
        from cim_dg.results import render_text

        return render_text.for_stdout(report.grids()) if output is None else render_text.render(report.grids())
    if form == "markdown":
        from cim_dg.results import render_markdown

        return render_markdown.render(report.grids())
    if form == "latex":
        from cim_dg.results import render_latex

        return render_latex.render(report.grids())
    if form == "csv":
        from cim_dg.results import render_csv

        return render_csv.render(report)
    from cim_dg.results import page

    return page.render(report, args.show_images)


def _write(text: str, output: Path | None) -> None:
    if output is None:
        sys.stdout.write(text)
        return
    try:
        write_atomically(output, text)
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error.strerror}).") from error
