"""Ways to run the commands of a sweep's jobs.

A launcher takes shell commands. If it waits for them it raises RunError in the end if some of them failed, with their
names; it runs the others all the same. Plugins add their own to REGISTRY.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections import deque
from collections.abc import Callable

from cim_dg.errors import RunError, UserError
from cim_dg.launchers.jobs import with_this_python
from cim_dg.runtime import devices

Launcher = Callable[[list[str]], None]


def _here(launcher: Launcher) -> Launcher:
    """Say of a launcher that its jobs run on this very interpreter, not on the `python` that is on the PATH."""
    launcher.__dict__["same_python"] = True
    return launcher


@_here
def local_launcher(commands: list[str]) -> None:
    """Run one command after the other on this machine."""
    _report([c for c in commands if subprocess.call(with_this_python(c), shell=True) != 0], len(commands))


def dummy_launcher(commands: list[str]) -> None:
    """Run nothing; print every command."""
    for command in commands:
        print(f"Dummy launcher: {command}")


@_here
def multi_gpu_launcher(commands: list[str]) -> None:
    """Run the commands on this machine, one at a time on each GPU: those of CUDA_VISIBLE_DEVICES, or all.

    Raises:
        UserError: there is no GPU.
    """
    gpus = devices.gpus()
    if not gpus:
        raise UserError(
            "the launcher multi_gpu needs a GPU and there is none; --command_launcher local runs on the CPU"
        )
    waiting, failed = deque(commands), []
    running: dict[str, tuple[str, subprocess.Popen[bytes]]] = {}
    while waiting or running:
        for gpu in gpus:
            if gpu in running:
                command, process = running[gpu]
                if process.poll() is None:
                    continue
                if process.returncode != 0:
                    failed.append(command)
                del running[gpu]
            if waiting:
                command = waiting.popleft()
                environment = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu}
                running[gpu] = command, subprocess.Popen(with_this_python(command), shell=True, env=environment)
        time.sleep(0.5)
    _report(failed, len(commands))


def _report(failed: list[str], total: int) -> None:
    if failed:
        names = "\n".join(failed)
        raise RunError(f"{len(failed)} of {total} jobs failed; each says why in its output folder's err.txt:\n{names}")


REGISTRY: dict[str, Launcher] = {
    "local": local_launcher,
    "dummy": dummy_launcher,
    "multi_gpu": multi_gpu_launcher,
}
