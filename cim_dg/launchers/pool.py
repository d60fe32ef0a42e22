"""The launcher `pool`: the stand-in's jobs in processes that stay warm, each of which runs many."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cim_dg.errors import UserError
from cim_dg.launchers import jobs, pool_worker
from cim_dg.runtime import devices, settings
from cim_dg.runtime.files import last_line

ATTEMPTS = 2
"""A job whose process dies is started once more: it goes on where it was. What kills two is likely the job itself."""
GIB_OF_PHOTOGRAPHS, GIB_OF_SMALL_IMAGES = 16, 2
"""What a job on a GPU is taken to need of its memory: DomainBed's ResNet-50 on 224 pixels, and a small network."""
_TRAIN = ["python", "-m", "domainbed.scripts.train"]
_INTERRUPTED = 130


def pool_launcher(commands: list[str]) -> None:
    """Run the commands on this machine in warm processes, each of which imports torch once and runs many jobs.

    There is one for each core, with a thread of its own; or, with GPUs, as many for each GPU as its free memory holds
    jobs (CIM_DG_JOBS_PER_GPU sets another number), no more than cores. CIM_DG_JOBS sets another number in all. Results
    are those of the launcher `local` with as many threads. Shows a progress bar with the time left on stderr; what the
    jobs print is in their folders. A job that fails leaves the others running; one whose process dies goes on in
    another, once. At the end the exit code is 1 and the failures are named.

    Only the stand-in's jobs can be run so; those of a real DomainBed are run by `parallel`.

    Raises:
        UserError: a command is not one of `domainbed.scripts.train`, or a setting is not what is accepted.
    """
    if not jobs.is_standin():
        from cim_dg.launchers.parallel import parallel

        print("pool runs jobs of cim-dg's stand-in alone; this is a real DomainBed: parallel it is", file=sys.stderr)
        return parallel(commands)
    pool = _Pool(commands, _places(commands))
    pool.run()
    if pool.left:
        print(f"{pool.left} jobs are run by another process, to which they are left", file=sys.stderr)
    jobs.report(pool.failures, len(commands))


class _Pool:
    """The jobs of a launch, those that run them, and how they ended."""

    def __init__(self, commands: Sequence[str], places: Sequence[Mapping[str, str]]) -> None:
        self._waiting = deque((command, _arguments(command)) for command in commands)
        self._places = places
        self._processes: set[_Process] = set()
        self._lock = threading.Lock()
        self._stopped = False
        self.failures: list[str] = []
        self.left = 0

    def run(self) -> None:
        from tqdm import tqdm

        with (
            tqdm(total=len(self._waiting), unit="job", desc="jobs") as self._bar,
            ThreadPoolExecutor(max(1, len(self._places))) as threads,
        ):
            serving = [threads.submit(self._serve, place) for place in self._places]
            try:
                for one in serving:
                    one.result()
            finally:
                self._stop()  # which does something if there was an interrupt, or a bug

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._processes:
                process.kill()

    def _serve(self, place: Mapping[str, str]) -> None:
        """Run jobs in one place until there are none left."""
        process: _Process | None = None
        while (job := self._next()) is not None:
            command, arguments = job
            for _ in range(ATTEMPTS):
                process = process or self._start(place)
                if process is None:
                    return
                code = process.run(arguments)
                if code is not None:
                    break
                death, process = self._bury(process), None
            if code == _INTERRUPTED:
                self._stop()
            if self._stopped:
                return
            failure = f"twice its process died, {death}" if code is None else _failure(arguments, code)
            self._ended(command, arguments, failure)
        if process is not None:
            process.kill()
            self._bury(process)

    def _next(self) -> tuple[str, list[str]] | None:
        with self._lock:
            return self._waiting.popleft() if self._waiting and not self._stopped else None

    def _start(self, place: Mapping[str, str]) -> _Process | None:
        with self._lock:
            if self._stopped:
                return None
            process = _Process(place)
            self._processes.add(process)
            return process

    def _bury(self, process: _Process) -> str:
        with self._lock:
            self._processes.discard(process)
        return process.death()

    def _ended(self, command: str, arguments: list[str], failure: str | None) -> None:
        with self._lock:
            if failure is not None:
                self.failures.append(f"{command}\n    {failure}")
                self._bar.set_postfix(failed=len(self.failures))
            elif not Path(_output_dir(arguments), "done").exists():
                self.left += 1
            self._bar.update()


