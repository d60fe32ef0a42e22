"""The launcher `pool` over a real DomainBed: its results are those of `local`, whatever is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from real_domainbed import RealDomainBed, results_of
from worker_jobs import children_of, is_running, until

from cim_dg.launchers.notes import NOTES
from cim_dg.runtime import locks

pytestmark = [pytest.mark.harness, pytest.mark.slow]

FLAGS = "--algorithms CIM --n_trials 1 --n_hparams 1 --steps 50 --single_test_envs --data_dir none --skip_confirmation"
HPARAMS = ["--hparams", json.dumps({"batch_size": 8})]
Start = Callable[..., subprocess.Popen[str]]


def flags(folder: Path, launcher: str, *datasets: str) -> list[str]:
    where = ["--output_dir", str(folder), "--command_launcher", launcher, "--datasets", *(datasets or ["Debug28"])]
    return ["launch", *FLAGS.split(), *HPARAMS, *where]


@pytest.fixture(scope="module")
def local(real: RealDomainBed, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the jobs leave by the launcher `local`."""
    folder = tmp_path_factory.mktemp("local")
    real.script("sweep", *flags(folder, "local"))
    return left_by(folder)


@pytest.fixture
def start(real: RealDomainBed, tmp_path: Path, two_cores: None) -> Iterator[Start]:
    """Start the sweep by the launcher `pool` in `tmp_path`."""
    started: list[subprocess.Popen[str]] = []

    def start(*datasets: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "domainbed.scripts.sweep", *flags(tmp_path, "pool", *datasets)]
        unset = {"CIM_DG_JOBS", "OMP_NUM_THREADS"}
        variables = {name: value for name, value in os.environ.items() if name not in unset}
        started.append(
            subprocess.Popen(
                command,
                cwd=real.root,
                env=variables | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def left_by(folder: Path) -> dict[str, Any]:
    """What each finished job has left, by its test environment: files, records and the model's parameters."""
    left = {}
    for job in (path for path in folder.iterdir() if path.name != NOTES):
        records = results_of(job)
        for record in records:
            del record["step_time"], record["mem_gb"], record["args"]["output_dir"]
        model = torch.load(job / "model.pkl", weights_only=False)["model_dict"]
        parameters = {name: value.tolist() for name, value in model.items()}
        left[str(records[0]["args"]["test_envs"])] = sorted(os.listdir(job)), records, parameters
    return left


def job_in_the_middle(folder: Path) -> Path:
    """Wait for a running job with a record."""
    jobs: list[Path] = []

    def found() -> bool:
        running = (path.parent for path in folder.glob("*/results.jsonl") if not (path.parent / "done").exists())
        jobs.extend(job for job in running if locks.is_claimed(job))
        return bool(jobs)

    until(found, 240)
    return jobs[0]


def test_results_and_files_are_those_of_local(local: dict[str, Any], start: Start, tmp_path: Path) -> None:
    launch = start()
    out, _ = launch.communicate(timeout=300)
    assert launch.returncode == 0, out
    assert len(local) == 3
    assert left_by(tmp_path) == local


def test_a_killed_job_and_a_killed_worker_cost_nothing_but_time(
    local: dict[str, Any], start: Start, tmp_path: Path
) -> None:
    launch = start()
    job_in_the_middle(tmp_path)
    workers = children_of(launch.pid)
    (job,) = (job for worker in workers for job in children_of(worker)[:1] if worker == workers[0])
    os.kill(job, signal.SIGKILL)
    os.kill(workers[1], signal.SIGKILL)
    out, _ = launch.communicate(timeout=300)
    assert launch.returncode == 0, out
    assert left_by(tmp_path) == local


def test_a_failing_job_is_named_and_the_others_are_done(start: Start, local: dict[str, Any], tmp_path: Path) -> None:
    launch = start("Debug28", "VLCS")
    out, _ = launch.communicate(timeout=300)
    assert launch.returncode == 1
    assert "4 of 7 jobs failed:" in out
    assert out.count("exit code 1: `cim-dg data get VLCS --data_dir none` gets VLCS") == 2 and "and 2 others" in out
    assert len(list(tmp_path.glob("*/done"))) == 3
    tracebacks = [text for path in tmp_path.glob("*/err.txt") if (text := path.read_text())]
    assert len(tracebacks) == 4 and all("FileNotFoundError" in text for text in tracebacks)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_sweep_leaves_no_process_and_no_job_that_seems_launched(
    how: signal.Signals, real: RealDomainBed, start: Start, local: dict[str, Any], tmp_path: Path
) -> None:
    launch = start()
    job_in_the_middle(tmp_path)
    workers = children_of(launch.pid)
    processes = [*workers, *(job for worker in workers for job in children_of(worker))]
    assert len(processes) >= 3
    if how is signal.SIGINT:
        os.killpg(launch.pid, how)  # as a terminal does
    else:
        launch.kill()
    out, _ = launch.communicate(timeout=60)
    assert launch.returncode == (130 if how is signal.SIGINT else -how), out
    assert "Traceback" not in out
    until(lambda: not any(map(is_running, processes)))
    real.script("sweep", "delete_incomplete", *flags(tmp_path, "pool")[1:])
    again = start()
    out, _ = again.communicate(timeout=300)
    assert again.returncode == 0, out
    assert left_by(tmp_path) == local
