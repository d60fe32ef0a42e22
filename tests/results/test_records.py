"""Folders as one tidy frame: what is read, what is left out, and that nothing is fatal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_sweeps import job_args, record, write_job, write_sweep

from cim_dg.errors import UserError
from cim_dg.results import read_domainbed
from cim_dg.results.read import read

ACCURACIES = [0.5, 0.25, 0.75, 0.5, 1.0, 0.125]


def test_a_row_per_evaluation(tmp_path: Path) -> None:
    write_job(
        tmp_path / "job", job_args("ColoredMNIST", "CIM", [2], 1, 4), [record(0, ACCURACIES), record(50, ACCURACIES)]
    )
    frame = read([tmp_path]).frame
    assert list(frame.columns) == [
        *("run", "harness", "dataset", "algorithm", "hparams_seed", "trial", "test_envs"),
        *("checkpoint", "step", "split", "metric", "value"),
    ]
    accuracies = frame[frame["metric"] == "acc"]
    assert len(accuracies) == 12
    cell = accuracies.query("step == 50 and split == 'env1_in'").iloc[0]
    assert cell.drop(["run", "checkpoint"]).to_dict() == {
        "harness": "domainbed",
        "dataset": "ColoredMNIST",
        "algorithm": "CIM",
        "hparams_seed": 4,
        "trial": 1,
        "test_envs": "2",
        "step": 50,
        "split": "env1_in",
        "metric": "acc",
        "value": 0.75,
    }
    assert set(frame.loc[frame["split"] == "train", "metric"]) == {"loss", "epoch", "step_time", "mem_gb"}


def test_the_runs_say_what_made_them(tmp_path: Path) -> None:
    folder = write_job(tmp_path / "job", job_args("VLCS", "ERM", [0, 3], 2), [record(0, ACCURACIES)])
    (folder / "provenance.json").write_text(json.dumps({"harness": "domainbed-standin", "torch": "2.9"}))
    (run,) = read([tmp_path]).runs
    assert (run.harness, run.test_envs, run.trial, run.finished) == ("domainbed-standin", (0, 3), 2, True)
    assert run.provenance["torch"] == "2.9"
    assert run.hparams["batch_size"] == 32


def test_cut_lines_are_counted_not_fatal(tmp_path: Path) -> None:
    folder = write_job(
        tmp_path / "job", job_args("VLCS", "ERM", [0], 0), [record(0, ACCURACIES), record(50, ACCURACIES)]
    )
    lines = (folder / "results.jsonl").read_text().splitlines()
    bad = [lines[1][:90], "[1, 2]", '{"step": 3}', lines[1].replace('"trial_seed": 0', '"trial_seed": "x"')]
    (folder / "results.jsonl").write_text("\n".join([lines[0], *bad, "", lines[1]]))  # and no newline at the end
    records = read([tmp_path])
    assert set(records.frame["step"]) == {0, 50}
    (sentence,) = [one for one in records.report() if "cut off" in one]
    assert "skipped: 4 " in sentence
    assert "results.jsonl:2" in sentence


def test_lines_of_bad_arguments_belong_to_no_run(tmp_path: Path) -> None:
    folder = write_job(tmp_path / "job", job_args("VLCS", "ERM", [0], 0), [record(0, ACCURACIES)])
    other = job_args("VLCS", "ERM", [0], 0) | {"trial_seed": None}
    lines = [json.dumps({**record(step, ACCURACIES), "args": other, "hparams": {}}) for step in (50, 100)]
    with (folder / "results.jsonl").open("a") as file:
        file.write("\n".join(lines))
    records = read([tmp_path])
    assert set(records.frame["step"]) == {0}
    assert [len(places) for places in records.skipped.values()] == [2]


@pytest.mark.parametrize(
    "change", [{"trial_seed": 2**70}, {"test_envs": [-1]}, {"test_envs": ["0"]}, {"dataset": None}]
)
def test_arguments_that_make_no_sense_are_counted(tmp_path: Path, change: dict) -> None:
    write_job(tmp_path / "good", job_args("VLCS", "ERM", [0], 0), [record(0, ACCURACIES)])
    write_job(tmp_path / "bad", job_args("VLCS", "ERM", [0], 0) | change, [record(0, ACCURACIES)] * 2)
    write_job(tmp_path / "step", job_args("VLCS", "ERM", [0], 0), [record(2**70, ACCURACIES)])
    records = read([tmp_path])
    assert set(records.frame["run"]) == {[run.folder.name for run in records.runs].index("good")}
    assert sum(map(len, records.skipped.values())) == 3


def test_a_file_that_cannot_be_read_is_counted(tmp_path: Path) -> None:
    write_job(tmp_path / "good", job_args("VLCS", "ERM", [0], 0), [record(0, ACCURACIES)])
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "results.jsonl").symlink_to(tmp_path / "gone")
    records = read([tmp_path])
    assert len(records.runs) == 1
    assert list(records.skipped) == ["Files that cannot be read"]


def test_a_loss_that_diverged_is_read(tmp_path: Path) -> None:
    write_job(tmp_path / "job", job_args("VLCS", "ERM", [0], 0), [record(0, ACCURACIES, penalty=float("nan"))])
    frame = read([tmp_path]).frame
    assert np.isnan(frame.loc[frame["metric"] == "penalty", "value"]).all()
    assert len(frame.loc[frame["metric"] == "acc"]) == 6


def test_a_folder_used_for_two_runs_is_two_runs(tmp_path: Path) -> None:
    folder = write_job(tmp_path / "job", job_args("VLCS", "ERM", [0], 0), [record(0, ACCURACIES)])
    line = json.dumps({**record(0, ACCURACIES), "args": job_args("VLCS", "VIB", [1], 0), "hparams": {}})
    with (folder / "results.jsonl").open("a") as file:
        file.write(line)
    assert [run.algorithm for run in read([tmp_path]).runs] == ["ERM", "VIB"]


def test_unfinished_jobs_and_other_folders_are_reported(tmp_path: Path) -> None:
    args = job_args("VLCS", "ERM", [0], 0)
    write_job(tmp_path / "whole", args, [record(0, ACCURACIES)])
    write_job(tmp_path / "killed", args | {"trial_seed": 1}, [record(0, ACCURACIES)], done=False)
    write_job(tmp_path / "empty", args, [])
    (tmp_path / "started").mkdir()
    (tmp_path / "crashed").mkdir()
    for name in ("out.txt", "err.txt"):
        (tmp_path / "crashed" / name).write_text("")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "idea.md").write_text("")
    records = read([tmp_path])
    assert len(records.runs) == 2
    assert {reason: len(places) for reason, places in records.skipped.items()} == {
        "Jobs without a result yet": 2,
        "Folders without anything in them (not started?)": 1,
        "Folders that are no runs": 1,
    }
    assert any(one.startswith("Not finished: 1 of 2 runs") for one in records.report())


def test_the_same_job_twice_is_reported(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_job(tmp_path / name, job_args("VLCS", "ERM", [0], 0), [record(0, ACCURACIES)])
    assert any("more than once: 1" in sentence for sentence in read([tmp_path]).report())


def test_every_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sweep(tmp_path / "sweep", "ColoredMNIST", 3, trials=1, hparams_seeds=1, pairs=False)
    opened: list[Path] = []
    lines = read_domainbed._lines

    def counted(path: str) -> list[bytes]:
        opened.append(Path(path))
        return lines(path)

    monkeypatch.setattr(read_domainbed, "_lines", counted)
    records = read([tmp_path / "sweep", tmp_path])  # one within the other
    assert len(records.runs) == 6
    assert sorted(opened) == sorted((tmp_path / "sweep").glob("*/results.jsonl"))


@pytest.mark.parametrize(
    "changed",
    [
        {"env1_in_acc": 1.5},
        {"env1_in_acc": None},
        {"env1_in_acc": True},
        {"loss": "high"},
        {"step": -1},
        {"args": {}},
        {"args": job_args("VLCS", "ERM", [1], 0)},
        {"more": 1.0},
        {"loss": float("nan")},
    ],
)
def test_lines_that_are_alike_are_read_at_once_and_others_by_themselves(
    tmp_path: Path, changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frame and what is skipped are the same in either way, whatever one of the lines has."""
    records = [record(step, [0.1 * step + 0.05 * place for place in range(8)]) for step in range(4)]
    job = write_job(tmp_path / "job", job_args("VLCS", "ERM", [0], 0), records)
    at_once = []
    add = read_domainbed._add_at_once
    monkeypatch.setattr(read_domainbed, "_add_at_once", lambda *given: at_once.append(add(*given)) or at_once[-1])
    whole = read([tmp_path])
    lines = (job / "results.jsonl").read_text().splitlines()
    lines[2] = json.dumps({**json.loads(lines[2]), **changed})
    (job / "results.jsonl").write_text("\n".join(lines))
    other = read([tmp_path])
    assert at_once == [True, False]
    monkeypatch.setattr(read_domainbed, "_add_at_once", lambda *given: False)
    (job / "results.jsonl").write_text("\n".join([*lines[:2], *lines[3:]]))
    by_line = read([tmp_path])
    unchanged = whole.frame["step"] != 2
    pd.testing.assert_frame_equal(
        by_line.frame[["split", "metric", "value", "step"]],
        whole.frame.loc[unchanged, ["split", "metric", "value", "step"]].reset_index(drop=True),
    )
    values = other.frame[other.frame["step"] != 2]["value"]
    assert values.tolist() == by_line.frame["value"].tolist()


