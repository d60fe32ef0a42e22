"""The launchers of one machine: `local`, `parallel`, `multi_gpu` and `pool`.

They differ in the places that they give to jobs, and in whether a place starts a process for each job, or keeps one
process (`pool`).
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from tqdm import tqdm

from cim_dg.errors import LEFT, UserError
from cim_dg.launchers.job import Ending, Job, clear, run
from cim_dg.launchers.worker import Worker
from cim_dg.runtime import devices, settings

Place = Mapping[str, str]
"""The environment variables of the jobs in a place: their share of the cores, and their GPU."""
_INTERRUPTED = 130


class Runner(Protocol):
    """Runs the jobs of one place, one after the other."""

    def run(self, job: Job) -> Ending:
        """Run a job to its end."""

    def kill(self) -> None:
        """End the running job immediately, also from another thread. The runner is not used again."""


class Processes:
    """Runs each job in a new process."""

    def __init__(self, place: Place, prints: bool = False) -> None:
        self._place, self._prints = place, prints
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, job: Job) -> Ending:
        """Run a job to its end."""
        return run(job, self._place, self._prints, self._started)

    def kill(self) -> None:
        """End the job that is running."""
        if self._process is not None:
            self._process.kill()

    def _started(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process


def local(jobs: Sequence[Job]) -> dict[Job, Ending]:
    """Run one job after the other, with their output on this process' output."""
    return Machine(jobs, [{}], lambda place: Processes(place, prints=True), bar=False).run()


def parallel(jobs: Sequence[Job]) -> dict[Job, Ending]:
    """Run as many jobs in parallel as there are GPUs, or else cores; CIM_DG_JOBS sets another number.

    More jobs than GPUs are distributed over the GPUs. Each job has its own process.
    """
    return Machine(jobs, places(jobs, lambda most: 1), Processes).run()


def multi_gpu(jobs: Sequence[Job]) -> dict[Job, Ending]:
    """Run the jobs one at a time on each GPU: those of CUDA_VISIBLE_DEVICES, or all."""
    return Machine(jobs, [{devices.VISIBLE: gpu} for gpu in devices.gpus()[: len(jobs)]], Processes).run()


def pool(jobs: Sequence[Job], bar: bool = True) -> dict[Job, Ending]:
    """Run the jobs in processes that stay warm: each imports torch once and runs many jobs.

    There is one for each core, with a thread of its own; or, with GPUs, as many for each GPU as its free memory holds
    jobs (CIM_DG_JOBS_PER_GPU sets another number), no more than cores. CIM_DG_JOBS sets another number in all. Results
    are those of `local` with as many threads. If a job's process dies, another one resumes or restarts the job,
    CIM_DG_RETRIES times.

    Jobs without an entry are run by `parallel`.
    """
    if any(job.entry is None for job in jobs):
        print("pool has no warm processes for these jobs, which run in a new process each", file=sys.stderr)
        return parallel(jobs)
    return Machine(jobs, places(jobs, lambda most: _fitting(jobs, most)), WarmProcesses, bar).run()


