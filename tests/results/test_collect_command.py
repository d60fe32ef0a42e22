"""`cim-dg collect` from the outside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_sweeps import job_args, record, write_job, write_sweep

from cim_dg import cli


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sweep")
    write_sweep(root, "NuisanceDigits", 3, hparams_seeds=1, pairs=False)
    return root


def test_text_goes_to_the_terminal_and_warnings_beside_it(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_job(sweep / "killed", job_args("NuisanceDigits", "ERM", [0], 7), [record(0, [0.5] * 6)], done=False)
    assert cli.main(["collect", str(sweep)]) == 0
    out, err = capsys.readouterr()
    assert "NuisanceDigits: test accuracy (%) [iid]" in out
    assert "Not finished: 1 of" in err


@pytest.mark.parametrize(
    ("form", "start"),
    [
        ("text", "NuisanceDigits"),
        ("markdown", "### "),
        ("latex", "\\documentclass"),
        ("csv", "table,"),
        ("html", "<!doctype html>"),
    ],
)
def test_every_format_can_be_written_to_a_file(sweep: Path, tmp_path: Path, form: str, start: str) -> None:
    output = tmp_path / "comparison"
    assert cli.main(["collect", str(sweep), "--format", form, "--output", str(output), "--best_hparams"]) == 0
    text = output.read_text(encoding="utf-8")
    assert text.startswith(start)
    assert "CIM" in text


def test_published_tables_need_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["collect", "--table", "vlcs", "backgrounds"]) == 0
    out = capsys.readouterr().out
    assert "98.21" in out
    assert "8.8 !" in out


def test_published_rows_can_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path, "VLCS", 4, trials=1, hparams_seeds=1, pairs=False)
    assert cli.main(["collect", str(tmp_path), "--no-published"]) == 0
    assert "†" not in capsys.readouterr().out


def test_the_frame_is_saved(sweep: Path, tmp_path: Path) -> None:
    assert cli.main(["collect", str(sweep), "--save", str(tmp_path / "frame.csv")]) == 0
    assert (tmp_path / "frame.csv").read_text().startswith("run,harness,dataset,")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "at least one folder"),
        (["nowhere"], "nowhere is not a folder"),
        (["{sweep}", "--baseline", "IRM"], "--baseline IRM"),
        (["{sweep}", "--table", "mnist"], "--table mnist"),
        (["{sweep}", "--output", "no/such/folder/file"], "cannot be written"),
        (["{sweep}", "--save", "frame.txt"], ".csv or .parquet"),
        (["--table", "vlcs", "--save", "frame.csv"], "needs folders"),
    ],
)
def test_bad_input_is_one_sentence(
    sweep: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["collect", *(argument.format(sweep=sweep) for argument in arguments)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error
    assert error.startswith("cim-dg: error: ")


def test_an_unknown_rule_lists_the_rules(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["collect", str(sweep), "--selection", "best"])
    assert stopped.value.code == 2
    assert "leave-one-out" in capsys.readouterr().err


def test_piped_output_is_never_cut(sweep: Path) -> None:
    """Rich would fold a table to 80 columns where it sees no terminal."""
    folder = sweep.parent / ("a long name " * 12)
    write_job(folder / "job", job_args("A data set with quite a long name", "ERM", [0], 0), [record(0, [0.5] * 24)])
    done = subprocess.run(
        [sys.executable, "-m", "cim_dg.cli", "collect", str(folder), "--best_hparams"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={"COLUMNS": "40", "PATH": "", "PYTHONIOENCODING": "utf-8"},
    )
    assert str(folder / "job") in done.stdout
    assert max(map(len, done.stdout.splitlines())) > 200


def test_json_of_another_kind_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "results.jsonl").write_text(json.dumps({"loss": 1}) + "\n")
    assert cli.main(["collect", str(tmp_path)]) == 2
    assert "cut off or malformed, skipped: 1" in capsys.readouterr().err
