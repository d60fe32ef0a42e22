"""The launcher `slurm`: jobs as tasks of Slurm's arrays, through submitit."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cim_dg.errors import LEFT, RunError, UserError
from cim_dg.launchers.job import Ending, Job, note_failure, run
from cim_dg.launchers.notes import note_submitted, queued_in_slurm, slurm_numbers
from cim_dg.runtime import settings

DEFAULTS = {"name": "cim-dg", "timeout_min": 24 * 60, "gpus_per_node": 1, "cpus_per_task": 8}
TIME_OUTS = 100
FOLDER = "submitit"
KEPT_DAYS = 7
"""The time for which submitit's files of a finished task are kept."""


@dataclass(frozen=True)
class Task:
    """An array's task. Before a time limit or a preemption, submitit asks it what to queue again."""

    def __call__(self, jobs: Sequence[Job]) -> None:
        """Run its jobs: a single one in a new process, several as the launcher `pool` does.

        Raises:
            RunError: a job failed. Slurm then marks its task as failed too.
        """
        from cim_dg.launchers.machine import pool

        endings: dict[Job, Ending] = {jobs[0]: run(jobs[0], {})} if len(jobs) == 1 else pool(jobs, bar=False)
        failed = {job: reason for job, ending in endings.items() if (reason := ending.failure(job)) is not None}
        for job, reason in failed.items():
            note_failure(job, reason)
        for job, ending in endings.items():
            if ending.code == LEFT:
                print(f"{job}\n    another process is running it", file=sys.stderr)
        if failed:
            raise RunError("\n".join(f"{job}\n    {reason}" for job, reason in failed.items()))

    def checkpoint(self, jobs: Sequence[Job]) -> Any:
        """The same task without the jobs that are done."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, [job for job in jobs if not job.is_done()] or list(jobs)[:1])


def slurm_launcher(jobs: Sequence[Job]) -> None:
    """Submit the jobs as tasks of arrays, and return without waiting for them.

    CIM_DG_SLURM holds submitit's parameters in YAML or JSON, such as '{"slurm_partition": "gpu", "timeout_min": 240,
    "mem_gb": 32, "slurm_array_parallelism": 64}'; without it a task gets a day, a GPU and eight cores. A task runs
    CIM_DG_SLURM_JOBS jobs (1), side by side as far as its GPU's memory and its cores go, and an array has at most
    CIM_DG_SLURM_ARRAY tasks (1000). A task that is preempted is queued again, and so is one at its time limit where
    jobs resume. Jobs that are already in the queue are not submitted again. submitit's scripts and logs are in the
    folder `submitit` above those of the jobs, which must be on a shared disk. CIM_DG_SLURM_CLUSTER=local starts all
    tasks at once here, as a trial.

    Raises:
        UserError: submitit or Slurm is missing, or Slurm accepts none of the jobs.
        RunError: Slurm accepts only some of the jobs.
    """
    try:
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError
    except ImportError:
        raise UserError("the launcher slurm needs submitit: pip install 'cim-dg[slurm]'") from None
    cluster = settings.get("CIM_DG_SLURM_CLUSTER")
    if cluster == "slurm" and shutil.which("srun") is None:
        raise UserError(
            "the launcher slurm needs Slurm, and there is no srun here; CIM_DG_SLURM_CLUSTER=local tries it out"
        )
    # The local executor would hide all but the requested number of GPUs, and there may be none.
    defaults = DEFAULTS if cluster == "slurm" else DEFAULTS | {"gpus_per_node": 0}
    parameters = {**defaults, **settings.get("CIM_DG_SLURM")}
    jobs = _not_queued(jobs)
    if not jobs:
        return
    folder = Path(os.path.commonpath([job.folder.parent for job in jobs])) / FOLDER
    _clean(folder)
    try:
        # A job that does not resume would reach its time limit again and again.
        time_outs = TIME_OUTS if all(job.resumes for job in jobs) else 0
        executor = submitit.AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=time_outs)
        executor.update_parameters(**parameters)
    except (NameError, AssertionError, TypeError, ValueError) as error:
        raise UserError(f"CIM_DG_SLURM is not what submitit accepts: {' '.join(str(error).split())}") from None
    per_task, per_array = settings.get("CIM_DG_SLURM_JOBS"), settings.get("CIM_DG_SLURM_ARRAY")
    tasks = [jobs[start : start + per_task] for start in range(0, len(jobs), per_task)]
    submitted = 0
    for start in range(0, len(tasks), per_array):
        array = tasks[start : start + per_array]
        try:
            handles = executor.map_array(Task(), array)
        except (FailedJobError, FailedSubmissionError) as error:
            said = " ".join(str(error).split())
            if not submitted:
                raise UserError(f"Slurm takes none of the jobs: {said}") from None
            raise RunError(
                f"Slurm has taken {submitted} of {len(jobs)} jobs and refuses more; the same command again submits the "
                f"others when there is room (CIM_DG_SLURM_JOBS puts several into a task): {said}"
            ) from None
        for handle, task in zip(handles, array, strict=True):
            note_submitted(task, handle.job_id)
        submitted += sum(map(len, array))
        print(f"Submitted {sum(map(len, array))} jobs: {handles[0].job_id} to {handles[-1].job_id}.")
    print(f"What they print is in {folder}; how they stand: cim-dg status {shlex.quote(str(folder.parent))}")


def _not_queued(jobs: Sequence[Job]) -> list[Job]:
    """The jobs that Slurm does not have yet."""
    queued = {parent: queued_in_slurm(parent) for parent in {job.folder.parent for job in jobs}}
    others = [job for job in jobs if job.folder.name not in queued[job.folder.parent]]
    if len(others) < len(jobs):
        print(f"{len(jobs) - len(others)} jobs are in Slurm's queue already and are not submitted again.")
    return others


def _clean(folder: Path) -> None:
    """Remove submitit's files that are older than a week, except those of tasks that Slurm has."""
    queued = {number.partition("_")[0] for number in slurm_numbers()}
    for path in folder.glob("*") if folder.is_dir() else ():
        old = time.time() - path.stat().st_mtime > KEPT_DAYS * 24 * 3600
        if old and path.is_file() and path.name.partition("_")[0] not in queued:
            path.unlink(missing_ok=True)
