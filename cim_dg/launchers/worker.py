"""A warm process that runs one job after the other, with imports done once: the launcher's side and the process' side.

The process reads a line of JSON for each job (the function and its arguments) and answers with the exit code and the
last line of stderr. At the end of its input the launcher is gone for some reason, and the process ends immediately,
even during a job. That job resumes when it is launched again.
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
    """The launcher's side."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process has died
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cim_dg.launchers.worker"],
            env=os.environ | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def run(self, job: Job) -> Ending:
        """Run a job; the ending's code is None if the process died."""
        request = {"entry": job.entry, "arguments": job.arguments, "command": job.command, "cwd": str(job.cwd)}
        assert self._process.stdin is not None and self._process.stdout is not None  # for the type checker
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        return Ending(*json.loads(answer)) if answer.endswith("\n") else Ending(None, self._death())

    def kill(self) -> None:
        """End the process and its job."""
        self._process.kill()
        self._process.wait()

    def _death(self) -> str:
        code = self._process.wait()
        with self._process, self._errors as errors:
            return ": ".join(filter(None, [death(code), last_said(errors)]))


def main() -> None:
    """Run the process' side."""
    watchdog.ignore_preemption()
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    # Jobs write their output to their folders. Loader processes are forked from this one and close their standard
    # input, which must not be the stream that a thread is reading.
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    autoload.install()
    waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, waiting), daemon=True).start()
    while True:
        request = waiting.get()
        # Python's stderr goes to a file. Other output on stderr is for the launcher: it shows how a process died.
        with (
            tempfile.TemporaryFile("w+", errors="replace") as errors,
            as_new_process(request["command"], request["cwd"]),
            contextlib.redirect_stderr(errors),
        ):
            code = call(request["entry"], request["arguments"])
            errors.flush()
            answer = json.dumps([code, last_said(cast("IO[bytes]", errors.buffer))])
        print(answer, file=answers)


def call(entry: str, arguments: Sequence[str]) -> int:
    """The exit code of the function "module:function" with these arguments; other errors are printed, as 1."""
    module, _, function = entry.partition(":")
    try:
        return getattr(import_module(module), function)(arguments)
    except SystemExit as end:  # from argparse
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
    """Give a job the state of a new process, as far as the job does not set it itself.

    The job itself seeds the random generators, sets cuDNN's flags, and restores the streams.
    """
    import torch

    argv, orig_argv, environment, folder = sys.argv, sys.orig_argv, dict(os.environ), os.getcwd()
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    sys.argv, sys.orig_argv = list(command[1:]), [sys.executable, *command[1:]]
    try:
        os.chdir(cwd)
        with warnings.catch_warnings():  # this also resets the warnings shown so far
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
