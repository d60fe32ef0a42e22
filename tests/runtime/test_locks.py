"""A claim is held by a live process or by none; a file system without locks is an error."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from domainbed.scripts import train
from worker_jobs import until

from cim_dg import cli
from cim_dg.errors import UserError
from cim_dg.runtime import locks

HOLD = "import sys, time; from cim_dg.runtime import locks; c = locks.claim(sys.argv[1]); print('held', flush=True); "
HOLD += "time.sleep(60)"


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system as NFS mounted without its lock manager, or a FUSE one."""

    def flock(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_killed_owner_leaves_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0)
    owner = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None and owner.stdout.readline() == "held\n"
    assert locks.is_claimed(tmp_path) and locks.claim(tmp_path) is None
    owner.kill()
    owner.communicate()
    until(lambda: not locks.is_claimed(tmp_path))
    with locks.claim(tmp_path):  # type: ignore[union-attr]
        assert locks.is_claimed(tmp_path)
    assert not locks.is_claimed(tmp_path)


def test_who_only_looks_leaves_nothing(tmp_path: Path) -> None:
    assert not locks.is_claimed(tmp_path) and not locks.is_claimed(tmp_path / "nowhere")
    assert not locks.may_be_running(tmp_path) and not locks.may_be_running(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_flock")
def test_without_flock_it_fails_loudly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"the file system of .* has no locks \(No locks available\)"):
        locks.claim(tmp_path)
    folder = tmp_path / "job"
    assert train.main(["--dataset", "Debug28", "--steps", "1", "--output_dir", str(folder)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "mount it with flock, or set CIM_DG_LOCKS=0 and start every job once only" in err
    assert not folder.exists()
    folder.mkdir()
    for name in ("out.txt", locks.NAME):
        (folder / name).touch()
    assert cli.main(["status", str(tmp_path)]) == 2
    assert "has no locks" in capsys.readouterr().err


@pytest.mark.usefixtures("no_flock")
def test_without_flock_one_can_do_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIM_DG_LOCKS", "0")
    with locks.claim(tmp_path):  # type: ignore[union-attr]
        assert not locks.is_claimed(tmp_path)
    words = ["--dataset", "Debug28", "--steps", "1", "--hparams", '{"batch_size": 8}', "--skip_model_save"]
    assert train.main([*words, "--output_dir", str(tmp_path / "job")]) == 0
    assert (tmp_path / "job" / "done").exists()


def test_other_errors_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(handle: int, operation: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output error"):
        locks.claim(tmp_path)
