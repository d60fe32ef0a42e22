"""The launcher `slurm` on a real Slurm: Debian's slurmctld, slurmd and munge, brought up on this machine.

apt-get install --no-install-recommends slurmctld slurmd slurm-client munge
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm_cluster
from worker_jobs import job, until

from cim_dg.errors import UserError
from cim_dg.launchers import Job, launch, notes
from cim_dg.launchers.notes import queued_in_slurm, slurm_numbers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.slurm,
    pytest.mark.skipif(not slurm_cluster.is_installed(), reason="needs Slurm and munge, and root to start them"),
]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    pytest.importorskip("submitit")
    folder = Path(tempfile.mkdtemp(prefix="sl", dir="/tmp"))  # a short path: it holds a socket
    with slurm_cluster.slurm(folder):
        yield
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    # There is no GPU to ask for.
    monkeypatch.setenv("CIM_DG_SLURM", "{gpus_per_node: null, cpus_per_task: 1, timeout_min: 5}")


def all_ended() -> bool:
    return not slurm_numbers()


def waiting_for(folder: Path, name: str) -> Job:
    """A job that runs until there is a file `name`."""
    return job(folder, f"import os, time\nwhile not os.path.exists({str(folder.parent / name)!r}): time.sleep(0.1)")


def test_jobs_run_fail_and_are_not_submitted_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = tmp_path / "sweep"
    jobs = [
        job(sweep / "good", ""),
        job(sweep / "bad", "raise ValueError('no such thing')"),
        waiting_for(sweep / "long", "go"),
        waiting_for(sweep / "longer", "go"),
    ]
    launch("slurm", jobs)
    until(lambda: (sweep / "good" / "done").exists() and (sweep / ".cim-dg" / "bad.json").exists(), 60)
    assert (
        json.loads((sweep / ".cim-dg" / "bad.json").read_text())["reason"] == "exit code 1: ValueError: no such thing"
    )
    until(lambda: queued_in_slurm(sweep) == {"long", "longer"})
    assert notes.busy([one.folder for one in jobs]) >= {sweep / "long", sweep / "longer"}
    launch("slurm", jobs[2:])
    assert "2 jobs are in Slurm's queue already" in capsys.readouterr().out
    (sweep / "go").touch()
    until(all_ended, 60)
    assert all((sweep / name / "done").exists() for name in ("long", "longer"))


def test_several_jobs_in_one_allocation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm processes within a task run them side by side: each waits for the other."""
    monkeypatch.setenv("CIM_DG_SLURM_JOBS", "2")
    monkeypatch.setenv("CIM_DG_SLURM", "{gpus_per_node: null, cpus_per_task: 2, timeout_min: 5}")
    monkeypatch.setenv("CIM_DG_JOBS", "2")
    (tmp_path / "entries.py").write_text(
        "import os, time\n"
        "def main(arguments):\n"
        "    mine, other = arguments\n"
        "    open(mine + '/started', 'w').write(os.environ['SLURM_JOB_ID'])\n"
        "    while not os.path.exists(other + '/started'): time.sleep(0.1)\n"
        "    open(mine + '/done', 'w').close()\n"
        "    return 0\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    folders = [tmp_path / "sweep" / name for name in "ab"]
    jobs = []
    for mine, other in (folders, folders[::-1]):
        mine.mkdir(parents=True)
        jobs.append(Job(("python", "x"), mine, True, entry="entries:main", arguments=(str(mine), str(other))))
    launch("slurm", jobs)
    until(lambda: all(one.is_done() for one in jobs), 120)
    assert len({(folder / "started").read_text() for folder in folders}) == 1
    until(all_ended, 60)


def test_a_preempted_job_is_queued_again_and_its_training_ends_with_it(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    code = (
        "import os, time; again = os.path.exists('tried'); open('tried', 'a').write(f'{os.getpid()}\\n')\n"
        "while not again: time.sleep(0.1)"
    )
    launch("slurm", [job(sweep / "preempted", code)])
    until((tmp_path / "tried").exists, 60)
    (number,) = slurm_numbers()
    # As Slurm does before it takes the node: to every process of the step, the training included.
    subprocess.run(["scancel", "--signal=USR2", number], check=True)
    until((sweep / "preempted" / "done").exists, 120)
    first, second = (tmp_path / "tried").read_text().split()
    assert first != second
    until(lambda: not Path(f"/proc/{first}").exists())
    assert not (sweep / ".cim-dg" / "preempted.json").exists()  # it is no failure
    until(all_ended, 60)


def test_what_sbatch_refuses_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIM_DG_SLURM", "{gpus_per_node: null, slurm_partition: nowhere}")
    with pytest.raises(UserError, match=r"Slurm takes none of the jobs: .*invalid partition"):
        launch("slurm", [job(tmp_path / "sweep" / "a", "")])
    assert not (tmp_path / "sweep" / ".cim-dg").exists()