class WarmProcesses:
    """Runs the jobs of a place in one worker process, which is replaced when it dies."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._worker: Worker | None = None
        self._lock = threading.Lock()
        self._killed = False

    def run(self, job: Job) -> Ending:
        """Run a job to its end, or until it has killed the maximum number of workers."""
        ending = Ending(0)
        for attempt in range(1 + settings.get("CIM_DG_RETRIES")):
            if job.is_done():
                return Ending(0)
            if not job.resumes and not clear(job.folder):
                return Ending(LEFT)
            with self._lock:
                if self._killed:
                    return Ending(None, "it was stopped")
                self._worker = self._worker or Worker(self._place)
            ending = self._worker.run(job)
            if ending.code is not None:
                return ending
            self._worker = None
            times = "its process" if attempt == 0 else f"{attempt + 1} times its process"
            ending = Ending(None, f"{times} {ending.said.removeprefix('its process ')}")
        return ending

    def kill(self) -> None:
        """End the worker."""
        with self._lock:
            self._killed = True
            if self._worker is not None:
                self._worker.kill()


class Machine:
    """The jobs of a launch, the places that run them, and their endings.

    Args:
        jobs: the jobs, in the order of running.
        places: the places that run them.
        make_runner: creates a runner for a place.
        bar: whether to show progress on stderr.
    """

    def __init__(
        self, jobs: Iterable[Job], places: Sequence[Place], make_runner: Callable[[Place], Runner], bar: bool = True
    ) -> None:
        self._waiting, self._places, self._make_runner = deque(jobs), places, make_runner
        self._bar = tqdm(total=len(self._waiting), unit="job", desc="jobs", disable=not bar)
        self._lock = threading.Lock()
        self._runners: list[Runner] = []
        self._stopped = False
        self._out_of_memory: list[Job] = []
        self.endings: dict[Job, Ending] = {}

    def run(self) -> dict[Job, Ending]:
        """Run every job, and once more, alone on a GPU, those that ran out of GPU memory; returns their endings."""
        with self._bar:
            self._serve_all(self._places)
            again, self._out_of_memory = self._out_of_memory, []
            alone = list({place.get(devices.VISIBLE): place for place in self._places}.values())
            if again and len(alone) < len(self._places):
                print(f"{len(again)} jobs ran out of GPU memory and run once more, alone", file=sys.stderr)
                self._waiting.extend(again)
                self._serve_all(alone)
        if self._stopped:
            raise KeyboardInterrupt
        return self.endings

    def _serve_all(self, places: Sequence[Place]) -> None:
        with ThreadPoolExecutor(max(1, len(places))) as threads:
            serving = [threads.submit(self._serve, place) for place in places]
            try:
                for thread in serving:
                    thread.result()
            finally:  # has an effect only after an interrupt or a bug
                self._stop(unless_done=all(thread.done() for thread in serving))

    def _stop(self, unless_done: bool = False) -> None:
        with self._lock:
            self._stopped = self._stopped or not unless_done
            runners = [] if unless_done else self._runners
        for runner in runners:
            runner.kill()

    def _serve(self, place: Place) -> None:
        """Run jobs in one place until none is left."""
        runner = self._make_runner(place)
        with self._lock:
            self._runners.append(runner)
        try:
            while (job := self._next()) is not None:
                ending = runner.run(job)
                if ending.code == _INTERRUPTED:
                    self._stop()
                if self._stopped:
                    return
                self._ended(job, ending)
        finally:
            runner.kill()

    def _next(self) -> Job | None:
        with self._lock:
            return self._waiting.popleft() if self._waiting and not self._stopped else None

    def _ended(self, job: Job, ending: Ending) -> None:
        with self._lock:
            self.endings[job] = ending
            if ending.out_of_memory:
                self._out_of_memory.append(job)
            failed = sum(ending.failure(job) is not None for job, ending in self.endings.items())
            if failed:
                self._bar.set_postfix(failed=failed)
            self._bar.update(len(self.endings) - self._bar.n)


def places(jobs: Sequence[Job], fitting: Callable[[int], int]) -> list[Place]:
    """The places, each a share of the machine. They do not depend on how many jobs are left.

    Args:
        jobs: the jobs; there are at most as many places.
        fitting: the number of jobs per GPU, from the maximum that the cores allow.
    """
    cores, gpus, count = devices.cores(), devices.gpus(), settings.get("CIM_DG_JOBS")
    if count is None and gpus:
        per_gpu = settings.get("CIM_DG_JOBS_PER_GPU") or fitting(max(1, cores // len(gpus)))
        count = len(gpus) * per_gpu
    elif count is None:
        count = max(1, cores // max((job.cores for job in jobs), default=1))
    threads = {"OMP_NUM_THREADS": str(max(1, cores // count))}
    return [
        threads | ({devices.VISIBLE: gpus[number % len(gpus)]} if gpus else {})
        for number in range(min(count, len(jobs)))
    ]


def _fitting(jobs: Sequence[Job], most: int) -> int:
    """The number of the jobs, 1 to `most`, that fit together into the GPU with the least free memory."""
    return max(1, min(most, int(_free_gib() // max(map(_gib, jobs)))))


def _gib(job: Job) -> float:
    try:
        return job.gib()
    except UserError:  # the job itself reports the error
        return 0.1


def _free_gib() -> float:
    """The free memory of the GPU that has the least.

    It is measured in a separate process, because a process that uses CUDA occupies some of it.
    """
    code = "import torch; print(min(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())))"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) / 2**30
