"""`cim-dg data register`: a folder or a CSV file of your own images as a dataset of both harnesses."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from cim_dg.errors import UserError

WITHOUT_FILES = ("Debug28", "Debug224", "NuisanceDigits", "Spirograph")
"""Datasets of DomainBed that are not in the catalogue of `cim-dg data`."""


def add_parser(commands: Any) -> None:
    """Add `register` to the commands of `cim-dg data`."""
    parser = commands.add_parser(
        "register",
        help="make your own images a dataset of DomainBed and WILDS",
        description="Make a folder DOMAIN/CLASS/IMAGE, or a CSV file with a row per image, a dataset that both "
        "harnesses know as NAME. It is laid out in DATA_DIR/NAME, by links to your files.",
    )
    parser.add_argument("name", metavar="NAME", help="what to type after --dataset")
    parser.add_argument("--from", dest="given", type=Path, metavar="PATH", help="the folder or the CSV file")
    parser.add_argument("--data_dir", type=Path, help="folder of the data, in which NAME is made")
    parser.add_argument("--copy", action="store_true", help="copy the images instead of linking to them")
    parser.add_argument("--remove", action="store_true", help="forget NAME; its folder stays")
    group = parser.add_argument_group("columns of the CSV file")
    group.add_argument("--images", type=Path, help="folder that relative paths start from (default: the CSV's own)")
    group.add_argument("--path_column", default="path")
    group.add_argument("--label_column", default="label")
    group.add_argument("--domain_column", default="domain")
    group.add_argument("--split_column", help="train, val, test and others (default: splits are drawn)")
    group.add_argument(
        "--group_columns", nargs="+", default=[], help="with the class they make the groups of worst-group accuracy"
    )
    group = parser.add_argument_group("splits of WILDS, where they are drawn (DomainBed draws its own for each trial)")
    group.add_argument("--split", nargs=3, type=float, metavar=("TRAIN", "VAL", "TEST"), default=[0.7, 0.1, 0.2])
    group.add_argument("--test_domains", nargs="+", default=[], help="the split test is all images of these domains")
    group.add_argument("--stratify", action="store_true", help="the same shares of the classes in every split")
    group.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Register or unregister a dataset, and print how to train on it.

    Raises:
        UserError: an option, or a file's content, is not accepted.
    """
    from cim_dg.data import own
    from cim_dg.data.present import all_datasets
    from cim_dg.runtime.seeding import check_seed

    if args.remove:
        folder = own.read(args.name).folder
        own.unregister(args.name)
        print(f"{args.name} is no longer registered; its folder {folder} is still there")
        return 0
    for option in ("given", "data_dir"):
        if getattr(args, option) is None:
            raise UserError(f"--{'from' if option == 'given' else option} is missing")
    check_seed("--seed", args.seed)
    if args.given.is_dir():
        if args.split_column or args.group_columns:
            raise UserError("--split_column and --group_columns are of a CSV file, and --from is a folder")
        items = own.items_of_folder(args.given)
    else:
        items = own.items_of_csv(
            args.given,
            args.images or args.given.parent,
            args.path_column,
            args.label_column,
            args.domain_column,
            args.split_column,
            args.group_columns,
        )
    rule = own.SplitRule(tuple(args.split), args.test_domains, args.stratify, args.seed)
    known = {name for dataset in all_datasets() for names in dataset.harnesses.values() for name in names}
    dataset = own.register(args.name, items, args.data_dir, rule, args.copy, reserved={*known, *WITHOUT_FILES})
    print(
        f"{dataset.name}: {len(items)} images, {len(dataset.classes)} classes, domains {', '.join(dataset.domains)}, "
        f"in {dataset.folder}"
    )
    flags, data_dir = f"--dataset {shlex.quote(dataset.name)} --algorithm CIM", shlex.quote(str(args.data_dir))
    print(f"DomainBed:  python -m domainbed.scripts.train {flags} --data_dir {data_dir}")
    print(f"WILDS:      cim-dg wilds train {flags} --root_dir {data_dir}")
    return 0
