"""Command launchers of ours, and a look ahead for upstream's."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor, as_completed

from cim_dg.errors import UserError
from cim_dg.launchers import jobs
from cim_dg.launchers.pool import pool_launcher
from cim_dg.launchers.ray import ray_launcher
from cim_dg.launchers.slurm import slurm_launcher
from cim_dg.runtime import devices, settings

Launcher = Callable[[list[str]], None]


def parallel(commands: list[str]) -> None:
    """Run the commands on this machine, as many side by side as it has GPUs or else cores, which they share.

    CIM_DG_JOBS sets another number. Shows a progress bar with the time left on stderr; what the jobs print is in their
    folders. A job that fails leaves the others running; at the end the exit code is 1 and the failures are named.
    """
    from tqdm import tqdm

    cores, gpus = devices.cores(), devices.gpus()
    side_by_side = settings.get("CIM_DG_JOBS") or len(gpus) or cores
    free_gpus = list(gpus)

    def run(command: str) -> str | None:
        environment = os.environ | {"OMP_NUM_THREADS": str(max(1, cores // side_by_side))}
        gpu = free_gpus.pop() if free_gpus else None
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        try:
            return jobs.run(command, environment)
        finally:
            if gpu is not None:
                free_gpus.append(gpu)

    failures = []
    with ThreadPoolExecutor(side_by_side) as pool, tqdm(total=len(commands), unit="job", desc="jobs") as bar:
        running = [pool.submit(run, command) for command in commands]
        try:
            for job in as_completed(running):
                if (failure := job.result()) is not None:
                    failures.append(failure)
                    bar.set_postfix(failed=len(failures))
                bar.update()
        except KeyboardInterrupt:
            # The jobs got the signal themselves; what has not started must not start.
            pool.shutdown(cancel_futures=True)
            raise
    jobs.report(failures, len(commands))


LAUNCHERS: dict[str, Launcher] = {
    "parallel": parallel,
    "pool": pool_launcher,
    "ray": ray_launcher,
    "slurm": slurm_launcher,
}


def refusing(launch: Launcher) -> Launcher:
    """A launcher of ours that ends with a sentence and exit code 2 if it refuses, as every DomainBed's sweep is to."""

    @functools.wraps(launch)
    def wrapped(commands: list[str]) -> None:
        try:
            launch(commands)
        except UserError as error:
            jobs.forget(commands)
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None

    return wrapped


def checked(launch: Launcher, our_names: Collection[str]) -> Launcher:
    """An upstream launcher that refuses, before any job is lost, to start jobs that lack our names (exit code 2).

    Upstream's jobs start whatever `python` is on PATH. A launcher that starts this very interpreter (`same_python`) or
    nothing at all is let through.
    """

    @functools.wraps(launch)
    def wrapped(commands: list[str]) -> None:
        if launch.__name__ != "dummy_launcher" and not getattr(launch, "same_python", False):
            ours = [c for c in commands if set(re.findall(r"--(?:algorithm|dataset) (\S+)", c)) & set(our_names)]
            if ours and (problem := python_on_path_lacks_us()):
                jobs.forget(commands)
                print(f"error: {problem}", file=sys.stderr)
                raise SystemExit(2)
        launch(commands)

    return wrapped


def python_on_path_lacks_us() -> str | None:
    """What is wrong with the `python` that a shell finds, in a sentence; None if it knows cim-dg."""
    python = shutil.which("python")
    advice = "activate the environment that has cim-dg, or use --command_launcher parallel, which starts this Python"
    if python is None:
        return f"there is no `python` on PATH, which every job of this launcher starts; {advice}"
    if subprocess.run([python, "-c", "import cim_dg"], capture_output=True, check=False).returncode:
        return f"the `python` on PATH, {python}, which every job of this launcher starts, has no cim-dg; {advice}"
    return None
