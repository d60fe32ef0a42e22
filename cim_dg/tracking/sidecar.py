"""Live curves of a run, written by a sidecar process if CIM_DG_LOG is set.

The process reads the run's folder as `cim-dg log` does, so training and its random numbers are unchanged. It ends on a
byte on its standard input, or when the run's process ends for any reason. Before it ends it writes the last values.
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
    """While a run writes into `folder`, send its curves to the targets in CIM_DG_LOG (tensorboard,wandb).

    Raises:
        UserError: a target is unknown or not installed.
    """
    targets = settings.get(VARIABLE)
    if not targets:
        yield
        return
    from cim_dg.tracking.writers import check

    check(targets)
    command = [sys.executable, "-m", "cim_dg.tracking.sidecar", os.path.abspath(folder), *targets]
    # In a separate session, so that Ctrl-C at a terminal reaches only the run.
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as process:
        try:
            yield
        finally:
            process.communicate(b"\n")


def tracked(train: Callable[[argparse.Namespace], None]) -> Callable[[argparse.Namespace], None]:
    """Decorates a function that trains into `args.output_dir`: its curves are sent meanwhile."""

    @functools.wraps(train)
    def wrapped(args: argparse.Namespace) -> None:
        with track(args.output_dir):
            train(args)

    return wrapped


def track_domainbed(output_dir: str) -> None:
    """Send the curves of the real DomainBed's `train`, which is the running program, until it ends."""
    stack = contextlib.ExitStack()
    stack.enter_context(track(output_dir))
    atexit.register(stack.close)


def main() -> None:
    """Run the sidecar process; its arguments are the folder and the targets."""
    from cim_dg.tracking.curves import Curves

    folder, *targets = sys.argv[1:]
    curves = Curves([folder], targets)
    ending = False
    while not ending:
        ending = bool(select.select([sys.stdin], [], [], SECONDS)[0])
        with contextlib.suppress(UserError):  # there are no results yet
            curves.update()
    curves.close()


if __name__ == "__main__":
    main()
