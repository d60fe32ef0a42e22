"""Results are selected and printed byte for byte as by the real DomainBed, and better where that one gives up."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_sweeps
import numpy as np
import pytest
from domainbed import model_selection
from domainbed.lib import reporting
from domainbed.scripts import collect_results, list_top_hparams
from standin_samples import GOLDEN, TOP


@pytest.mark.parametrize(("flags", "name"), [([], "collect.txt"), (["--latex"], "collect.tex")])
def test_collect_results(flags: list[str], name: str, sweep_folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert collect_results.main(["--input_dir", sweep_folder, *flags]) == 0
    expected = (GOLDEN / name).read_text()
    out, err = capsys.readouterr()
    assert out == expected
    assert "stand-in for DomainBed" in err
    assert Path(sweep_folder, "results.tex" if flags else "results.txt").read_text() == expected
    assert " X " in expected  # otherwise the sample has nothing missing


def test_list_top_hparams(sweep_folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert list_top_hparams.main(["--input_dir", sweep_folder, *TOP.split()]) == 0
    expected = (GOLDEN / "top_hparams.txt").read_text()
    if np.lib.NumpyVersion(np.__version__) < "2.0.0":  # which writes its numbers as Python does
        expected = re.sub(r"np\.float64\(([^)]*)\)", r"\1", expected)
    assert capsys.readouterr().out == expected


def test_lines_cut_short_or_empty_are_counted(sweep_folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    whole = reporting.load_records(sweep_folder)
    file = Path(sweep_folder, "002", "results.jsonl")
    # The last line has lost its end, which stops the real DomainBed; one that has lost only its newline is whole.
    file.write_text("\n" + file.read_text()[:-30])
    other = Path(sweep_folder, "003", "results.jsonl")
    other.write_text(other.read_text().rstrip("\n"))
    capsys.readouterr()
    assert collect_results.main(["--input_dir", sweep_folder]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"Total records: {len(whole) - 1}\n")
    assert f"2 of the lines of {file} cut short or empty" in err
    assert str(other) not in err


def test_datasets_without_a_table_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job").mkdir()
    record = '{"step": 0, "args": {"dataset": "WILDSFMoW", "algorithm": "ERM", "test_envs": [0], "trial_seed": 0, '
    record += '"hparams_seed": 0}, "env0_in_acc": 1, "env0_out_acc": 1, "env1_out_acc": 1}'
    (tmp_path / "job" / "results.jsonl").write_text(record)
    assert collect_results.main(["--input_dir", str(tmp_path)]) == 0
    assert "no table for WILDSFMoW" in capsys.readouterr().err


def test_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert collect_results.main(["--input_dir", str(tmp_path / "nowhere")]) == 2
    assert "error: there is no folder" in capsys.readouterr().err
    assert collect_results.main(["--input_dir", str(tmp_path), "--auto_lr"]) == 2
    assert "real DomainBed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def _record(step: int, test_envs: list[int], accuracies: list[float], hparams_seed: int = 0) -> reporting.Record:
    """Three environments, with the same accuracy on both splits of each."""
    args = {
        "dataset": "ColoredMNIST",
        "algorithm": "ERM",
        "test_envs": test_envs,
        "trial_seed": 0,
        "hparams_seed": hparams_seed,
    }
    splits = {f"env{env}_{split}_acc": value for env, value in enumerate(accuracies) for split in ("in", "out")}
    return {"step": step, "args": args, **splits}


def test_training_domain_validation_ignores_the_test_environment() -> None:
    method = model_selection.IIDAccuracySelectionMethod
    records = [_record(0, [0], [0.9, 0.5, 0.5]), _record(1, [0], [0.1, 0.6, 0.8]), _record(1, [0, 1], [1.0, 1.0, 1.0])]
    assert method.run_acc(records) == {"val_acc": pytest.approx(0.7), "test_acc": 0.1}
    assert method.run_acc(records[2:]) is None


def test_oracle_takes_the_last_step_whatever_came_before() -> None:
    records = [_record(5, [0], [0.2, 1.0, 1.0]), _record(0, [0], [0.9, 0.0, 0.0])]
    assert model_selection.OracleSelectionMethod.run_acc(records) == {"val_acc": 0.2, "test_acc": 0.2}


def test_leave_one_out_needs_every_pair() -> None:
    method = model_selection.LeaveOneOutSelectionMethod
    records = [_record(0, [1], [0.0, 0.5, 0.0]), _record(0, [0, 1], [0.4, 0, 0]), _record(0, [1, 2], [0, 0, 0.8])]
    assert method.run_acc(records) == {"val_acc": pytest.approx(0.6), "test_acc": 0.5}
    assert method.run_acc(records[:2]) is None


def test_ties_and_nan() -> None:
    method = model_selection.OracleSelectionMethod
    records = [_record(0, [0], [value, 0, 0], seed) for seed, value in enumerate([0.5, 0.5, 0.9, 0.1])]
    records[2]["env0_out_acc"] = math.nan
    order = [run[0]["args"]["hparams_seed"] for _, run in method.hparams_accs(records)]
    assert order == [1, 0, 3, 2]
    assert method.sweep_acc([]) is None


def test_runs_that_are_not_there_are_no_list(sweep_folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--input_dir", sweep_folder, "--dataset", "Debug28", "--algorithm", "Nonesuch", "--test_env", "0"]
    assert list_top_hparams.main(flags) == 2
    assert "has no run of Nonesuch on Debug28 with test environment 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: record.update(step={"a": 1}),
        lambda record: record["args"].update(test_envs=[[[]]]),
        lambda record: record["args"].pop("trial_seed"),
        lambda record: record.update(args=[]),
    ],
)
def test_damaged_records_are_wrong_input(
    damage: Callable[[dict[str, Any]], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_sweeps.write_sweep(tmp_path, "VLCS", 4, trials=1, hparams_seeds=1, pairs=False)
    path = sorted(tmp_path.glob("*/results.jsonl"))[0]
    first, *others = path.read_text().splitlines()
    record = json.loads(first)
    damage(record)
    path.write_text("\n".join([json.dumps(record), *others]))
    assert collect_results.main(["--input_dir", str(tmp_path)]) == 2
    assert "is not one that a run writes" in capsys.readouterr().err
