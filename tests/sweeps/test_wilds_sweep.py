"""A sweep of WILDS by our launchers: the same flags, folders, status and resuming as one of DomainBed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_wilds_sweep

from cim_dg import cli
from cim_dg.launchers import SUBMITS
from cim_dg.sweeps import plan, wilds
from cim_dg.sweeps.plan import make_plan
from cim_dg.sweeps.spec import load


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    for name in ("CIM_DG_SKIP_MODEL_SAVE", "CIM_DG_REQUIRE_GPU"):
        monkeypatch.setenv(name, "")  # put back after the test
    return tiny_wilds_sweep.write("out", batch_size=8, n_epochs=1)


def test_the_jobs_that_launchers_get(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = {}
    monkeypatch.setattr(wilds, "launch", lambda name, jobs: launched.update({name: jobs}))
    spec = load("mine.yaml", {"command_launcher": "slurm"})
    made = make_plan(spec, "data", Path("out"))
    assert made.only_submits() and "slurm" in SUBMITS
    plan.run(made, Path("out"))
    first, second = launched["slurm"]
    assert first.folder == tmp_path / "out" / "waterbirds-ERM-seed0" and first.resumes
    assert first.entry == "cim_dg.cli:main" and first.arguments[:2] == ("wilds", "train")
    assert "--resume" in first.arguments
    assert not first.is_done()
    first.folder.mkdir(parents=True)
    (first.folder / "run.json").write_text(json.dumps({"finished": True}))
    assert first.is_done() and not second.is_done()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["pool", "parallel"])
def test_a_sweep_by_a_launcher(
    launcher: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CIM_DG_JOBS", "2")
    assert cli.main([*words, "--command_launcher", launcher, "--skip_model_save"]) == 0
    out = capfd.readouterr().out
    assert "2 jobs: 0 done" in out and "Waterbirds" in out
    assert not list(Path("out").glob("*/*.pth"))
    assert cli.main(["status", "out"]) == 0
    assert "2 jobs: 2 done, 0 running" in capfd.readouterr().out
    records = [json.loads(path.read_text()) for path in Path("out").glob("*/run.json")]
    assert all(record["finished"] and record["seconds"] > 0 for record in records)
    assert cli.main([*words, "--command_launcher", launcher]) == 0
    assert "2 jobs: 2 done" in capfd.readouterr().out


@pytest.mark.slow
def test_a_job_that_fails_is_named_with_its_reason_and_shown_by_status(
    words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    for image in Path("data").rglob("*.jpg"):
        image.write_bytes(b"no image")
    assert cli.main([*words, "--command_launcher", "parallel"]) == 1
    assert "2 of 2 jobs failed" in (err := capfd.readouterr().err) and "cannot be read" in err
    assert cli.main(["status", "out"]) == 0
    out = capfd.readouterr().out
    assert "2 jobs: 0 done, 0 running, 2 failed" in out and "cannot be read" in out
