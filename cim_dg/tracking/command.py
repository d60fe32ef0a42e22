"""`cim-dg log`: the curves of runs, for TensorBoard and Weights & Biases."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import time
from pathlib import Path
from typing import Any

from cim_dg.errors import UserError

TARGETS = ("tensorboard", "wandb")
SECONDS = 10


def add_parser(subparsers: Any) -> None:
    """Add `log` to the `cim-dg` command."""
    parser = subparsers.add_parser(
        "log",
        help="the curves of runs in TensorBoard or Weights & Biases",
        description="Read DomainBed sweeps (real or stand-in) and WILDS logs, and write the curves of every run into "
        "its folder. Weights & Biases stays offline unless WANDB_MODE=online.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders of runs, searched to any depth")
    parser.add_argument("--to", nargs="+", action="extend", choices=TARGETS, required=True)
    parser.add_argument("--follow", action="store_true", help="go on with what comes, until interrupted")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the curves, and print how to view them.

    Raises:
        UserError: there are no results, or the target's package is not installed.
    """
    from cim_dg.tracking.curves import Curves

    curves = Curves(args.folders, args.to)
    try:
        while args.follow:
            with contextlib.suppress(UserError):  # there are no results yet
                curves.update()
            time.sleep(SECONDS)
        print(f"{curves.update()} runs. To look at them:")
    except KeyboardInterrupt:
        print("To look at them:")
    finally:
        curves.close()
    places = [shlex.quote(str(folder)) for folder in args.folders]
    for place in places:
        if "tensorboard" in args.to:
            print(f"tensorboard --logdir {place}")
        if "wandb" in args.to:
            print(f"find {place} -name 'offline-run-*' -exec wandb sync {{}} +")
    return 0
