"""Runs jobs of a real DomainBed in a process that stays warm, each in a fork of it.

The process imports torch and DomainBed once, which takes some five seconds. A fork runs DomainBed's own `train` as
`python -m` does and ends with it, so that nothing of a job reaches the next one.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import runpy
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from cim_dg.domainbed.launchers import TRAIN, claim_for_train, output_dir_of
from cim_dg.domainbed.shared_loaders import share_loaders
from cim_dg.errors import exit_code
from cim_dg.launchers import watchdog, worker
from cim_dg.runtime.allocator import keep_freed_memory
from cim_dg.tracking.sidecar import track

IMPORTS = ("datasets", "hparams_registry", "algorithms", "lib.misc", "lib.fast_data_loader")
"""The modules of DomainBed that its `train` imports."""


def run(arguments: Sequence[str]) -> int:
    """Run a job in a fork of this process, with these arguments of `train`; returns its exit code.

    If the fork dies of a signal, so does this process: the launcher then starts another one, as for every job.
    """
    _import_domainbed()
    sys.stderr.flush()
    warm = os.getpid()
    job = os.fork()
    if job == 0:
        _run_and_exit(arguments, warm)
    try:
        code = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
    except KeyboardInterrupt:
        return 130
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(warm, -code)
    return code


@functools.lru_cache(maxsize=1)
def _import_domainbed() -> None:
    for name in IMPORTS:
        with contextlib.suppress(Exception):  # the job itself reports it
            import_module(f"domainbed.{name}")
    keep_freed_memory()
    gc.collect()
    gc.freeze()  # the jobs' collections need not look at what is imported


def _run_and_exit(arguments: Sequence[str], warm: int) -> NoReturn:
    code = 1
    try:
        # So do the processes of its loaders, which inherit its claim on the folder.
        os.register_at_fork(after_in_child=watchdog.die_with_parent)
        watchdog.die_with_parent()
        if os.getppid() == warm:
            code = worker.call(f"{__name__}:train", arguments)
            gc.collect()  # ends the loaders' processes
            sys.stderr.flush()
    finally:
        os._exit(code)


def train(arguments: Sequence[str]) -> int:
    """Run DomainBed's `train`, with what our hooks do in the process of a job; returns the exit code."""
    sys.argv[1:] = arguments
    sys.stdout = sys.stderr  # DomainBed prints its errors on stdout, and the launcher tells the last line of stderr
    folder = output_dir_of(arguments)
    share_loaders()
    claim_for_train(folder)

    def run_train() -> None:
        with track(folder):
            runpy.run_module(TRAIN[-1], run_name="__main__", alter_sys=True)

    return exit_code(run_train)
