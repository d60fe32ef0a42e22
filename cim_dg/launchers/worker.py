"""A process that stays warm and runs one job after the other, having imported what they need once: both ends of it.

The process reads a line of JSON for each job (what to call, with which arguments) and answers with the exit code and
the last line of stderr. When there is nothing more to read its launcher has gone, however it went, and it ends at once,
in the middle of a job too: that one goes on where it was when it is launched again.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import IO, Any, TextIO, cast

from cim_dg import autoload
from cim_dg.launchers import watchdog
from cim_dg.launchers.job import Ending, Job, death, last_said


class Worker:
    """The launcher's end."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it has died
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cim_dg.launchers.worker"],
            env=os.environ | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def run(self, job: Job) -> Ending:
        """Run a job; the ending's code is None if the process died, and whatever it had started, too."""
        request = {"entry": job.entry, "arguments": job.arguments, "command": job.command, "cwd": str(job.cwd)}
        assert self._process.stdin is not None and self._process.stdout is not None  # for the type checker
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        return Ending(*json.loads(answer)) if answer.endswith("\n") else Ending(None, self._death())

    def kill(self) -> None:
        """End the process, and what it runs."""
        self._process.kill()
        self._process.wait()

    def _death(self) -> str:
        code = self._process.wait()
        with self._process, self._errors as errors:
            return ": ".join(filter(None, [death(code), last_said(errors)]))


def main() -> None:
    """The process' end."""
    watchdog.ignore_preemption()
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    # What jobs print is in their folders. And the processes that load images are forked from this one, and close their
    # standard input: it must not be what a thread is waiting to read.
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    autoload.install()
    waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, waiting), daemon=True).start()
    while True:
        request = waiting.get()
        # What Python prints goes to a file; what else is on stderr is for the launcher, and tells how a process died.
        with (
            tempfile.TemporaryFile("w+", errors="replace") as errors,
            as_new_process(request["command"], request["cwd"]),
            contextlib.redirect_stderr(errors),
        ):
            code = _call(request["entry"], request["arguments"])
            errors.flush()
            answer = json.dumps([code, last_said(cast("IO[bytes]", errors.buffer))])
        print(answer, file=answers)


def _call(entry: str, arguments: Sequence[str]) -> int:
    module, _, function = entry.partition(":")
    try:
        return getattr(import_module(module), function)(arguments)
    except SystemExit as end:  # of argparse
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except Exception:
        traceback.print_exc()
        return 1


def _read(stream: TextIO, waiting: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in stream:
        waiting.put(json.loads(line))
    os._exit(0)


@contextlib.contextmanager
def as_new_process(command: Sequence[str], cwd: str) -> Iterator[None]:
    """Let a job find what it would in a process of its own, as far as it does not see to that itself.

    It seeds every random generator, sets cuDNN's flags, and puts back the streams.
    """
    import torch

    argv, orig_argv, environment, folder = sys.argv, sys.orig_argv, dict(os.environ), os.getcwd()
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    sys.argv, sys.orig_argv = list(command[1:]), [sys.executable, *command[1:]]
    try:
        os.chdir(cwd)
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
