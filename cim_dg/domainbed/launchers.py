"""DomainBed's side of launching: its launchers take shell commands, which this module turns into jobs for ours.

DomainBed's `command_launchers.REGISTRY` has functions of a list of commands. In the real DomainBed ours end the sweep
with a sentence on stderr and an exit code (`ending`); the stand-in's commands do that themselves.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import multiprocessing
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from importlib import import_module
from pathlib import Path

from cim_dg.errors import LeftToAnother, UserError, exit_code
from cim_dg.launchers import Job, check, launch, notes
from cim_dg.runtime import devices, halving, locks, settings

Launcher = Callable[[list[str]], None]
_CLAIMS = contextlib.ExitStack()
"""Contexts that this process holds until it ends."""
TRAIN = ("python", "-m", "domainbed.scripts.train")
STANDIN_ENTRY = "domainbed.scripts.train:main"
REAL_ENTRY = "cim_dg.domainbed.warm:run" if sys.platform == "linux" else None


def is_standin() -> bool:
    """Whether the DomainBed that is imported here is our stand-in, whose jobs resume."""
    try:
        return bool(getattr(import_module("domainbed"), "STANDIN", False))
    except ImportError:
        return False


def job(command: str) -> Job:
    """The job of a command of DomainBed's sweep.

    Raises:
        UserError: it has no --output_dir.
    """
    words = tuple(shlex.split(command))
    if "--output_dir" not in words[:-1]:
        raise UserError(f"a job needs an --output_dir, and {command!r} has none")
    standin, is_train, arguments = is_standin(), words[: len(TRAIN)] == TRAIN, words[len(TRAIN) :]
    return Job(
        command=words,
        folder=Path.cwd() / words[words.index("--output_dir") + 1],
        resumes=standin,
        done=halving.current_marker() or "done",
        entry=(STANDIN_ENTRY if standin else REAL_ENTRY) if is_train else None,
        arguments=arguments if is_train else (),
        gib=functools.partial(_gib, arguments) if is_train and standin else _a_whole_gpu,
    )


def _a_whole_gpu() -> float:
    return math.inf


def _gib(arguments: Sequence[str]) -> float:
    from cim_dg.domainbed.memory import gib  # it imports torch

    return gib(arguments)


def launcher(name: str) -> Launcher:
    """Our launcher of that name as a function of commands; it raises the errors of `cim_dg.launchers.launch`."""

    def launch_commands(commands: list[str]) -> None:
        jobs = [job(command) for command in _with_flags(commands)]
        try:
            launch(name, jobs)
        finally:
            notes.free([job.folder for job in jobs])

    launch_commands.__name__ = f"{name}_launcher"
    return launch_commands


def ending(launch: Launcher) -> Launcher:
    """A launcher that ends the program with a sentence and an exit code if `launch` raises."""

    @functools.wraps(launch)
    def wrapped(commands: list[str]) -> None:
        def run() -> int:
            launch(commands)
            return 0

        if code := exit_code(run, "cim-dg"):
            raise SystemExit(code)

    return wrapped


def checked(name: str, launch: Launcher, our_names: Collection[str]) -> Launcher:
    """An upstream launcher that refuses to start jobs that cannot work (exit code 2).

    Upstream's jobs start the `python` on PATH, which may not know our algorithms, and its `multi_gpu` waits for ever
    where there is no GPU.
    """

    @functools.wraps(launch)
    def wrapped(commands: list[str]) -> None:
        def check_jobs() -> None:
            check(name)
            ours = [c for c in commands if set(re.findall(r"--(?:algorithm|dataset) (\S+)", c)) & set(our_names)]
            if ours and (problem := python_on_path_lacks_us()):
                raise UserError(problem)

        if name != "dummy":
            if code := exit_code(check_jobs, "cim-dg"):
                notes.free([job(command).folder for command in commands])
                raise SystemExit(code)
            commands = _with_flags(commands)
        launch(commands)

    return wrapped


def train_folder() -> str | None:
    """The --output_dir of DomainBed's `train`, if that is the running program (and not a process that it started)."""
    program = getattr(sys.modules["__main__"], "__spec__", None)
    if program is None or program.name != "domainbed.scripts.train" or multiprocessing.parent_process() is not None:
        return None
    return output_dir_of(sys.argv[1:])


def output_dir_of(arguments: Sequence[str]) -> str:
    """The --output_dir in arguments of `train`."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--output_dir", default="train_output")
    return parser.parse_known_args(arguments)[0].output_dir


def claim_for_train(output_dir: str) -> None:
    """Hold the claim on a job's folder until this process ends, as the stand-in's `train` does.

    Ends the program with exit code 75 if another process runs the job, and with 2 if a required GPU is missing.
    """

    def claim() -> int:
        devices.check_required()
        with contextlib.suppress(OSError):  # `train` itself reports errors of the folder
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            claimed = locks.claim(output_dir)
            if claimed is None:
                raise LeftToAnother(f"{output_dir}: another process is running this job, to which it is left")
            _CLAIMS.enter_context(claimed)
        return 0

    if code := exit_code(claim, "cim-dg"):
        raise SystemExit(code)


def python_on_path_lacks_us() -> str | None:
    """A sentence on the error of the `python` on PATH; None if it knows cim-dg."""
    python = shutil.which("python")
    advice = "activate the environment that has cim-dg, or use --command_launcher parallel, which starts this Python"
    if python is None:
        return f"there is no `python` on PATH, which every job of this launcher starts; {advice}"
    if subprocess.run([python, "-c", "import cim_dg"], capture_output=True, check=False).returncode:
        return f"the `python` on PATH, {python}, which every job of this launcher starts, has no cim-dg; {advice}"
    return None


def _with_flags(commands: Sequence[str]) -> list[str]:
    """The commands with the flags of our settings, which sweep does not have and which do not change a job's folder."""
    skip = " --skip_model_save" if settings.get("CIM_DG_SKIP_MODEL_SAVE") else ""
    return [command + skip for command in commands]
