"""DomainBed's commands as jobs, and a look ahead for upstream's launchers."""

from __future__ import annotations

import contextlib
import math
import shlex
import sys
from pathlib import Path

import pytest
import torch

from cim_dg.domainbed import launchers
from cim_dg.domainbed.launchers import checked, ending, job, launcher
from cim_dg.errors import LEFT, LeftToAnother, RunError, UserError
from cim_dg.runtime import devices, locks

TRAIN = "python -m domainbed.scripts.train --algorithm ERM --output_dir"


def test_a_command_of_the_stand_in_is_a_job_that_resumes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = job(f"{TRAIN} {shlex.quote('a sweep/job')} --hparams {shlex.quote('{}')}")
    assert made.folder == tmp_path / "a sweep" / "job" and made.cwd == tmp_path
    assert made.resumes and made.entry == "domainbed.scripts.train:main"
    assert made.arguments == ("--algorithm", "ERM", "--output_dir", "a sweep/job", "--hparams", "{}")
    assert str(made) == f"{TRAIN} 'a sweep/job' --hparams '{{}}'"


def test_one_of_a_real_domainbed_starts_anew(monkeypatch):
    monkeypatch.setattr(launchers, "is_standin", lambda: False)
    made = job(f"{TRAIN} x")
    assert not made.resumes and made.arguments == ("--algorithm", "ERM", "--output_dir", "x")
    assert made.entry == ("cim_dg.domainbed.warm:run" if sys.platform == "linux" else None)
    assert made.gib() == math.inf  # it is not known: one for each GPU
    assert job("python -m train --output_dir x").entry is None


@pytest.mark.parametrize("command", ["sh -c x", "python -m domainbed.scripts.train --output_dir"])
def test_a_job_needs_a_folder(command):
    with pytest.raises(UserError, match="a job needs an --output_dir"):
        job(command)


def test_settings_become_flags(tmp_path, monkeypatch):
    monkeypatch.setenv("CIM_DG_SKIP_MODEL_SAVE", "1")
    launched = []
    monkeypatch.setattr(launchers, "launch", lambda name, jobs: launched.extend(jobs))
    launcher("parallel")([f"{TRAIN} {tmp_path / 'a'}"])
    assert launched[0].arguments[-1] == "--skip_model_save"


@pytest.mark.parametrize(("error", "code"), [(UserError("no"), 2), (RunError("no"), 1), (LeftToAnother("no"), 75)])
def test_a_real_sweep_ends_with_a_sentence_and_a_code(tmp_path, monkeypatch, capsys, error, code):
    def launch(name, jobs):
        raise error

    monkeypatch.setattr(launchers, "launch", launch)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "out.txt").touch()
    with pytest.raises(SystemExit) as raised:
        ending(launcher("parallel"))([f"{TRAIN} {tmp_path / name}" for name in "ab"])
    assert raised.value.code == code
    assert capsys.readouterr().err == "cim-dg: error: no\n"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]  # a job that was not started is not launched


class TestPythonOnPath:
    """Upstream's launchers start whatever `python` is on PATH."""

    @pytest.fixture
    def launched(self):
        return []

    @pytest.fixture
    def launch(self, launched):
        return checked("local", lambda commands: launched.extend(commands), {"CIM", "NuisanceDigits"})

    def jobs(self, folder: Path, algorithm: str) -> list[str]:
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

    def test_upstreams_multi_gpu_does_not_wait_for_a_gpu_for_ever(self, tmp_path, monkeypatch, launched, capsys):
        monkeypatch.setattr(devices, "gpus", lambda: [])
        with pytest.raises(SystemExit) as raised:
            checked("multi_gpu", launched.extend, {"CIM"})(self.jobs(tmp_path, "ERM"))
        assert raised.value.code == 2 and not launched
        assert "cim-dg: error: the launcher multi_gpu needs a GPU" in capsys.readouterr().err
        assert not (tmp_path / "job").exists()


def test_the_real_train_claims_its_folder_for_as_long_as_it_lives(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locks, "PATIENCE", 0)
    held = contextlib.ExitStack()
    monkeypatch.setattr(launchers, "_CLAIMS", held)
    folder = tmp_path / "sweep" / "job"
    launchers.claim_for_train(str(folder))
    assert locks.is_claimed(folder)
    with pytest.raises(SystemExit) as ended:
        launchers.claim_for_train(str(folder))
    assert ended.value.code == LEFT
    assert "another process is running this job, to which it is left" in capsys.readouterr().err
    held.close()
    assert not locks.is_claimed(folder)
    launchers.claim_for_train("/dev/null/job")  # what is wrong with it, `train` says


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_required_gpu_that_is_not_there_ends_the_real_train(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CIM_DG_REQUIRE_GPU", "1")
    with pytest.raises(SystemExit) as ended:
        launchers.claim_for_train(str(tmp_path / "job"))
    assert ended.value.code == 2
    assert "a GPU is required (CIM_DG_REQUIRE_GPU, --require_gpu)" in capsys.readouterr().err
    assert not (tmp_path / "job").exists()
