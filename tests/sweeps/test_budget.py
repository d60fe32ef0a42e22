"""The cost of a sweep from finished jobs, by protocol, and the largest comparison within a budget."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from cim_dg import cli
from cim_dg.errors import UserError
from cim_dg.sweeps import budget
from cim_dg.sweeps.spec import Spec, load

METHODS = ("ERM", "VIB", "SCL", "CIM", "CIM_VIB")
# Of VLCS: 5001 steps of 0.5 s, and 18 checkpoints of 3 s.
SECONDS = 5001 * 0.5 + 18 * 3


def write_pilot(folder: Path, dataset: str, algorithm: str, step_time: float, seconds: float) -> None:
    """A job of 21 steps with three checkpoints that took `seconds` in all and wrote a model of 1 MB."""
    folder.mkdir(parents=True)
    (folder / "err.txt").touch()
    (folder / "model.pkl").write_bytes(bytes(1_000_000))
    with open(folder / "results.jsonl", "w") as file:
        for step in (0, 10, 20):
            args = {"algorithm": algorithm, "dataset": dataset}
            file.write(json.dumps({"step": step, "step_time": step_time if step else 1.0, "args": args}) + "\n")
    (folder / "done").touch()
    for path in folder.iterdir():
        os.utime(path, (1000, 1000 + (seconds if path.name == "done" else 0)))


@pytest.fixture
def pilot(tmp_path: Path) -> Path:
    """A pilot of VLCS: 20 steps of 0.5 s, the first of 1 s, and three checkpoints of 3 s."""
    for algorithm in METHODS:
        write_pilot(tmp_path / "pilot" / algorithm, "VLCS", algorithm, 0.5, 20 * 0.5 + 1 + 3 * 3)
    return tmp_path / "pilot"


def _rows(out: str) -> dict[str, list[str]]:
    """The cells of each row of the tables by its first one."""
    return {cells[0]: cells[1:] for line in out.splitlines() if len(cells := re.split(r"\s{2,}", line.strip())) > 1}


def test_jobs_hours_and_disk_of_both_protocols(pilot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sweep", "vlcs", "--output_dir", "unused", "--pilot", str(pilot), "--plan"]) == 0
    rows = _rows(out := capsys.readouterr().out)
    size = sum(file.stat().st_size for file in (pilot / "CIM_VIB").iterdir())  # of the longest name
    assert [rows[f"{name} on VLCS"] for name in METHODS] == [[f"{SECONDS / 3600:.3g}", "0.001"]] * len(METHODS)
    for protocol, jobs in (("random-search", 1200), ("search-then-seeds", 440)):
        costs = [f"{jobs * SECONDS / 3600:.3g}", f"{jobs * size / 1e9:.3g}"]
        assert rows[protocol] == [str(jobs), str(jobs), *costs]
    assert "?" not in out and max(map(len, out.splitlines())) <= 80


def test_without_finished_jobs_the_jobs_are_known_and_how_to_know_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--algorithms", "ERM", "CIM", "--hparams", '{"lr": 0.001}']
    assert cli.main(["sweep", "vlcs", "--output_dir", str(tmp_path), "--plan", *words]) == 0
    *table, why, command = capsys.readouterr().out.splitlines()
    assert _rows("\n".join(table))["search-then-seeds"] == ["176", "176", "?", "?"]
    assert why == f"?: {tmp_path} has no finished job of this sweep. Run a pilot of short jobs, and add --pilot PILOT:"
    assert "--steps 601" in command, "of 5001: checkpoints at 0, 300 and 600"
    (tmp_path / "VLCS").mkdir()
    pilot = [str(tmp_path) if word == "DATA" else word for word in shlex.split(command)]
    assert cli.main([*pilot[1:], "--dry_run"]) == 0
    assert "8 jobs: 0 done" in capsys.readouterr().out


def test_a_pilot_for_nothing(pilot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sweep", "vlcs", "--data_dir", "DATA", "--output_dir", "unused", "--pilot", str(pilot)]) == 2
    assert "accepted with --plan or --max_gpu_hours alone" in capsys.readouterr().err


@pytest.mark.parametrize("argument", ["--pilot", "--max_gpu_hours"])
def test_methods_without_a_finished_job_are_named(
    argument: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pilot(tmp_path / "job", "VLCS", "ERM", 0.5, seconds=20)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "done").touch()
    value = str(tmp_path) if argument == "--pilot" else "100"
    assert cli.main(["sweep", "vlcs", "--output_dir", str(tmp_path), "--plan", argument, value]) == 2
    err = capsys.readouterr().err
    assert "has no finished job of VIB on VLCS, SCL on VLCS, CIM on VLCS" in err
    assert "Run a pilot" in err and err.count("\n") == 1


def test_a_pilot_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep", "vlcs", "--output_dir", str(tmp_path), "--plan", "--pilot", str(tmp_path / "nope")]
    assert cli.main(words) == 2
    assert capsys.readouterr().err == f"cim-dg: error: --pilot is {tmp_path / 'nope'}; there is no such folder\n"


def _vlcs(**changes: Any) -> Spec:
    return load("vlcs", changes)


@pytest.mark.parametrize(
    ("protocol", "share"),
    [
        *(("random-search", share) for share in (1.0, 0.7, 0.3, 0.05, 0.04)),
        *(("search-then-seeds", share) for share in (1.0, 0.7, 0.3, 0.15)),
    ],
)
def test_the_largest_comparison_within_a_budget(protocol: str, share: float, pilot: Path) -> None:
    """No setting more fits at these trials, and fewer trials are taken only where the fewest settings do not fit."""
    spec = _vlcs(protocol=protocol)
    costs = budget.measure(spec, pilot)
    most = share * budget.hours(spec, costs)
    smaller, sentence = budget.fit(spec, costs, most)
    each = SECONDS / 3600 * 5 * 4

    def hours(settings: int, trials: int) -> float:
        return each * (settings * trials if protocol == "random-search" else settings + trials - 1)

    assert budget.hours(smaller, costs) == pytest.approx(hours(smaller.n_hparams, smaller.n_trials))
    assert hours(smaller.n_hparams, smaller.n_trials) <= most * (1 + 1e-9)
    assert smaller.n_hparams == 20 or hours(smaller.n_hparams + 1, smaller.n_trials) > most
    least = 2 if protocol == "search-then-seeds" else 1
    assert smaller.n_trials == 3 or hours(least, smaller.n_trials + 1) > most
    assert (smaller.algorithms, smaller.protocol) == (spec.algorithms, protocol)
    cut = f"Cut to {smaller.n_hparams} of 20 settings and {smaller.n_trials} of 3 trials, for all methods alike"
    assert sentence.startswith(cut if share < 1 else "All of it fits")


def test_a_budget_for_nothing(pilot: Path) -> None:
    spec = _vlcs()
    with pytest.raises(UserError, match="the smallest comparison of these methods, 1 settings and 2 trials, takes 28"):
        budget.fit(spec, budget.measure(spec, pilot), 1.0)


def test_runs_of_wilds_are_scaled_by_epochs(tmp_path: Path) -> None:
    spec = load("waterbirds", {"algorithms": ["ERM", "CIM"]})
    for algorithm, seconds in (("ERM", 60.0), ("CIM", 90.0)):
        folder = tmp_path / algorithm
        folder.mkdir()
        record = {"dataset": "waterbirds", "algorithm": algorithm, "finished": True, "seconds": seconds}
        (folder / "run.json").write_text(json.dumps({**record, "config": {"n_epochs": 3}}))
    costs = budget.measure(spec, tmp_path)
    assert {key[1]: cost.seconds for key, cost in costs.items()} == {"ERM": 60 * 100, "CIM": 90 * 100}
    assert budget.job_counts(spec) == {("waterbirds", "ERM"): 18, ("waterbirds", "CIM"): 18}
    assert budget.hours(spec, costs) == pytest.approx(18 * 150 * 100 / 3600)


def test_a_budget_plans_a_smaller_sweep(pilot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "VLCS").mkdir()
    words = ["sweep", "vlcs", "--data_dir", str(tmp_path), "--output_dir", str(tmp_path / "out"), "--dry_run"]
    hours = str(SECONDS / 3600 * 20 * 3 * 4.5)
    assert cli.main([*words, "--pilot", str(pilot), "--max_gpu_hours", hours]) == 0
    out = capsys.readouterr().out
    assert "Cut to 4 of 20 settings and 3 of 3 trials" in out and "240 jobs: 0 done" in out
    assert "--n_hparams 4 --n_trials 3 --single_test_envs" in out
