"""The launcher `slurm`: a sweep's jobs as array jobs of Slurm, through submitit."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from getpass import getuser
from pathlib import Path
from typing import Any

from cim_dg.errors import RunError, UserError
from cim_dg.launchers import jobs
from cim_dg.runtime import settings

DEFAULTS = {"name": "cim-dg", "timeout_min": 24 * 60, "gpus_per_node": 1, "cpus_per_task": 8}
LARGEST_ARRAY = 1000  # Slurm's MaxArraySize is 1001 if nothing else is configured
TIME_OUTS = 100
FOLDER = "submitit"


@dataclass(frozen=True)
class Job:
    """A job as submitit runs it on a node; before a time limit or when preempted, submitit asks what to queue again."""

    folder: str
    resumes: bool

    def __call__(self, command: str) -> None:
        """Run it.

        Raises:
            RunError: it failed; Slurm then says so of its job too.
        """
        if failure := jobs.run_on_worker(command, self.folder, {}, self.resumes):
            raise RunError(failure)

    def checkpoint(self, command: str) -> Any:
        """The same again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, command)


def slurm_launcher(commands: list[str]) -> None:
    """Submit the commands as array jobs, and return without waiting for them.

    CIM_DG_SLURM holds submitit's parameters in YAML or JSON, such as '{"slurm_partition": "gpu", "timeout_min": 240,
    "mem_gb": 32, "slurm_array_parallelism": 64}'; without it a job gets a day, a GPU and eight cores. One that is
    preempted is queued again, and so is one at its time limit where jobs resume: the stand-in's do. Jobs that are in
    the queue already are not submitted again. submitit's scripts and logs are in the folder `submitit` beside those of
    the jobs, which must be on a shared disk. CIM_DG_SLURM_CLUSTER=local starts all jobs at once here, as a trial.

    Raises:
        UserError: submitit or Slurm is not there, or the parameters are not right.
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
    parameters = _parameters(cluster)
    if not commands:
        return
    folder = Path(jobs.output_dir(commands[0])).parent
    waiting = queued(folder)
    to_submit = [command for command in commands if Path(jobs.output_dir(command)).name not in waiting]
    if len(to_submit) < len(commands):
        print(f"{len(commands) - len(to_submit)} jobs are in Slurm's queue already and are not submitted again.")
    job = Job(os.getcwd(), jobs.is_standin())
    # A job that starts anew each time would meet its time limit for ever.
    time_outs = TIME_OUTS if job.resumes else 0
    try:
        executor = submitit.AutoExecutor(folder / FOLDER, cluster=cluster, slurm_max_num_timeout=time_outs)
        executor.update_parameters(**parameters)
        for start in range(0, len(to_submit), LARGEST_ARRAY):
            array = to_submit[start : start + LARGEST_ARRAY]
            submitted = executor.map_array(job, array)
            with open(folder / FOLDER / "jobs.txt", "a", encoding="utf-8") as file:
                for one, command in zip(submitted, array, strict=True):
                    file.write(f"{one.job_id} {Path(jobs.output_dir(command)).name}\n")
            print(f"Submitted {len(array)} jobs: {submitted[0].job_id} to {submitted[-1].job_id}.")
    except (NameError, AssertionError, TypeError, ValueError, FailedJobError, FailedSubmissionError) as error:
        raise UserError(f"CIM_DG_SLURM is not what submitit or Slurm accepts: {' '.join(str(error).split())}") from None
    print(f"What they print is in {folder / FOLDER}; how they stand: cim-dg status {folder}")


def queued(folder: Path) -> set[str]:
    """The names of those jobs' folders in `folder` that Slurm still has pending or running."""
    noted = folder / FOLDER / "jobs.txt"
    if not noted.exists() or shutil.which("squeue") is None:
        return set()
    squeue = ["squeue", "--noheader", "--array", "--user", getuser(), "--format", "%i"]
    asked = subprocess.run(squeue, capture_output=True, text=True, check=False)
    if asked.returncode:
        raise UserError(f"squeue cannot be asked which jobs are queued: {asked.stderr.strip()}")
    ids = set(asked.stdout.split())
    pairs = (line.split(" ", 1) for line in noted.read_text(encoding="utf-8").splitlines())
    return {name for number, name in pairs if number in ids}


def _parameters(cluster: str) -> dict[str, Any]:
    # The local executor would hide all GPUs but as many as are asked for, and there may be none.
    defaults = DEFAULTS if cluster == "slurm" else DEFAULTS | {"gpus_per_node": 0}
    return {**defaults, **settings.get("CIM_DG_SLURM")}
