"""The launcher `ray`: jobs on a Ray cluster, or on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from tqdm import tqdm

from cim_dg.errors import UserError
from cim_dg.launchers.job import Ending, Job, passed_on, run
from cim_dg.runtime import settings


def ray_launcher(jobs: Sequence[Job]) -> dict[Job, Ending]:
    """Run the jobs on the cluster of RAY_ADDRESS, on one that runs here, or else on a new local one.

    CIM_DG_GPUS_PER_JOB (0.25 puts four jobs on a GPU; default 1, or 0 in a cluster without any) and CIM_DG_CPUS_PER_JOB
    (default 1) set a job's share. A job whose worker or machine dies is started again, at most CIM_DG_RETRIES times
    (default 2). It shows a progress bar on stderr. If it is interrupted or killed, its jobs end too.

    Every machine needs the same environment and shared folders for the data and the results.

    Raises:
        UserError: Ray is not installed, there is no such cluster, or a setting is not accepted.
    """
    try:
        import ray
    except ImportError:
        raise UserError("the launcher ray needs Ray: pip install 'cim-dg[ray]'") from None
    gpus, cpus, retries = (settings.get(f"CIM_DG_{name}") for name in ("GPUS_PER_JOB", "CPUS_PER_JOB", "RETRIES"))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use over the network
    try:
        # An existing cluster accepts each of these arguments too.
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    except ConnectionError:
        place = os.environ.get("RAY_ADDRESS", "the address that Ray has noted down")
        raise UserError(f"there is no Ray cluster at {place}; RAY_ADDRESS=local starts one here") from None
    endings: dict[Job, Ending] = {}
    try:
        if gpus is None:
            gpus = 1 if ray.cluster_resources().get("GPU") else 0
        _check_fits(gpus, cpus)
        task = ray.remote(run).options(num_cpus=cpus, num_gpus=gpus, max_retries=retries)
        variables = passed_on(max(1, int(cpus)))
        running = {task.remote(job, variables): job for job in jobs}
        with tqdm(total=len(jobs), unit="job", desc="jobs") as bar:
            while running:
                (ended,), _ = ray.wait(list(running))
                job = running.pop(ended)
                try:
                    endings[job] = ray.get(ended)
                except ray.exceptions.RayError as error:
                    endings[job] = Ending(None, str(error).strip().splitlines()[0])
                if failed := sum(ending.failure(job) is not None for job, ending in endings.items()):
                    bar.set_postfix(failed=failed)
                bar.update()
    finally:
        ray.shutdown()
    return endings


def _check_fits(gpus: float, cpus: float) -> None:
    """Refuse jobs that would wait forever.

    Raises:
        UserError: no machine of the cluster has a job's share.
    """
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(machine.get("GPU", 0) >= gpus and machine.get("CPU", 0) >= cpus for machine in machines):
        largest = ", ".join(
            f"{machine.get('GPU', 0):g} GPUs and {machine.get('CPU', 0):g} CPUs" for machine in machines
        )
        raise UserError(
            f"a job is to get {gpus:g} GPUs (CIM_DG_GPUS_PER_JOB) and {cpus:g} CPUs (CIM_DG_CPUS_PER_JOB), more than "
            f"any machine of the cluster has: {largest}"
        )
