"""Live curves of a run, written by a sidecar process, if the setting CIM_DG_LOG asks for them.

The process reads the run's folder, as `cim-dg log` does; training is not touched, nor are its random numbers. A byte on
its standard input ends it, and so does the end of the run's process, for whatever reason; it then writes what is left.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import functools
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from cim_dg.errors import UserError
from cim_dg.runtime import settings

VARIABLE = "CIM_DG_LOG"
SECONDS = 2.0


@contextlib.contextmanager
def track(folder: str | Path) -> Iterator[None]:
    """While a run writes into `folder`, pass its curves on to what CIM_DG_LOG names (tensorboard,wandb).

    Raises:
        UserError: it names something unknown or not installed.
    """
    targets = settings.get(VARIABLE)
    if not targets:
        yield
        return
    from cim_dg.tracking.writers import check

    check(targets)
    words = [sys.executable, "-m", "cim_dg.tracking.sidecar", os.path.abspath(folder), *targets]
    # In a session of its own, so that Ctrl-C at a terminal reaches the run alone.
    with subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True) as process:
        try:
            yield
        finally:
            process.communicate(b"\n")


def tracked(train: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], None]:
    """A function that trains into `args.output_dir`, with its curves passed on meanwhile."""

    @functools.wraps(train)
    def wrapped(args: argparse.Namespace) -> None:
        with track(args.output_dir):
            train(args)

    return wrapped


def track_domainbed(output_dir: str) -> None:
    """Pass on the curves of the real DomainBed's `train`, the program that runs, until it ends."""
    stack = contextlib.ExitStack()
    stack.enter_context(track(output_dir))
    atexit.register(stack.close)


def main() -> None:
    """The sidecar process: its arguments are the folder and the targets."""
    from cim_dg.tracking.curves import Curves

    folder, *targets = sys.argv[1:]
    curves = Curves([folder], targets)
    ending = False
    while not ending:
        ending = bool(select.select([sys.stdin], [], [], SECONDS)[0])
        with contextlib.suppress(UserError):  # there is no result yet
            curves.update()
    curves.close()


if __name__ == "__main__":
    main()
