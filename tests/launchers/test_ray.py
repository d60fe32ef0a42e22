"""The launcher `ray`, on a cluster of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from worker_jobs import job, until

from cim_dg.domainbed import launchers
from cim_dg.errors import RunError, UserError
from cim_dg.launchers import launch

KILL_THE_WORKER = "import os, signal, time; os.kill(os.getppid(), signal.SIGKILL); time.sleep(5)"
TRAIN = "--algorithm ERM --dataset Debug28 --data_dir none --steps 7 --checkpoint_freq 3 --skip_model_save"
TRAIN += """ --hparams '{"batch_size": 8}'"""


def test_without_ray_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match=r"^the launcher ray needs Ray: pip install 'cim-dg\[ray\]'$"):
        launchers.launcher("ray")([f"python -m domainbed.scripts.train --output_dir {tmp_path / 'a'}"])
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def on_a_cluster_of_its_own(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "local")


@pytest.mark.slow
@pytest.mark.usefixtures("on_a_cluster_of_its_own")
def test_retries_failures_and_successes(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIM_DG_RETRIES", "1")
    seen = "open('seen', 'w').write(' '.join([sys.executable, os.environ['OMP_NUM_THREADS'], os.getcwd()]))"
    once = f"import os; again = os.path.exists('tried'); open('tried', 'w')\nif not again: {KILL_THE_WORKER}\n"
    jobs = [
        job(tmp_path / "good", f"import os, sys; {seen}"),
        job(tmp_path / "bad", "raise ValueError('no such thing')"),
        # The worker of the first attempt is killed; had the job outlived it, there would be a ghost.
        job(tmp_path / "unlucky", f"{once}open('second' if again else 'ghost', 'w')"),
        job(tmp_path / "deadly", f"open('deadly.txt', 'a').write('x'); {KILL_THE_WORKER}; open('ghost', 'w')"),
    ]
    with pytest.raises(RunError) as raised:
        launch("ray", jobs)
    assert Path("seen").read_text() == f"{sys.executable} 1 {tmp_path}"
    assert Path("second").exists() and not Path("ghost").exists()
    assert Path("deadly.txt").read_text() == "xx"
    error = str(raised.value)
    assert "2 of 4 jobs failed" in error and "4/4" in capfd.readouterr().err
    assert "exit code 1: ValueError: no such thing" in error
    assert "died" in error[error.index("deadly.txt") :]


@pytest.mark.slow
@pytest.mark.usefixtures("on_a_cluster_of_its_own")
def test_a_job_that_no_machine_can_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("CIM_DG_CPUS_PER_JOB", "100000")
    with pytest.raises(UserError, match=r"100000 CPUs \(CIM_DG_CPUS_PER_JOB\), more than any machine of the cluster"):
        launch("ray", [job(tmp_path / "a", "")])


def train_with_a_worker_killed(folder: Path) -> list[int]:
    """Train by Ray, kill the worker after the first checkpoint; returns the steps of the checkpoints in the end."""
    results = folder / "results.jsonl"
    killed: list[int] = []

    def kill() -> None:
        until(lambda: results.exists() and len(results.read_text().splitlines()) >= 1, seconds=120)
        killed.append(worker_of(folder))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    folder.mkdir(parents=True)
    launchers.launcher("ray")([f"python -m domainbed.scripts.train {TRAIN} --output_dir {folder}"])
    killer.join()
    assert killed
    assert (folder / "done").exists()
    return [json.loads(line)["step"] for line in results.read_text().splitlines()]


def worker_of(folder: Path) -> int:
    """The process that has started the training in `folder`; its loaders' processes have the same command line."""
    parents = {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if {"domainbed.scripts.train", str(folder)} <= set((place / "cmdline").read_text().split("\0")):
                parents[int(place.name)] = int((place / "stat").read_text().rsplit(") ", 1)[1].split()[1])
    (worker,) = set(parents.values()) - set(parents)
    return worker


@pytest.mark.slow
@pytest.mark.usefixtures("on_a_cluster_of_its_own")
def test_a_killed_training_of_the_standin_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train_with_a_worker_killed(tmp_path / "sweep" / "job") == [0, 3, 6]


@pytest.mark.slow
@pytest.mark.harness
@pytest.mark.usefixtures("on_a_cluster_of_its_own")
def test_a_killed_training_of_the_real_domainbed_starts_anew(real, tmp_path, monkeypatch):
    monkeypatch.chdir(real.root)
    monkeypatch.setattr(sys, "path", [str(real.root), *sys.path])
    monkeypatch.setattr("cim_dg.domainbed.launchers.is_standin", lambda: False)
    assert train_with_a_worker_killed(tmp_path / "sweep" / "job") == [0, 3, 6]


def ancestors(pid: int) -> list[int]:
    """The processes above a process, its parent first."""
    actual: list[int] = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()[1])
        actual.append(pid)
    return actual


@pytest.mark.slow
def test_a_machine_of_a_cluster_that_is_lost_costs_its_jobs_nothing(two_machines, tmp_path, monkeypatch):
    """A head without room for jobs and two workers' machines, of which one is killed with the job that it runs."""
    cluster, machines = two_machines
    monkeypatch.chdir(tmp_path)
    code = (
        "import os, time; again = os.path.exists('tried')\n"
        "open('tried', 'a').write(f'{os.getpid()} ')\n"
        "while not again: time.sleep(0.1)"
    )
    jobs = [job(tmp_path / "sweep" / "lost", code), job(tmp_path / "sweep" / "other", "")]

    def kill() -> None:
        until(lambda: Path("tried").exists(), seconds=120)
        until(lambda: (tmp_path / "sweep" / "other" / "done").exists(), seconds=120)
        above = ancestors(int(Path("tried").read_text()))
        (machine,) = (m for m in machines if {process.pid for _, process in m.live_processes()} & set(above))
        # Of a machine that is lost nothing is heard: its worker must not report that the job was killed.
        worker = above[0]
        os.kill(worker, signal.SIGSTOP)
        cluster.remove_node(machine, allow_graceful=False)
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    launch("ray", jobs)
    killer.join()
    assert len(Path("tried").read_text().split()) == 2
    assert all(one.is_done() for one in jobs)
