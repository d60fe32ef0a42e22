"""Records that are damaged, half written or of another form: left out by name, never a traceback or a figure."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from made_sweeps import job_args, record, write_job
from made_wilds_logs import write_wilds_log

from cim_dg import cli
from cim_dg.results import build, read_domainbed, read_wilds

FORMATS = ("text", "html")


TABLES = [form for form in FORMATS if form != "html"]


def collect(folder: Path, capsys: pytest.CaptureFixture[str], formats: Sequence[str] = FORMATS) -> str:
    """What `cim-dg collect` says on stderr; it must print a table in every format."""
    for form in formats:
        words = ["collect", str(folder), "--format", form, "--best_hparams", "--output", str(folder / f"out.{form}")]
        assert cli.main(words) == 0
    return capsys.readouterr().err


def methods_in(folder: Path) -> list[str]:
    """The methods of the runs that are read."""
    records = build.report([folder]).records
    assert records is not None
    return [run.algorithm for run in records.runs]


def change_record(**changes: Any) -> Callable[[Path], None]:
    """A change of a WILDS run's run.json."""

    def change(run: Path) -> None:
        content = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps({**content, **changes}))

    return change


def overwrite(name: str, content: str) -> Callable[[Path], None]:
    """Other content of a file, a folder in its place ("/"), a link to nowhere ("->"), or nothing (None)."""

    def change(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        if content == "/":
            (run / name).mkdir()
        elif content == "->":
            (run / name).symlink_to("nowhere")
        else:
            (run / name).write_text(content)

    return change


def set_test_values(value: str) -> Callable[[Path], None]:
    """The same value in every column of test_eval.csv but the epoch."""

    def change(run: Path) -> None:
        header = (run / "test_eval.csv").read_text().splitlines()[0]
        (run / "test_eval.csv").write_text(f"{header}\n0{f',{value}' * header.count(',')}\n")

    return change


@pytest.mark.parametrize("counts", [(2255, 2255, 642, 642), (10, 10, 10, 10)])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda run: (run / "test_eval.csv").unlink(), read_wilds.NOT_TESTED),
        (overwrite("test_eval.csv", ""), read_wilds.NOT_TESTED),
        (overwrite("test_eval.csv", "/"), read_wilds.NOT_TESTED),
        (overwrite("test_eval.csv", "->"), "Files that cannot be read"),
        (overwrite("test_eval.csv", "epoch,acc_avg\n0," + "1" * 200_000), read_wilds.MALFORMED),
        (set_test_values("7.5"), read_wilds.REFUSED),
        (set_test_values("nan"), read_wilds.REFUSED),
        (set_test_values("inf"), read_wilds.REFUSED),
        (set_test_values("-0.5"), read_wilds.REFUSED),
        (overwrite("run.json", "[" * 100_000), read_wilds.NO_RECORD),
        (overwrite("run.json", "/"), read_wilds.NO_RECORD),
        (change_record(seed=10**30), read_wilds.NO_RECORD),
        (change_record(seed="x"), read_wilds.NO_RECORD),
        (change_record(seed=None), read_wilds.NO_RECORD),
        (change_record(config=[1]), read_wilds.NO_RECORD),
        (change_record(hparams="abc"), read_wilds.NO_RECORD),
        (change_record(algorithm={}), read_wilds.NO_RECORD),
    ],
)
def test_a_wilds_run_that_cannot_be_used_is_left_out_by_name(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    counts: tuple[int, ...],
    change: Callable[[Path], None],
    reason: str,
) -> None:
    write_wilds_log(tmp_path / "erm", "ERM", counts)
    change(write_wilds_log(tmp_path / "cim", "CIM", counts))
    err = collect(tmp_path, capsys, TABLES)  # the plots of the run that is left would be the same in each case
    assert reason in err and str(tmp_path / "cim") in err
    assert methods_in(tmp_path) == ["ERM"]


@pytest.mark.parametrize(
    "changes",
    [{"versions": [1]}, {"seeds": [1]}, {"data": 5}, {"epochs_wanted": "9" * 5000}, {"selected_epoch": 10**40}],
)
def test_facts_of_another_type_keep_no_run_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any]
) -> None:
    change_record(**changes)(write_wilds_log(tmp_path / "cim", "CIM"))
    collect(tmp_path, capsys)
    assert methods_in(tmp_path) == ["CIM"]


def test_runs_on_other_numbers_of_images_have_tables_of_their_own(tmp_path: Path) -> None:
    write_wilds_log(tmp_path / "all", "ERM", (10, 10, 10, 10))
    write_wilds_log(tmp_path / "half", "CIM", (5, 5, 5, 5))
    tables = build.report([tmp_path]).tables
    assert [[row.method for row in table.rows] for table in tables] == [["CIM"], ["ERM"]]
    assert "20 test images" in tables[0].notes[-1] and "40 test images" in tables[1].notes[-1]


