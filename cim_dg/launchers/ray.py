"""The launcher `ray`: a sweep's jobs on a Ray cluster, or on this machine."""

from __future__ import annotations

import logging
import os

from cim_dg.errors import UserError
from cim_dg.launchers import jobs
from cim_dg.runtime import settings


def ray_launcher(commands: list[str]) -> None:
    """Run the commands on the cluster that RAY_ADDRESS names, on one running here, or else on a local one of its own.

    CIM_DG_GPUS_PER_JOB (0.25 puts four jobs on a GPU; default 1, or 0 in a cluster without any) and CIM_DG_CPUS_PER_JOB
    (default 1) say what a job gets. One whose worker or machine dies is started again, CIM_DG_RETRIES times at most
    (default 2). Shows a progress bar on stderr. A job that fails leaves the others running; at the end the exit code is
    1 and the failures are named. Interrupted or killed, it takes its jobs with it.

    Every machine needs the same environment and shared folders for the data and the results.

    Raises:
        UserError: Ray is not installed, there is no such cluster, or a setting is not what is accepted.
    """
    from tqdm import tqdm

    try:
        import ray
    except ImportError:
        raise UserError("the launcher ray needs Ray: pip install 'cim-dg[ray]'") from None
    gpus, cpus, retries = (settings.get(f"CIM_DG_{name}") for name in ("GPUS_PER_JOB", "CPUS_PER_JOB", "RETRIES"))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use over the network
    try:
        # Each argument is one that an existing cluster takes too.
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    except ConnectionError:
        place = os.environ.get("RAY_ADDRESS", "the address that Ray has noted down")
        raise UserError(f"there is no Ray cluster at {place}; RAY_ADDRESS=local starts one here") from None
    try:
        if gpus is None:
            gpus = 1 if ray.cluster_resources().get("GPU") else 0
        _check_fits(gpus, cpus)
        task = ray.remote(jobs.run_on_worker).options(num_cpus=cpus, num_gpus=gpus, max_retries=retries)
        shared = (os.getcwd(), _variables(cpus), jobs.is_standin())
        running = {task.remote(command, *shared): command for command in commands}
        failures = []
        with tqdm(total=len(commands), unit="job", desc="jobs") as bar:
            while running:
                (ended,), _ = ray.wait(list(running))
                command = running.pop(ended)
                try:
                    failure = ray.get(ended)
                except ray.exceptions.RayError as error:
                    failure = f"{command}\n    {str(error).strip().splitlines()[0]}"
                if failure is not None:
                    failures.append(failure)
                    bar.set_postfix(failed=len(failures))
                bar.update()
    finally:
        ray.shutdown()
    jobs.report(failures, len(commands))


def _variables(cpus: float) -> dict[str, str]:
    """What a job is to find in its environment: workers have that in which their cluster was started."""
    ours = {name: value for name, value in os.environ.items() if name.startswith((settings.PREFIX, "WANDB_"))}
    if "PYTHONPATH" in os.environ:
        ours["PYTHONPATH"] = os.environ["PYTHONPATH"]
    return ours | {"OMP_NUM_THREADS": str(max(1, int(cpus)))}


def _check_fits(gpus: float, cpus: float) -> None:
    """Refuse jobs that would wait for ever.

    Raises:
        UserError: no machine of the cluster has as much as a job is to get.
    """
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(one.get("GPU", 0) >= gpus and one.get("CPU", 0) >= cpus for one in machines):
        largest = ", ".join(f"{one.get('GPU', 0):g} GPUs and {one.get('CPU', 0):g} CPUs" for one in machines)
        raise UserError(
            f"a job is to get {gpus:g} GPUs (CIM_DG_GPUS_PER_JOB) and {cpus:g} CPUs (CIM_DG_CPUS_PER_JOB), more than "
            f"any machine of the cluster has: {largest}"
        )
