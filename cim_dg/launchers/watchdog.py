"""Run a command that is killed when the process that has started it dies: `python watchdog.py PARENT WORDS...`.

A launcher, or a worker of Ray or Slurm, that is killed would leave the training that it has started behind; the job is
given to another, and would then run twice in one folder. This is a program of its own, and no function called between
fork and exec, because launchers have threads. The kernel's part in it is Linux'; elsewhere the command is just run.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def ignore_preemption() -> None:
    """Within a task of submitit, ignore what Slurm sends to all of it before it takes the node away.

    submitit's process answers the signal by queueing the task again. A training that died of it first would be a
    failure.
    """
    if "SUBMITIT_EXECUTOR" in os.environ:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def main() -> None:
    """Ask for the signal that ends it, and become the command."""
    parent, words = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    ignore_preemption()
    if os.getppid() != parent:
        sys.exit("the process that has started this job died before it began")
    os.execvp(words[0], words)


if __name__ == "__main__":
    main()
