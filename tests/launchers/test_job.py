"""One job, wherever it runs: it is run once, whatever becomes of the process that runs it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from worker_jobs import is_running, job, until

from cim_dg.errors import LEFT, LeftToAnother, RunError, UserError
from cim_dg.launchers import Job, check, launch, notes
from cim_dg.launchers.job import Ending, clear, failures, note_failure, run
from cim_dg.runtime import devices, locks


def test_it_runs_in_its_folder_with_the_variables_and_this_python(tmp_path):
    code = "import os, sys; open('which', 'w').write(f\"{sys.executable} {os.environ['X']}\")"
    assert run(job(tmp_path / "a job", code, cwd=tmp_path), {"X": "3"}) == Ending(0)
    assert (tmp_path / "which").read_text() == f"{sys.executable} 3"
    assert Job(("pythonic", "python"), tmp_path, True).words() == ["pythonic", "python"]


def test_what_failed_is_told_with_its_last_line(tmp_path):
    failing = job(tmp_path / "a", "raise SystemExit('no such thing')")
    assert run(failing, {}).failure(failing) == "exit code 1: no such thing"


def test_exit_code_0_is_not_enough(tmp_path):
    lazy = Job((sys.executable, "-c", ""), tmp_path / "a", resumes=True)
    assert run(lazy, {}).failure(lazy) == "exit code 0: it is not done"


@pytest.mark.parametrize(("resumes", "lines"), [(True, "half\nwhole\n"), (False, "whole\n")])
def test_what_a_killed_attempt_left_is_kept_only_where_jobs_resume(tmp_path, resumes, lines):
    results = tmp_path / "a" / "results.jsonl"
    again = job(results.parent, f"open({str(results)!r}, 'a').write('whole\\n')", resumes)
    results.write_text("half\n")
    (results.parent / "tensorboard").mkdir()
    assert run(again, {}) == Ending(0)
    assert results.read_text() == lines
    assert (results.parent / "tensorboard").exists() == resumes


def test_a_job_that_is_done_is_not_run_again(tmp_path):
    again = job(tmp_path / "a", f"open({str(tmp_path / 'again')!r}, 'w')", resumes=False)
    (tmp_path / "a" / "done").write_text("done")
    assert run(again, {}) == Ending(0)
    assert not (tmp_path / "again").exists()
    assert (tmp_path / "a" / "done").exists()


@pytest.mark.parametrize(("record", "done"), [('{"finished": true}', 1), ('{"finished": false}', 0), ("[", 0)])
def test_a_record_can_tell_that_it_is_done(tmp_path, record, done):
    assert not Job((), tmp_path, True, "run.json", "finished").is_done()
    (tmp_path / "run.json").write_text(record)
    assert Job((), tmp_path, True, "run.json", "finished").is_done() == done


def test_a_claimed_job_is_left_and_nothing_of_it_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0)
    monkeypatch.setattr("cim_dg.launchers.DYING", 0)
    elsewhere = job(tmp_path / "a", "", resumes=False)
    (tmp_path / "a" / "results.jsonl").write_text("half\n")
    claimed = locks.claim(tmp_path / "a")
    assert claimed is not None
    with claimed:
        assert run(elsewhere, {}) == Ending(LEFT)
        with pytest.raises(LeftToAnother, match="1 jobs are run by another process"):
            launch("parallel", [elsewhere])
        assert not clear(tmp_path / "a", remove=True)
    assert (tmp_path / "a" / "results.jsonl").read_text() == "half\n"
    assert clear(tmp_path / "a", remove=True)
    assert not (tmp_path / "a").exists()


def test_a_job_that_starts_while_its_folder_is_removed_keeps_it(tmp_path, monkeypatch):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "out.txt").touch()
    rmdir = Path.rmdir

    def started_meanwhile(path):
        (path / locks.NAME).touch()
        rmdir(path)

    monkeypatch.setattr(Path, "rmdir", started_meanwhile)
    assert not clear(folder, remove=True)
    assert (folder / locks.NAME).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux kills the job")
def test_it_dies_with_a_process_that_is_killed(tmp_path):
    pid = tmp_path / "pid"
    code = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    script = (
        "from pathlib import Path; from cim_dg.launchers.job import Job, run; "
        f"run(Job(('python', '-c', {code!r}), Path({str(tmp_path)!r}), True), {{}})"
    )
    worker = subprocess.Popen([sys.executable, "-c", script])
    until(lambda: pid.exists() and pid.read_text() != "")
    assert is_running(int(pid.read_text()))
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    until(lambda: not is_running(int(pid.read_text())))


class TestLaunch:
    """What is common to all launchers."""

    def test_an_unknown_one(self, tmp_path):
        with pytest.raises(UserError, match="there is no launcher 'slrum'; there are local, parallel"):
            launch("slrum", [])

    def test_a_failed_job_leaves_the_others_running_and_is_named(self, tmp_path):
        jobs = [job(tmp_path / "bad", "raise ValueError('no such thing')"), job(tmp_path / "good", "")]
        with pytest.raises(
            RunError, match=r"1 of 2 jobs failed:\npython -c(.|\n)*exit code 1: ValueError: no such thing"
        ):
            launch("parallel", jobs)
        assert (tmp_path / "good" / "done").exists()

    def test_of_many_failed_jobs_two_are_named(self, tmp_path):
        jobs = [job(tmp_path / "a sweep" / name, "raise ValueError('no')") for name in "abcde"]
        with pytest.raises(RunError) as raised:
            launch("parallel", jobs)
        first, *lines, last = str(raised.value).splitlines()
        assert first == "5 of 5 jobs failed:"
        assert lines.count("    exit code 1: ValueError: no;") == 2
        assert last == f"and 3 others: cim-dg status '{tmp_path / 'a sweep'}'"

    def test_a_required_gpu_is_looked_for_before_anything_starts(self, tmp_path, monkeypatch):
        monkeypatch.setenv("CIM_DG_REQUIRE_GPU", "1")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(UserError, match="a GPU is required"):
            launch("local", [job(tmp_path / "a", "")])
        assert [path.name for path in tmp_path.rglob("*")] == ["a"]
        check("slurm")  # its jobs run on other machines
        (tmp_path / "a" / "done").touch()
        launch("local", [job(tmp_path / "a", "")])  # nothing is left to run

    def test_a_job_that_has_failed_too_often_is_not_started(self, tmp_path, monkeypatch):
        monkeypatch.setenv("CIM_DG_MAX_FAILURES", "2")
        bad = job(tmp_path / "bad", f"open({str(tmp_path / 'tried')!r}, 'a').write('x'); raise ValueError('no')")
        for _ in range(2):
            with pytest.raises(RunError, match="exit code 1: ValueError: no"):
                launch("parallel", [bad])
        with pytest.raises(
            RunError, match=r"it has failed 2 times and was not started.*the last time: exit code 1"
        ) as said:
            launch("parallel", [bad])
        assert f"(to start it: CIM_DG_MAX_FAILURES=3, or remove {bad.failures_file})" in str(said.value)
        assert (tmp_path / "tried").read_text() == "xx"
        monkeypatch.setenv("CIM_DG_MAX_FAILURES", "3")
        with pytest.raises(RunError):
            launch("parallel", [bad])
        assert (tmp_path / "tried").read_text() == "xxx"
        bad.failures_file.unlink()
        with pytest.raises(RunError):
            launch("parallel", [bad])
        assert (tmp_path / "tried").read_text() == "xxxx"

    def test_a_job_that_was_left_to_a_process_that_has_ended_runs_in_the_end(self, tmp_path, capsys):
        """As one of a machine that has died, whose lock NFS keeps until the lease runs out."""
        tried = tmp_path / "tried"
        code = f"import os; again = os.path.exists({str(tried)!r}); open({str(tried)!r}, 'a').write('x')\n"
        held = job(tmp_path / "held", code + f"if not again: raise SystemExit({LEFT})")
        launch("parallel", [held, job(tmp_path / "other", "")])
        assert held.is_done() and tried.read_text() == "xx"
        assert "1 jobs were left to processes that have ended since, and run now" in capsys.readouterr().err
        tried.unlink()
        always = job(tmp_path / "always", code + f"raise SystemExit({LEFT})")
        with pytest.raises(LeftToAnother):
            launch("parallel", [always])
        assert tried.read_text() == "xx"

    def test_a_job_whose_killed_process_is_still_ending_runs(self, tmp_path, monkeypatch):
        """As one that Ray gives to a new worker while the training of the killed worker still has the lock."""
        monkeypatch.setattr(locks, "PATIENCE", 0)
        held = job(tmp_path / "held", "", resumes=False)
        (tmp_path / "held" / "results.jsonl").write_text("half\n")
        dying = locks.claim(tmp_path / "held")
        assert dying is not None
        with contextlib.ExitStack() as stack:
            stack.enter_context(dying)
            ending = threading.Timer(1, stack.close)
            ending.start()
            launch("parallel", [held])
            ending.join()
        assert held.is_done()

    def test_jobs_that_are_done_are_not_looked_at(self, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "done").touch()
        launch("parallel", [Job(("false",), tmp_path / "a", True)])


class TestNotes:
    """Which folders must not be cleared."""

    def test_the_list_of_a_live_launcher_counts_and_that_of_a_dead_one_does_not(self, tmp_path):
        jobs = [job(tmp_path / variant / name, "") for variant in ("x", "y") for name in ("a", "b")]
        folders = [one.folder for one in jobs]
        with notes.announced(jobs[1:3]):
            assert notes.busy(folders) == {tmp_path / "x" / "b", tmp_path / "y" / "a"}
        assert notes.busy(folders) == set()
        assert not (tmp_path / "x" / ".cim-dg").exists()
        code = (
            "import os; from pathlib import Path; from cim_dg.launchers import Job, notes\n"
            f"with notes.announced([Job((), Path({str(folders[0])!r}), True)]): os._exit(0)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
        (note,) = (tmp_path / "x" / ".cim-dg").glob("launch-*")
        assert (note / "jobs.txt").read_text() == "a\n"
        assert notes.busy(folders) == set()

    def test_what_was_written_recently_counts_where_no_lock_tells(self, tmp_path):
        for name in ("fresh", "old", "stopped", "empty"):
            (tmp_path / name).mkdir()
        for name in ("fresh", "old", "stopped"):
            (tmp_path / name / "out.txt").touch()
        os.utime(tmp_path / "old" / "out.txt", (1000, 1000))
        (tmp_path / "stopped" / locks.NAME).touch()
        assert notes.busy(list(tmp_path.iterdir())) == {tmp_path / "fresh"}

    def test_folders_of_jobs_that_were_not_started_are_removed(self, tmp_path):
        jobs = [job(tmp_path / name, "") for name in ("a", "b", "c")]
        (tmp_path / "b" / "results.jsonl").touch()
        with notes.announced(jobs[2:]):
            notes.free([one.folder for one in jobs])
        assert {path.name for path in tmp_path.iterdir() if path.name != ".cim-dg"} == {"b", "c"}


def test_failures_are_noted_beside_the_folder(tmp_path):
    with pytest.raises(RunError):
        launch("parallel", [failing := job(tmp_path / "a", "raise ValueError('no')")])
    noted = json.loads((tmp_path / ".cim-dg" / "a.json").read_text())
    assert noted == {"failures": 1, "reason": "exit code 1: ValueError: no", "command": str(failing)}


def test_a_machine_without_the_required_gpu_is_no_failure_of_the_job(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused = job(tmp_path / "a", "")
    with pytest.raises(UserError) as error:
        devices.check_required(always=True)
    note_failure(refused, f"exit code 2: error: {error.value}")
    assert failures(refused) == (0, f"exit code 2: error: {error.value}")