def test_a_run_whose_selected_epoch_is_not_tested_yet_is_named(tmp_path: Path) -> None:
    folder = write_wilds_log(tmp_path / "cim", "CIM")
    lines = (folder / "test_eval.csv").read_text().splitlines()
    (folder / "test_eval.csv").write_text("\n".join(lines[:2]) + "\n")  # epoch 0; epoch 1 is the best on validation
    (table,) = build.report([tmp_path]).tables
    assert any(note.startswith("Left out") and "CIM seed 0" in note and str(folder) in note for note in table.notes)


def write_jobs(root: Path, bad: dict[str, Any]) -> Path:
    """Three trials of ERM on three environments, and the same of CIM, of which one has `bad` in its records."""
    for method in ("ERM", "CIM"):
        for trial in range(3):
            for env in range(3):
                is_bad = (method, trial, env) == ("CIM", 1, 2)
                values = record(0, [0.5 + 0.01 * trial] * 6) | (bad if is_bad else {})
                write_job(root / f"{method}-{trial}-{env}", job_args("NuisanceDigits", method, [env], trial), [values])
    return root / "CIM-1-2"


@pytest.mark.parametrize("value", [5.0, -0.5, float("nan"), float("inf")])
def test_an_accuracy_that_cannot_be_is_refused_by_name_and_its_trial_is_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: float
) -> None:
    job = write_jobs(tmp_path, {"env1_out_acc": value})
    err = collect(tmp_path, capsys)
    assert f"{read_domainbed.REFUSED}: 1 (first: {job / 'results.jsonl'}:1, where env1_out_acc is {value})." in err
    assert f"CIM on NuisanceDigits, trial 1, test environments [2] ({job})" in err
    (table,) = build.report([tmp_path]).tables
    cells = next(row.cells for row in table.rows if row.method == "CIM")
    assert (cells["new"].trials, cells["+90%"].trials) == (2, 3)
    assert cells["new"].mean == pytest.approx(51.0)
    assert any("CIM (domainbed) does not have the same trials everywhere" in note for note in table.notes)


@pytest.mark.parametrize("bad", [{"env0_in_acc": 10**400}, {"loss": 10**400}, {"env0_in_acc": True}, {"step": 10**30}])
def test_numbers_that_no_harness_writes_are_no_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: dict[str, Any]
) -> None:
    write_jobs(tmp_path, bad)
    err = collect(tmp_path, capsys)
    if bad == {"env0_in_acc": True}:  # no number, and so no accuracy of that split
        assert err == ""
    else:
        assert read_domainbed.TRUNCATED in err and "CIM on NuisanceDigits, trial 1" in err


@pytest.mark.parametrize("hparams", [[1], "abc", 3])
def test_hparams_that_are_no_object_are_no_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], hparams: object
) -> None:
    damaged = write_jobs(tmp_path, {}) / "results.jsonl"
    lines = [json.dumps(json.loads(line) | {"hparams": hparams}) + "\n" for line in damaged.read_text().splitlines()]
    damaged.write_text("".join(lines))
    assert read_domainbed.TRUNCATED in collect(tmp_path, capsys, TABLES)


def test_a_diverged_loss_is_no_reason_to_leave_a_checkpoint_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jobs(tmp_path, {"loss": float("nan")})
    assert collect(tmp_path, capsys) == ""


@pytest.mark.parametrize(
    "change",
    [
        overwrite("results.jsonl", "[" * 100_000 + "\n"),
        overwrite("results.jsonl", '{"a":' * 100_000 + "\n"),
        overwrite("results.jsonl", "/"),
        overwrite("results.jsonl", "->"),
        lambda job: (job / "results.jsonl").write_text(
            (job / "results.jsonl").read_text().replace("env0", "env" + "9" * 12)
        ),
        overwrite("provenance.json", "/"),
        overwrite("provenance.json", json.dumps({"seeds": [1], "versions": [1], "harness": [1], "data": [1]})),
    ],
)
def test_files_of_another_form_are_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], None]
) -> None:
    change(write_jobs(tmp_path, {}))
    collect(tmp_path, capsys)


def test_data_and_notes_of_launchers_next_to_the_runs_are_no_reason_to_warn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jobs(tmp_path / "domainbed", {})
    (tmp_path / "data" / "waterbirds_v1.0" / "images").mkdir(parents=True)
    (tmp_path / "data" / "waterbirds_v1.0" / "metadata.csv").touch()
    (tmp_path / "domainbed" / ".cim-dg" / "launch").mkdir(parents=True)
    assert collect(tmp_path, capsys) == ""
