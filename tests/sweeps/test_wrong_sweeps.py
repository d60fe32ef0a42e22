"""`cim-dg sweep` refuses, before the first job, what every job would refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cim_dg import cli
from cim_dg.runtime.yaml_reader import read_yaml

SWEEPS = Path(__file__).parents[2] / "sweeps"


def changed_sweep(folder: Path, name: str, entries: dict[str, Any]) -> list[str]:
    """The command of the sweep `name` with other entries, written to `folder`."""
    (folder / "mine.yaml").write_text(json.dumps({**dict(read_yaml(SWEEPS / f"{name}.yaml")), **entries}))
    return ["sweep", str(folder / "mine.yaml"), "--output_dir", str(folder / "out")]


@pytest.mark.parametrize(
    ("words", "entries", "message"),
    [
        (["--algorithms", "ERM", "CIN"], {}, "there is no algorithm 'CIN'"),
        (["--hparams", '{"nuisance_shiftt": 1}'], {}, "has no hyper-parameter 'nuisance_shiftt'"),
        (["--command_launcher", "pol"], {}, "there is no launcher 'pol'; .*; did you mean 'pool'"),
        ([], {"hparams": {"cim_lamda": 1}}, "has no hyper-parameter 'cim_lamda'"),
        ([], {"algorithms": ["CIM"], "hparams": {"cim_lambda": -1}}, "cim_lambda is -1; accepted is a number of at le"),
        ([], {"hparams": {"lr": "fast"}}, "lr is 'fast'; accepted is a number"),
        (["--n_trials", "-3"], {}, "n_trials is -3"),
        (["--steps", "0"], {}, "steps is 0"),
        (["--selection", "average"], {}, "selection is 'average'"),
    ],
)
def test_what_every_job_would_refuse_starts_nothing(
    words: list[str],
    entries: dict[str, Any],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With --dry_run, on paper with --plan, and without."""
    command = [*changed_sweep(tmp_path, "digits", entries), *words]
    for more in ("--dry_run", "--plan", "--skip_confirmation"):
        assert cli.main([*command, more]) == 2
        out, err = capsys.readouterr()
        assert re.search(f"^cim-dg: error: .*{message}", err, re.MULTILINE) and out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        (["--algorithms", "CIN"], {}, "algorithm is 'CIN'"),
        (["--command_launcher", "dummy"], {}, "there is no launcher 'dummy'; there are local"),
        ([], {"lr": -1}, "lr is -1"),
        ([], {"learning_rate": 1}, "the options of wilds train: there is no option --learning_rate"),
        ([], {"batch_size": "many"}, "invalid int value: 'many'"),
        ([], {"cim_lambda": -1}, "cim_lambda is -1"),
        ([], {"defaults": "nowhere"}, "no defaults named 'nowhere'"),
        (["--selection", "worst-group"], {"report_groups": []}, "report_groups"),
    ],
)
def test_what_every_run_of_wilds_would_refuse_starts_nothing(
    words: list[str],
    options: dict[str, Any],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "waterbirds_v1.0").mkdir()
    command = changed_sweep(tmp_path, "waterbirds", {"algorithms": ["CIM"], "options": options})
    for more in (["--dry_run", "--data_dir", str(tmp_path)], ["--plan"]):
        assert cli.main([*command, *words, *more]) == 2
        out, err = capsys.readouterr()
        assert message in err and out == "" and err.count("\n") == 1


@pytest.mark.parametrize("how", ["--dry_run", "--plan"])
def test_folders_that_are_none(how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert cli.main(["sweep", "digits", "--output_dir", str(tmp_path / "file"), how]) == 2
    assert f"--output_dir is {tmp_path / 'file'}, which is a file" in capsys.readouterr().err
    assert cli.main(["sweep", "vlcs", "--output_dir", str(tmp_path), "--data_dir", str(tmp_path / "none"), how]) == 2
    assert f"--data_dir {tmp_path / 'none'} holds no VLCS" in capsys.readouterr().err
