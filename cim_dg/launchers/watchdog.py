"""Run a command that is killed when its parent process dies: `python watchdog.py PARENT COMMAND...`.

A killed launcher, or a killed worker of Ray or Slurm, would leave its training running. The job would then be given to
another worker and run twice in the same folder. This is a separate program, not a function between fork and exec,
because launchers have threads. The signal needs Linux; on other systems the command is run without it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def ignore_preemption() -> None:
    """In a task of submitit, ignore the signal that Slurm sends to all processes before a preemption.

    submitit's process handles the signal and queues the task again. If it killed the training first, that would count
    as a failure.
    """
    if "SUBMITIT_EXECUTOR" in os.environ:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def die_with_parent() -> None:
    """Have the system kill this process when its parent dies from now on (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Request the signal at the parent's death, and become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    die_with_parent()
    ignore_preemption()
    if os.getppid() != parent:
        sys.exit("the process that has started this job died before it began")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
