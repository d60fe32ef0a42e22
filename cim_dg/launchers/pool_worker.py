"""A process of the launcher `pool`: runs one job of the stand-in after the other, having imported what they need once.

It reads a line of JSON for each job, the arguments of `domainbed.scripts.train`, and answers with the exit code. When
there is nothing more to read its launcher has gone, however it went, and it ends at once, in the middle of a job too:
that one goes on where it was when it is launched again.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import TextIO

from cim_dg import autoload

READY = "ready"


def main() -> None:
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    nowhere = open(os.devnull, "r+")  # noqa: SIM115 - for as long as the process lives
    # What jobs print is in their folders. And the processes that load images are forked from this one, and close their
    # standard input: it must not be what a thread is waiting to read.
    os.dup2(nowhere.fileno(), 0)
    os.dup2(nowhere.fileno(), 1)
    autoload.install()
    from domainbed.scripts import train

    waiting: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, waiting), daemon=True).start()
    print(READY, file=answers)
    while True:
        arguments = waiting.get()
        # What Python prints on stderr is in the job's folder too; what is left for the launcher is how a process died.
        with _as_a_new_process(arguments), redirect_stderr(nowhere):
            try:
                code = train.main(arguments)
            except SystemExit as end:  # of argparse
                code = end.code if isinstance(end.code, int) else 1
        print(code, file=answers)


def _read(stream: TextIO, waiting: queue.SimpleQueue[list[str]]) -> None:
    for line in stream:
        waiting.put(json.loads(line))
    os._exit(0)


@contextmanager
def _as_a_new_process(arguments: list[str]) -> Iterator[None]:
    """Let a job find what it would in a process of its own, as far as `train` does not see to it itself.

    It seeds every random generator, sets cuDNN's flags, and puts back the streams.
    """
    import torch

    argv, orig_argv, environment, folder = sys.argv, sys.orig_argv, dict(os.environ), os.getcwd()
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    command = ["-m", "domainbed.scripts.train", *arguments]
    sys.argv, sys.orig_argv = command[1:], [sys.executable, *command]
    try:
        with warnings.catch_warnings():  # which also forgets what has been warned of already
            yield
    finally:
        sys.argv, sys.orig_argv = argv, orig_argv
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(True)
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    main()
