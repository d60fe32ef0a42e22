"""One job on a worker: it is run once, whatever becomes of the worker."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from worker_jobs import is_running, job, until

from cim_dg.launchers import jobs


def test_it_runs_from_the_folder_with_the_variables(tmp_path):
    code = "import os, sys; open('which', 'w').write(f\"{sys.executable} {os.environ['CIM_DG_X']}\")"
    assert jobs.run_on_worker(job(tmp_path / "a job", code), str(tmp_path), {"CIM_DG_X": "3"}, resumes=True) is None
    assert (tmp_path / "which").read_text() == f"{sys.executable} 3"


def test_what_failed_is_told_with_its_last_line(tmp_path):
    failure = jobs.run_on_worker(job(tmp_path / "a", "raise SystemExit('no such thing')"), ".", {}, resumes=True)
    assert failure is not None and failure.endswith("exit code 1: no such thing")


@pytest.mark.parametrize(("resumes", "lines"), [(True, "half\nwhole\n"), (False, "whole\n")])
def test_what_a_killed_attempt_left_is_kept_only_where_jobs_resume(tmp_path, resumes, lines):
    results = tmp_path / "a" / "results.jsonl"
    command = job(results.parent, f"open({str(results)!r}, 'a').write('whole\\n')")
    results.write_text("half\n")
    assert jobs.run_on_worker(command, str(tmp_path), {}, resumes) is None
    assert results.read_text() == lines


def test_a_job_that_is_done_is_not_run_again(tmp_path):
    command = job(tmp_path / "a", f"open({str(tmp_path / 'again')!r}, 'w')")
    (tmp_path / "a" / "done").write_text("done")
    assert jobs.run_on_worker(command, str(tmp_path), {}, resumes=False) is None
    assert not (tmp_path / "again").exists()
    assert (tmp_path / "a" / "done").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux kills the job")
def test_it_dies_with_a_worker_that_is_killed(tmp_path):
    pid = tmp_path / "pid"
    command = job(tmp_path / "a", f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    code = f"from cim_dg.launchers import jobs; jobs.run_on_worker({command!r}, {str(tmp_path)!r}, {{}}, True)"
    worker = subprocess.Popen([sys.executable, "-c", code])
    until(lambda: pid.exists() and pid.read_text() != "")
    assert is_running(int(pid.read_text()))
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    until(lambda: not is_running(int(pid.read_text())))
