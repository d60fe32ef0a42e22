"""A disk that is full ends a command with one sentence and a code that is not 0, and leaves no half of a file."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import made_sweeps
import pytest
from small_datasets import QUICK

from cim_dg import cli
from cim_dg.errors import exit_code


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    """A folder of a sweep's results."""
    made_sweeps.write_sweep(tmp_path / "jobs", "VLCS", 4, trials=1, hparams_seeds=1, steps=(0,), pairs=False)
    return tmp_path / "jobs"


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be brought to the disk any more."""

    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)


def _one_sentence(err: str) -> None:
    (error,) = [line for line in err.splitlines() if "error: " in line or "Exception" in line]
    assert "error: there is no room to write" in error and "No space left on device" in error


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "domainbed.scripts.collect_results", "--input_dir"],
        ["-m", "cim_dg.cli", "collect"],
        ["-m", "cim_dg.cli", "status"],
    ],
)
def test_standard_output_on_a_full_disk(words: list[str], jobs: Path) -> None:
    with open("/dev/full", "w") as output:
        command = [sys.executable, *words, str(jobs)]
        done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    _one_sentence(done.stderr)


@pytest.mark.usefixtures("full")
def test_files_of_collect(jobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("frame.csv", "table.html"):
        option = "--save" if name.endswith("csv") else "--output"
        assert cli.main(["collect", str(jobs), option, str(tmp_path / name)]) != 0
        assert "No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [jobs]


@pytest.mark.usefixtures("full")
def test_tables_of_the_standin(jobs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from domainbed.scripts import collect_results

    before = sorted(jobs.iterdir())
    assert collect_results.main(["--input_dir", str(jobs)]) == 1
    _one_sentence(capsys.readouterr().err)
    assert sorted(jobs.iterdir()) == before


def test_a_run_of_wilds_goes_on_when_there_is_room(
    command: Callable[..., int],
    small_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["wilds", "train", "--dataset", "waterbirds", "--algorithm", "ERM", "--root_dir", small_root, *QUICK]
    words += ["--log_dir", tmp_path / "log"]
    calls = []

    def fsync(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        assert command(*words) == 1
    _one_sentence(capsys.readouterr().err)
    assert not [path for path in (tmp_path / "log").iterdir() if path.name.startswith(".") and path.name != ".lock"]
    assert command(*words, "--resume") == 0


def test_other_errors_of_the_system_pass_through() -> None:
    def fail() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(OSError, match="Input/output error"):
        exit_code(fail)
