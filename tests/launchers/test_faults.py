"""Whatever is killed, full or broken: nothing that is done is lost, nothing counts twice, the table is the same."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from domainbed import command_launchers
from domainbed.lib import resume
from domainbed.scripts import collect_results, sweep, train
from standin_samples import results_of
from worker_jobs import children_of

import cim_dg
from cim_dg import cli
from cim_dg.errors import LEFT, RunError
from cim_dg.runtime import locks

Start = Callable[[list[str]], subprocess.Popen[str]]

SWEEP = "--datasets Debug28 --algorithms ERM --n_trials 1 --n_hparams 1 --single_test_envs --skip_confirmation"
HPARAMS = ["--hparams", json.dumps({"batch_size": 8})]
LAUNCH = "import sys; from cim_dg import autoload; autoload.install(); from domainbed.scripts import sweep; "
LAUNCH += "sys.exit(sweep.main(sys.argv[1:]))"
JOB = ["--dataset", "Debug28", *HPARAMS, "--output_dir", "job", "--skip_model_save"]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_cores: None) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(cim_dg.__file__).parents[1]))
    monkeypatch.delenv("CIM_DG_JOBS", raising=False)
    monkeypatch.setenv("CIM_DG_CHECKPOINT_SECONDS", "0")


def flags(folder: str, steps: int) -> list[str]:
    where = ["--data_dir", "none", "--output_dir", folder, "--command_launcher", "pool"]
    return ["launch", *SWEEP.split(), *HPARAMS, "--steps", str(steps), *where]


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a sweep's command in a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(words: list[str]) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", LAUNCH, *words]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> Any:
    deadline = time.monotonic() + 240
    while not (actual := what()):
        assert time.monotonic() < deadline, "it does not come"
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    return actual


def in_the_middle(folder: str) -> Path | None:
    """A job that has been going on for some checkpoints."""
    running = [path.parent for path in Path(folder).glob(f"*/{resume.NAME}")]
    return next((job for job in running if locks.is_claimed(job) and not (job / "done").exists()), None)


def table(folder: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert collect_results.main(["--input_dir", folder]) == 0
    return capsys.readouterr().out.replace(folder, "")


def jobs_in(folder: str) -> list[Path]:
    """The jobs' folders; the launchers' notes on failures lie beside them in .cim-dg."""
    return [path for path in Path(folder).iterdir() if not path.name.startswith(".")]


def check_as_undisturbed(folder: str, steps: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Every job in `folder` is done, with the results of a launch that nothing happened to, and so is the table."""

    def here(commands: list[str]) -> None:  # a start takes longer than the jobs
        assert all(train.main(shlex.split(command)[3:]) == 0 for command in commands)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(command_launchers.REGISTRY, "pool", here)
        assert sweep.main(flags("undisturbed", steps)) == 0
    done, expected = ({job.name: results_of(job) for job in jobs_in(each)} for each in (folder, "undisturbed"))
    assert len(done) == 3
    assert all((job / "done").exists() for job in jobs_in(folder))
    # The folders' names come of the arguments, which are the same but for where they lie.
    assert done == expected
    assert table(folder, capsys) == table("undisturbed", capsys)


@pytest.mark.slow
def test_a_killed_worker_costs_its_job_nothing(capsys: pytest.CaptureFixture[str], start: Start) -> None:
    launch = start(flags("sweep", 60))
    job = wait_for(lambda: in_the_middle("sweep"), launch)
    for pid in children_of(launch.pid):
        os.kill(pid, signal.SIGKILL)
    out, _ = launch.communicate(timeout=300)
    assert launch.returncode == 0, out
    assert "Going on after step" in (job / "out.txt").read_text()
    check_as_undisturbed("sweep", 60, capsys)


@pytest.mark.slow
def test_a_killed_launcher_takes_its_workers_with_it_and_another_goes_on(
    capsys: pytest.CaptureFixture[str], start: Start
) -> None:
    launch = start(flags("sweep", 60))
    job = wait_for(lambda: in_the_middle("sweep"), launch)
    workers = children_of(launch.pid)
    assert workers
    launch.kill()
    launch.communicate()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert not (job / "done").exists()
    again = start(flags("sweep", 60))
    out, _ = again.communicate(timeout=300)
    assert again.returncode == 0, out
    assert "go on where they stopped" in out
    assert "Going on after step" in (job / "out.txt").read_text()
    check_as_undisturbed("sweep", 60, capsys)


@pytest.mark.slow
def test_two_launchers_at_once_run_no_job_twice(capsys: pytest.CaptureFixture[str], start: Start) -> None:
    both = [start(flags("sweep", 3)) for _ in range(2)]
    for launch in both:
        out, _ = launch.communicate(timeout=300)
        assert launch.returncode in (0, LEFT), out
    for job in jobs_in("sweep"):
        assert (job / "out.txt").read_text().count("HParams:") == 1
    check_as_undisturbed("sweep", 3, capsys)


