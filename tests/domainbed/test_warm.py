"""Jobs of a DomainBed in forks of a warm process: what each gets, leaves and ends with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import cim_dg
from cim_dg.domainbed.launchers import REAL_ENTRY
from cim_dg.launchers import Job
from cim_dg.launchers.machine import WarmProcesses

TRAIN = """
import os, signal, sys
from domainbed import algorithms
from cim_dg.runtime import locks
from cim_dg.domainbed.shared_loaders import SharedDataLoader
import torch.utils.data
if __name__ == "__main__":
    how, folder = sys.argv[1], sys.argv[sys.argv.index("--output_dir") + 1]
    algorithms.jobs.append(folder)
    print("the last record")
    if how == "--fail":
        raise ValueError("no such thing")
    if how == "--die":
        os.kill(os.getpid(), signal.SIGKILL)
    assert locks.is_claimed(folder) and torch.utils.data.DataLoader is SharedDataLoader
    with open(os.path.join(folder, "done"), "w") as file:
        print(os.getpid(), os.getppid(), len(algorithms.jobs), file=file)
"""


@pytest.mark.slow
@pytest.mark.skipif(REAL_ENTRY is None, reason="jobs are forked on Linux only")
def test_each_job_is_a_fork_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = tmp_path / "domainbed" / "scripts"
    scripts.mkdir(parents=True)
    (tmp_path / "domainbed" / "algorithms.py").write_text("jobs = []\n")
    (scripts / "train.py").write_text(TRAIN)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(cim_dg.__file__).parents[1])]))
    monkeypatch.setenv("CIM_DG_RETRIES", "0")
    monkeypatch.delenv("CIM_DG_STANDIN", raising=False)
    warm, endings = WarmProcesses({"OMP_NUM_THREADS": "1"}), {}
    for name, how in (("a", "--good"), ("b", "--fail"), ("c", "--good"), ("d", "--die"), ("e", "--good")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "left by a killed attempt").touch()
        arguments = (how, "--output_dir", str(folder))
        command = ("python", "-m", "domainbed.scripts.train", *arguments)
        job = Job(command, folder, False, entry=REAL_ENTRY, arguments=arguments)
        endings[name] = warm.run(job).failure(job)
        assert not (folder / "left by a killed attempt").exists()
    warm.kill()
    assert endings == {
        "a": None,
        "b": "exit code 1: ValueError: no such thing",
        "c": None,
        "d": "its process died, by SIGKILL (out of memory?)",
        "e": None,
    }
    first, second, third = ((tmp_path / name / "done").read_text().split() for name in "ace")
    assert first[0] != second[0] and first[1] == second[1] != third[1]
    assert {first[2], second[2], third[2]} == {"1"}
