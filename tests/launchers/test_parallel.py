from __future__ import annotations

import shlex
import sys

import pytest

from cim_dg.errors import UserError
from cim_dg.launchers.parallel import checked, parallel


def command(code: str) -> str:
    return f"python -c {shlex.quote(code)}"


def test_parallel_runs_every_command_with_this_python_side_by_side(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("CIM_DG_JOBS", "2")
    # Each waits for the other to have started: one after the other they would never end.
    meet = (
        "import sys, os, time, pathlib; p = pathlib.Path({folder!r})\n"
        "(p / {mine!r}).write_text(sys.executable + ' ' + os.environ['OMP_NUM_THREADS'])\n"
        "while not (p / {other!r}).exists(): time.sleep(0.02)"
    )
    folder = str(tmp_path)
    parallel([command(meet.format(folder=folder, mine=a, other=b)) for a, b in (("a", "b"), ("b", "a"))])
    for name in "ab":
        python, threads = (tmp_path / name).read_text().rsplit(" ", 1)
        assert python == sys.executable
        assert int(threads) >= 1
    assert "2/2" in capfd.readouterr().err


def test_a_failed_job_leaves_the_others_running_and_is_named(tmp_path, capfd):
    commands = [command("raise ValueError('no such thing')"), command(f"open({str(tmp_path / 'done')!r}, 'w')")]
    with pytest.raises(SystemExit) as raised:
        parallel(commands)
    assert raised.value.code == 1
    assert (tmp_path / "done").exists()
    error = capfd.readouterr().err
    assert "1 of 2 jobs failed" in error and "exit code 1: ValueError: no such thing" in error


@pytest.mark.parametrize("value", ["0", "two", "-1"])
def test_a_bad_number_of_jobs_is_refused(monkeypatch, value):
    monkeypatch.setenv("CIM_DG_JOBS", value)
    with pytest.raises(UserError, match=f"CIM_DG_JOBS is '{value}'; accepted is a whole number of at least 1"):
        parallel([])


class TestPythonOnPath:
    """Upstream's launchers start whatever `python` is on PATH."""

    @pytest.fixture
    def launched(self):
        return []

    @pytest.fixture
    def launch(self, launched):
        return checked(lambda commands: launched.extend(commands), {"CIM", "NuisanceDigits"})

    def jobs(self, folder, algorithm):
        (folder / "job").mkdir()
        return [f"python -m domainbed.scripts.train --algorithm {algorithm} --output_dir {folder / 'job'}"]

    def test_without_one_our_jobs_are_refused_and_leave_nothing(self, tmp_path, monkeypatch, launch, launched, capsys):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(SystemExit) as raised:
            launch(self.jobs(tmp_path, "CIM"))
        assert raised.value.code == 2 and not launched
        assert "there is no `python` on PATH" in capsys.readouterr().err
        assert not (tmp_path / "job").exists()

    def test_one_that_lacks_us_is_named(self, tmp_path, monkeypatch, launch, launched, capsys):
        (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "python").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(SystemExit):
            launch(self.jobs(tmp_path, "CIM"))
        assert f"the `python` on PATH, {tmp_path / 'python'}" in capsys.readouterr().err

    def test_upstreams_own_jobs_are_left_to_upstream(self, tmp_path, monkeypatch, launch, launched):
        monkeypatch.setenv("PATH", str(tmp_path))
        jobs = self.jobs(tmp_path, "ERM")
        launch(jobs)
        assert launched == jobs

    def test_one_that_knows_us_is_used(self, tmp_path, monkeypatch, launch, launched):
        (tmp_path / "python").write_text("#!/bin/sh\nexit 0\n")
        (tmp_path / "python").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        jobs = self.jobs(tmp_path, "CIM")
        launch(jobs)
        assert launched == jobs