@pytest.mark.slow
def test_one_job_of_fifty_always_fails() -> None:
    jobs_flags = "--dataset Debug28 --steps 1 --skip_model_save"
    command = f"python -m domainbed.scripts.train {jobs_flags} --hparams '{{\"batch_size\": 8}}'"
    commands = [f"{command} --seed {seed} --output_dir {seed}" for seed in range(50)]
    commands[17] = commands[17].replace("Debug28", "VLCS")
    with pytest.raises(RunError) as raised:
        command_launchers.REGISTRY["pool"](commands)
    err = str(raised.value)
    assert "1 of 50 jobs failed:" in err
    assert f"{commands[17]}\n    exit code 2: error: VLCS is needed: give --data_dir" in err
    assert sorted(int(path.parent.name) for path in Path().glob("*/done")) == [n for n in range(50) if n != 17]


@pytest.mark.slow
def test_a_job_that_kills_its_process_fails_after_a_second_try() -> None:
    """As one that needs more memory than there is."""
    suicidal = Path("suicidal")
    suicidal.mkdir()
    (suicidal / "sitecustomize.py").write_text(
        "import os, signal, sys, threading\n"
        "def watch():\n"
        "    while not os.path.exists('bad/out.txt'): threading.Event().wait(0.01)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "if 'cim_dg.launchers.worker' in sys.orig_argv: threading.Thread(target=watch, daemon=True).start()\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(suicidal.resolve()), os.environ["PYTHONPATH"]]))
        patch.setenv("CIM_DG_JOBS", "1")
        command = "python -m domainbed.scripts.train --dataset Debug28 --steps 100000 --output_dir bad"
        patch.setenv("CIM_DG_RETRIES", "1")
        with pytest.raises(RunError, match=r"2 times its process died, by SIGKILL \(out of memory\?\)"):
            command_launchers.REGISTRY["pool"]([command])


@contextlib.contextmanager
def files_of_at_most(size: int) -> Any:
    """No file can grow beyond `size` bytes: to who writes it, that is a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def job_flags(folder: str) -> list[str]:
    return [folder if word == "job" else word for word in JOB] + ["--steps", "7", "--checkpoint_freq", "2"]


def test_the_disk_is_full_when_a_record_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(job_flags("undisturbed")) == 0
    lines = Path("undisturbed", "results.jsonl").read_bytes().splitlines(keepends=True)
    with files_of_at_most(len(lines[0]) + len(lines[1]) + len(lines[2]) // 2):
        assert train.main(job_flags("job")) == 1
    err = capsys.readouterr().err
    assert "error: there is no room to write" in err
    assert "Traceback" not in err
    assert results_of(Path("job")) == results_of(Path("undisturbed"))[:2]  # whole lines
    assert not Path("job", "done").exists()
    assert cli.main(["status", "job"]) == 0
    assert "0 done, 0 running, 1 failed" in (said := capsys.readouterr().out) and "there is no room to write" in said
    assert train.main(job_flags("job")) == 0
    assert results_of(Path("job")) == results_of(Path("undisturbed"))


def test_the_disk_is_full_when_a_checkpoint_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last one stays, training goes on, and a job that is then killed goes on from there."""
    assert train.main(job_flags("undisturbed")) == 0
    monkeypatch.setattr(resume, "SHARE", 0)
    after_step = resume.Resume.after_step
    sizes: dict[int, int] = {}

    def filling(self: Any, steps: int, since_record: Any) -> None:
        if steps > 3:
            with files_of_at_most(sizes[3] // 2):
                after_step(self, steps, since_record)
        else:
            after_step(self, steps, since_record)
            sizes[steps] = self.path.stat().st_size
        if steps == 6:
            raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(resume.Resume, "after_step", filling)
        assert train.main(job_flags("job")) == 1
    assert "warning: no checkpoint after step 3: File too large" in capsys.readouterr().err
    assert {path.name for path in Path("job").iterdir() if path.name.startswith(".")} == {locks.NAME}
    assert train.main(job_flags("job")) == 0
    assert "Going on after step 2," in Path("job", "out.txt").read_text()
    assert results_of(Path("job")) == results_of(Path("undisturbed"))


def test_the_disk_is_full_when_the_model_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in job_flags("job") if word != "--skip_model_save"]
    with files_of_at_most(20_000):
        assert train.main(words) == 1
    assert "error: there is no room to write" in capsys.readouterr().err
    assert not Path("job", "done").exists() and not Path("job", "model.pkl").exists()
    assert train.main(words) == 0
    assert Path("job", "model.pkl").exists()
    assert [record["step"] for record in results_of(Path("job"))] == [0, 2, 4, 6]
