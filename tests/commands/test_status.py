"""`cim-dg status` tells from a job's files what has become of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cim_dg import cli
from cim_dg.domainbed.standin.lib.command import NOTICE
from cim_dg.launchers import Job
from cim_dg.launchers.job import note_failure
from cim_dg.runtime import locks

ARGS = (
    "Args:\n\talgorithm: {}\n\tdataset: VLCS\n\thparams_seed: 0\n\toutput_dir: x\n\ttest_envs: [1]\n\ttrial_seed: 2\n"
)


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Path]:
    """Make a job's folder with these texts in its files, last written an hour ago."""
    made = 0

    def make(algorithm: str = "CIM", **texts: str) -> Path:
        nonlocal made
        folder = tmp_path / f"{made:032x}"
        folder.mkdir()
        made += 1
        begun = {"out_txt": ARGS.format(algorithm), "err_txt": NOTICE + "\n"} if texts else {}
        if "done" in texts:
            begun["results_jsonl"] = '{"step": 0}\n'
        for name, text in (begun | texts).items():
            path = folder / name.replace("_", ".")
            path.write_text(text)
            os.utime(path, (time.time() - 3600,) * 2)
        return folder

    return make


def took(folder: Path, seconds: float) -> None:
    os.utime(folder / "done", (time.time() - 3600 + seconds,) * 2)