@pytest.mark.parametrize("content", [{}, {"results.jsonl": ""}, {"a.txt": "x"}])
def test_no_results_is_one_sentence(tmp_path: Path, content: dict[str, str]) -> None:
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match="no results there"):
        read([tmp_path])


def test_no_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        read([tmp_path / "nothing"])


def test_the_frame_can_be_saved(tmp_path: Path) -> None:
    write_job(tmp_path / "job", job_args("VLCS", "ERM", [0], 0), [record(0, ACCURACIES)])
    records = read([tmp_path])
    records.save(tmp_path / "frame.csv")
    saved = pd.read_csv(tmp_path / "frame.csv")
    assert saved["value"].tolist() == records.frame["value"].tolist()
    assert saved["test_envs"].tolist() == [0] * len(saved)
    with pytest.raises(UserError, match=r"\.csv or \.parquet"):
        records.save(tmp_path / "frame.txt")


def test_parquet_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_job(tmp_path / "job", job_args("VLCS", "ERM", [0], 0), [record(0, ACCURACIES)])
    records = read([tmp_path])

    def no_engine(*args: object, **kwargs: object) -> bytes:
        raise ImportError("pyarrow")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", no_engine)
    with pytest.raises(UserError, match="needs pyarrow"):
        records.save(tmp_path / "frame.parquet")