class _Process:
    """A `pool_worker`. It reads its jobs from a pipe, which ends with this process: then it ends, too."""

    def __init__(self, place: Mapping[str, str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by death()
        self._process = subprocess.Popen(
            [sys.executable, "-m", pool_worker.__name__],
            env=os.environ | place,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._is_ready = False

    def run(self, arguments: list[str]) -> int | None:
        """Run a job; its exit code, or None if the process died, and whatever it had started, too."""
        assert self._process.stdin is not None and self._process.stdout is not None  # for the type checker
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(arguments) + "\n")
            self._process.stdin.flush()
        if not self._is_ready:
            self._is_ready = self._process.stdout.readline().strip() == pool_worker.READY
        answer = self._process.stdout.readline()
        return int(answer) if answer.endswith("\n") else None

    def kill(self) -> None:
        self._process.kill()

    def death(self) -> str:
        """How it died: a signal or an exit code, and the last thing it said."""
        code = self._process.wait()
        with self._process, self._errors as errors:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
        how = f"exit code {code}"
        if code < 0:
            how = f"by {signal.Signals(-code).name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")
        return ": ".join([how, *said[-1:]])


def _arguments(command: str) -> list[str]:
    words = shlex.split(command)
    if words[: len(_TRAIN)] != _TRAIN or "--output_dir" not in words:
        raise UserError(f"pool runs commands that begin with {' '.join(_TRAIN)!r} alone, and this is {command!r}")
    return words[len(_TRAIN) :]


def _output_dir(arguments: list[str]) -> str:
    return arguments[arguments.index("--output_dir") + 1]


def _failure(arguments: list[str], code: int) -> str | None:
    """How a job failed, in words; None if it did not."""
    if code == 0:
        return None
    return f"exit code {code}: {last_line(Path(_output_dir(arguments), 'err.txt')) or 'nothing on stderr'}"


def _places(commands: Sequence[str]) -> list[dict[str, str]]:
    """The environment variables of each process: its share of the cores and its GPU."""
    cores, gpus, asked = devices.cores(), devices.gpus(), settings.get("CIM_DG_JOBS")
    per_gpu = settings.get("CIM_DG_JOBS_PER_GPU")
    if gpus and per_gpu is None:
        per_gpu = _fitting(commands, cores // len(gpus))
    count = min(asked or len(gpus) * (per_gpu or 1) or cores, len(commands))
    threads = {"OMP_NUM_THREADS": str(max(1, cores // max(1, count)))}
    return [threads | ({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}) for number in range(count)]


def _fitting(commands: Sequence[str], most: int) -> int:
    """How many jobs, at least 1 and at most `most`, fit side by side into the GPU with the least free memory."""
    from domainbed import datasets

    needed = 0
    for name in {words[words.index("--dataset") + 1] for words in map(_arguments, commands)}:
        photographs = issubclass(datasets.get_dataset_class(name), datasets.MultipleEnvironmentImageFolder)
        needed = max(needed, GIB_OF_PHOTOGRAPHS if photographs else GIB_OF_SMALL_IMAGES)
    return max(1, min(most, int(_free_gib() // needed)))


def _free_gib() -> float:
    """The free memory of the GPU that has the least.

    Asked in a process of its own: to ask takes some of it, for as long as the process lives.
    """
    code = "import torch; print(min(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())))"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) / 2**30
