"""A sweep of a real DomainBed, from launch to tables, and what the plugin leaves as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from real_domainbed import RealDomainBed

pytestmark = [pytest.mark.harness, pytest.mark.slow]

JOBS = "--algorithms CIM ERM --datasets NuisanceDigits --n_trials 1 --n_hparams 1 --steps 2 --single_test_envs"
HPARAMS = '{"batch_size": 8, "nuisance_digits": 50}'


def test_launch_kill_delete_launch_again_and_look(real: RealDomainBed, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    flags = [*JOBS.split(), "--hparams", HPARAMS, "--data_dir", str(tmp_path), "--output_dir", str(folder)]
    flags += ["--command_launcher", "local", "--skip_confirmation"]
    assert "Launched 6 jobs!" in real.script("sweep", "launch", *flags)
    assert len(list(folder.glob("*/done"))) == 6

    killed = sorted(folder.iterdir())[0]
    (killed / "done").unlink()
    text = (killed / "results.jsonl").read_text()
    (killed / "results.jsonl").write_text(text[: len(text) // 3])
    assert "Deleted 1 jobs!" in real.script("sweep", "delete_incomplete", *flags)
    assert not killed.exists()
    assert "Launched 1 jobs!" in real.script("sweep", "launch", *flags)
    assert (killed / "done").exists()

    tables = real.script("collect_results", "--input_dir", str(folder))
    assert "Total records: 12" in tables
    assert "Dataset: NuisanceDigits" in tables
    for row in ("CIM", "ERM"):
        assert any(line.startswith(f"{row} ") and line.count("+/-") == 3 for line in tables.splitlines()), tables

    top = ["--dataset", "NuisanceDigits", "--algorithm", "CIM", "--test_env", "2", "--input_dir", str(folder)]
    listed = real.script("list_top_hparams", *top)
    assert "cim_lambda" in listed


def test_methods_of_other_papers_and_feature_averaging(real: RealDomainBed, tmp_path: Path) -> None:
    folder, methods = tmp_path / "sweep", ["CCSA", "DCoDR", "TransformInvariance"]
    jobs = JOBS.replace("CIM ERM", " ".join(methods)).split()
    flags = [*jobs, "--hparams", HPARAMS.replace("}", ', "average_copies": 2}'), "--data_dir", str(tmp_path)]
    flags += ["--output_dir", str(folder), "--command_launcher", "local", "--skip_confirmation"]
    assert "Launched 9 jobs!" in real.script("sweep", "launch", *flags)
    tables = real.script("collect_results", "--input_dir", str(folder))
    for row in methods:
        assert any(line.startswith(f"{row} ") and line.count("+/-") == 3 for line in tables.splitlines()), tables
    records = [json.loads(path.read_text().splitlines()[0]) for path in folder.glob("*/results.jsonl")]
    assert [record["hparams"]["average_copies"] for record in records] == [2] * 9


def test_a_plain_sweep_plans_what_it_planned_without_us(real: RealDomainBed, tmp_path: Path) -> None:
    flags = ["launch", "--data_dir", "data", "--output_dir", str(tmp_path / "sweep"), "--command_launcher", "dummy"]
    flags += ["--n_trials", "1", "--n_hparams", "1", "--single_test_envs"]
    plans = [real.script("sweep", *flags, answer="n", CIM_DG_AUTOLOAD=switch) for switch in ("1", "0")]
    assert plans[0] == plans[1]
    assert "('VLCS', 'ERM', [0], 0)" in plans[0]
    assert "NuisanceDigits" not in plans[0]
