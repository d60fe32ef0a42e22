"""Sweeps of WILDS by the launchers of clusters, disturbed: jobs go on where they were, to the results of a sweep in
peace."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chaos
import pytest
import slurm_cluster
import tiny_wilds_sweep
from worker_jobs import is_running, until

from cim_dg import cli
from cim_dg.launchers.notes import slurm_numbers

EPOCHS = 40
"""Enough for a job to be still in the middle when a busy machine sees that it is."""


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command of a sweep of two jobs, in a folder of its own, without the launcher."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIM_DG_CHECKPOINT_SECONDS", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tiny_wilds_sweep.write("out/jobs", batch_size=2, n_epochs=EPOCHS)


def is_finished(record: Path) -> bool:
    return record.exists() and json.loads(record.read_text())["finished"] is True


def in_the_middle() -> Path | None:
    """The folder of a job that has trained for some epochs and is not done."""
    for folder in Path("out/jobs").glob("waterbirds-*"):
        log = folder / "log.txt"
        if log.exists() and "Epoch [2]" in log.read_text() and not is_finished(folder / "run.json"):
            return folder.absolute()
    return None


def check_as_in_peace(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """The sweep is done, `status` and the table say so, and every record is that of a sweep by the launcher `local`."""
    capfd.readouterr()
    assert cli.main([*words, "--command_launcher", "local"]) == 0
    assert "2 jobs: 2 done" in (table := capfd.readouterr().out)
    assert cli.main(["status", "out"]) == 0
    assert "2 jobs: 2 done, 0 running, 0 failed" in capfd.readouterr().out
    assert any("Resuming from epoch" in log.read_text() for log in Path("out/jobs").glob("*/log.txt"))
    peace = [word.replace("out/jobs", "peace/jobs") for word in words]
    assert cli.main([*peace, "--command_launcher", "local"]) == 0
    in_peace = capfd.readouterr().out.replace("peace/jobs", "out/jobs")
    assert table[table.index("ERM") :].splitlines()[-3:] == in_peace[in_peace.index("ERM") :].splitlines()[-3:]
    disturbed, expected = (chaos.read(chaos.WILDS, Path(name)) for name in ("out", "peace"))
    assert len(expected) == 2 and disturbed == expected


def test_multi_gpu_is_refused_where_there_is_no_gpu(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cim_dg.runtime.devices.gpus", lambda: [])
    assert cli.main([*words, "--command_launcher", "multi_gpu"]) == 2
    assert "the launcher multi_gpu needs a GPU and there is none; --command_launcher local" in capsys.readouterr().err


@pytest.mark.slow
def test_ray_with_a_machine_that_is_lost(
    two_machines: tuple[Any, list[Any]], words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    cluster, machines = two_machines
    lost: list[Path] = []

    def lose() -> None:
        until(lambda: in_the_middle() is not None, seconds=300)
        folder = in_the_middle()
        assert folder is not None
        for machine in machines:
            below = [chaos.family(process.pid) for _, process in machine.live_processes()]
            if any(str(folder) in command or folder.name in command for each in below for command in each.values()):
                cluster.remove_node(machine, allow_graceful=False)
                lost.append(folder)
                return

    losing = threading.Thread(target=lose)
    losing.start()
    assert cli.main([*words, "--command_launcher", "ray"]) == 0
    losing.join()
    assert len(lost) == 1
    assert "Resuming from epoch" in (lost[0] / "log.txt").read_text()
    check_as_in_peace(words, capfd)


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A real Slurm where it is installed, otherwise submitit's local executor."""
    pytest.importorskip("submitit")
    monkeypatch.setenv("CIM_DG_SLURM", "{gpus_per_node: null, cpus_per_task: 2, timeout_min: 10}")
    if not slurm_cluster.is_installed():
        monkeypatch.setenv("CIM_DG_SLURM", "{timeout_min: 10}")
        monkeypatch.setenv("CIM_DG_SLURM_CLUSTER", "local")
        yield
        return
    folder = Path(tempfile.mkdtemp(prefix="sl", dir="/tmp"))  # a short path: it holds a socket
    with slurm_cluster.slurm(folder):
        yield
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.usefixtures("slurm")
def test_slurm_with_jobs_that_are_cancelled(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Both jobs in one task, side by side in warm processes."""
    monkeypatch.setenv("CIM_DG_SLURM_JOBS", "2")
    monkeypatch.setenv("CIM_DG_JOBS", "2")
    words += ["--command_launcher", "slurm"]
    assert cli.main(words) == 0
    assert "Submitted 2 jobs" in (out := capfd.readouterr().out) and "The jobs are submitted." in out
    until(lambda: in_the_middle() is not None, seconds=300)
    noted = Path("out/jobs/.cim-dg/slurm.txt").read_text().split()[0]
    if slurm_cluster.is_installed():
        assert slurm_numbers() == {noted}
        assert cli.main(words) == 0
        assert "jobs are in Slurm's queue already" in (out := capfd.readouterr().out) and "Submitted" not in out
        subprocess.run(["scancel", "--signal=KILL", "--full", noted], check=True)
        until(lambda: not slurm_numbers(), seconds=60)
    else:
        killed = [
            pid for pid, command in chaos.family(os.getpid()).items() if "submitit" in command or "cim_dg" in command
        ]
        for pid in killed:
            os.kill(pid, 9)
        until(lambda: not any(map(is_running, killed)))
    records = [Path("out/jobs", f"waterbirds-{method}-seed0", "run.json") for method in ("ERM", "CIM")]
    unfinished = sum(not is_finished(record) for record in records)
    assert cli.main(words) == 0
    assert f"Submitted {unfinished} jobs" in capfd.readouterr().out
    until(lambda: all(map(is_finished, records)), seconds=300)
    check_as_in_peace(words[:-2], capfd)