def status(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert cli.main(["status", str(folder)]) == 0
    return capsys.readouterr().out.splitlines()


def test_every_state(job: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seconds in (600, 1200, 3000):
        took(job(done="done"), seconds)
    job()  # launched, and waiting for its turn
    job(_lock="")  # killed
    killed_later = f"{NOTICE}\nerror: of the first attempt\n{NOTICE}\na warning: nothing to worry about\n"
    job(_lock="", err_txt=killed_later)
    failed = job("SCL", _lock="", err_txt=f"{NOTICE}\nerror: the loss is nan at step 3\n")
    with locks.claim(job(_lock="")) as _:  # type: ignore[union-attr]
        first, second, *failures = status(tmp_path, capsys)
    assert first == "8 jobs: 3 done, 1 running, 1 failed, 2 unfinished, 1 not started."
    assert second == "Time left: 80 min, with 1 jobs side by side."  # four times the median of the three that are done
    assert failures == [
        f"Failed: {failed} (SCL on VLCS, test environments [1], trial 2, hparams seed 0)",
        "    error: the loss is nan at step 3",
    ]


def test_jobs_of_a_real_domainbed(job: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They have no lock, and a traceback for an error."""
    job(err_txt="")
    os.utime(job(err_txt="") / "out.txt")
    job(err_txt="Traceback (most recent call last):\n  File x\nRuntimeError: out of memory\n")
    first, second, *failures = status(tmp_path, capsys)
    assert first == "3 jobs: 0 done, 1 running, 1 failed, 1 unfinished, 0 not started."
    assert second == "Time left: not known before a job is done."
    assert failures[-1] == "    RuntimeError: out of memory"


def test_logs_of_wilds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, finished in enumerate((True, False)):
        folder = tmp_path / "logs" / f"waterbirds-CIM-seed{number}"
        folder.mkdir(parents=True)
        record = {"config": {"dataset": "waterbirds", "algorithm": "CIM", "seed": number}, "finished": finished}
        record["seconds"] = 90.0
        (folder / "run.json").write_text(json.dumps(record))
        os.utime(folder / "run.json", (1000, 1000))
    first, second = status(tmp_path, capsys)
    assert first == "2 jobs: 1 done, 0 running, 0 failed, 1 unfinished, 0 not started."
    assert second == "Time left: 2 min, with 1 jobs side by side."


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_no_jobs(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", str(tmp_path / folder)]) == 2
    assert re.search("there is no folder|no job has been started in", capsys.readouterr().err)


def test_files_that_vanish_under_it_are_no_error(
    job: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As those of a job that ends, or whose folder a sweep clears, while it is being looked at."""
    job(err_txt="")
    vanishing = [job(err_txt=""), job(done="done"), tmp_path / "waterbirds-CIM-seed0"]
    vanishing[2].mkdir()
    (vanishing[2] / "run.json").write_text("{}")
    walk = os.walk

    def walk_and_remove(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        actual = list(walk(folder))
        for gone in vanishing:
            shutil.rmtree(gone)
        return iter(actual)

    monkeypatch.setattr(os, "walk", walk_and_remove)
    first, _ = status(tmp_path, capsys)
    assert first == "3 jobs: 1 done, 0 running, 0 failed, 2 unfinished, 0 not started."


def test_a_job_that_could_not_even_write_its_error_has_failed(
    job: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = job(err_txt=NOTICE + "\n")
    reason = f"exit code 1: error: there is no room to write {folder / 'results.jsonl'}: No space left on device"
    note_failure(Job(("python",), folder, True), reason)
    first, second, failed, said = status(tmp_path, capsys)
    assert first == "1 jobs: 0 done, 0 running, 1 failed, 0 unfinished, 0 not started."
    assert second == "Only failed jobs are left." and str(folder) in failed and said.strip() == reason


def test_watching_ends_by_itself_when_nothing_is_left_to_run(
    job: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done, other = job("CIM", done="done"), job("ERM", results_jsonl="{}")
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        (other / "done").touch()

    monkeypatch.setattr("cim_dg.commands.status.time.sleep", sleep)
    assert cli.main(["status", str(tmp_path), "--watch", "7"]) == 0
    out = capsys.readouterr().out
    assert waits == [7.0]
    assert re.search(r"2 jobs: 1 done(.|\n)*2 jobs: 2 done", out), (out, done)


def test_watching_ends_cleanly_with_ctrl_c(
    job: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job("ERM", results_jsonl="{}")

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cim_dg.commands.status.time.sleep", interrupt)
    assert cli.main(["status", str(tmp_path), "--watch"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "1e9"])
def test_an_interval_that_is_no_time_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seconds: str
) -> None:
    assert cli.main(["status", str(tmp_path), f"--watch={seconds}"]) == 2
    assert "accepted are 0.1 to 86400 seconds" in capsys.readouterr().err


def test_equal_errors_are_one_and_jobs_that_wrote_nothing_are_known_by_their_command(
    job: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = f"{NOTICE}\nerror: a GPU is required\n"
    command = "python -m domainbed.scripts.train --algorithm {} --dataset VLCS --hparams_seed 0 --test_envs 0 1 "
    folders = [job(algorithm, out_txt="", err_txt=refused) for algorithm in ("CIM", "ERM", "ERM")]
    for folder, algorithm in zip(folders, ("CIM", "ERM", "ERM"), strict=True):
        words = f"{command.format(algorithm)}--trial_seed 2".split()
        note_failure(Job(tuple(words), folder, True), "exit code 2: error: a GPU is required")
    other = job("SCL", err_txt=f"{NOTICE}\nerror: the loss is nan\n")
    gone = tmp_path / "waterbirds-CIM-seed1"
    wilds = "python -m cim_dg.cli wilds train --dataset waterbirds --algorithm CIM --log_dir x --seed 1"
    note_failure(Job(tuple(wilds.split()), gone, True), "exit code 2: error: no")
    _, _, *failures = status(tmp_path, capsys)
    assert failures == [
        f"Failed: {gone} (CIM on waterbirds, seed 1, refused at its start)",
        "    exit code 2: error: no",
        f"Failed: {folders[0]} (CIM on VLCS, test environments [0, 1], trial 2, hparams seed 0) and 2 others: ERM 2",
        "    error: a GPU is required",
        f"Failed: {other} (SCL on VLCS, test environments [1], trial 2, hparams seed 0)",
        "    error: the loss is nan",
    ]


def test_a_job_that_has_lost_its_results_is_not_done(
    job: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = '{"step": 0, "args": {}}\n'
    job(done="done", results_jsonl=2 * whole)
    job(done="done", results_jsonl=whole.strip())
    lost = [job(done="done", results_jsonl=text) for text in ("", whole[:12], whole + whole[:7])]
    lost.append(job(done="done"))
    (lost[-1] / "results.jsonl").unlink()
    first, _, failed, reason = status(tmp_path, capsys)
    assert first == "6 jobs: 2 done, 0 running, 4 failed, 0 unfinished, 0 not started."
    assert str(lost[0]) in failed and "and 3 others: CIM 3" in failed
    assert reason.strip().startswith("it is done, but its results.jsonl is empty or cut off; remove its folder")
