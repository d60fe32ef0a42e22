"""Plans and job folders are those of the real DomainBed's sweep; wrong input starts nothing; failures are told."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from domainbed import command_launchers
from domainbed.lib import command
from domainbed.scripts import sweep
from standin_samples import GOLDEN, PAIRS, SINGLE, SINGLE_HPARAMS, in_fixed_order

from cim_dg.runtime import locks

ONE_JOB_EACH = "--datasets Debug28 --algorithms ERM --n_trials 1 --n_hparams 1 --single_test_envs --skip_confirmation"
ONE_JOB_EACH += " --output_dir sweep --data_dir data --steps 2"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(command.ANNOUNCED, "0")


def test_plan_with_pairs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("builtins.input", lambda question: print(question, end="") or "n")
    assert sweep.main(PAIRS.split()) == 0
    out, err = capsys.readouterr()
    assert out == (GOLDEN / "plan_pairs.txt").read_text()
    assert err.count("stand-in for DomainBed") == 1
    assert not Path("sweep").exists()


def test_plan_and_commands_with_single_test_environments(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main([*SINGLE.split(), "--hparams", SINGLE_HPARAMS]) == 0
    assert in_fixed_order(capsys.readouterr().out) == (GOLDEN / "plan_single.txt").read_text()


def _launch(monkeypatch: pytest.MonkeyPatch, script: str) -> int:
    """Launch three jobs, in each of which `script` is run by a shell with the job's folder in $1."""

    def launcher(commands: list[str]) -> None:
        folders = [words[words.index("--output_dir") + 1] for words in map(shlex.split, commands)]
        commands = [f"sh -c {shlex.quote(script)} job {folder} --output_dir {folder}" for folder in folders]
        command_launchers.REGISTRY["local"](commands)

    monkeypatch.setitem(command_launchers.REGISTRY, "scripted", launcher)
    return sweep.main(["launch", *ONE_JOB_EACH.split(), "--command_launcher", "scripted"])


def test_launch_again_runs_what_is_not_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _launch(monkeypatch, "echo >$1/done") == 0
    assert len(list(Path("sweep").glob("*/done"))) == 3
    first, second, third = sorted(Path("sweep").iterdir())
    (first / "done").unlink()
    (second / "done").unlink()
    second.rmdir()
    capsys.readouterr()
    assert _launch(monkeypatch, "echo again >$1/done") == 0
    out, err = capsys.readouterr()
    assert "3 jobs: 1 done, 1 incomplete, 1 not launched." in out
    assert "About to launch 2 jobs." in out
    assert "1 of them are incomplete and go on where they stopped; to have them start over: delete_incomp" in err
    assert [(job / "done").read_text() for job in (first, second, third)] == ["again\n", "again\n", "\n"]

    (first / "done").unlink()
    delete = ["delete_incomplete", *ONE_JOB_EACH.split(), "--command_launcher", "local"]
    assert sweep.main(delete) == 0
    assert "Deleted 1 jobs!" in capsys.readouterr().out
    assert sorted(Path("sweep").iterdir()) == [second, third]


def test_jobs_that_run_are_neither_launched_nor_deleted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _launch(monkeypatch, "touch $1/results.jsonl $1/.lock") == 1
    first, *_ = jobs = sorted(Path("sweep").glob("[!.]*"))
    claimed = locks.claim(first)
    assert claimed is not None
    with claimed:
        capsys.readouterr()
        assert _launch(monkeypatch, "echo >$1/again") == 1
        out, err = capsys.readouterr()
        assert "3 jobs: 0 done, 3 incomplete, 0 not launched.\nAbout to launch 2 jobs." in out
        assert "1 of the incomplete jobs are running now, and are left alone." in err
        assert [(job / "again").exists() for job in jobs] == [False, True, True]
        assert sweep.main(["delete_incomplete", *ONE_JOB_EACH.split(), "--command_launcher", "local"]) == 0
    assert list(Path("sweep").glob("[!.]*")) == [first]


def test_jobs_that_fail_are_named_and_the_others_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _launch(monkeypatch, "mkdir lock || exit 3; echo >$1/done") == 1
    err = capsys.readouterr().err
    assert "2 of 3 jobs failed" in err
    (done,) = Path("sweep").glob("*/done")
    for job in Path("sweep").glob("[!.]*"):
        assert (job.name in err) == (job != done.parent)


def test_a_launcher_that_refuses_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert sweep.main(["launch", *ONE_JOB_EACH.split(), "--command_launcher", "multi_gpu"]) == 2
    assert "needs a GPU" in capsys.readouterr().err
    assert not Path("sweep").exists()


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--algorithms ERM Nonesuch", "no algorithm 'Nonesuch'.*CIM.*ERM"),
        ("--datasets VLCS Nonesuch", "no dataset 'Nonesuch'.*ColoredMNIST.*NuisanceDigits"),
        ("--command_launcher nonesuch", "no launcher 'nonesuch'; there are local, dummy, multi_gpu"),
        ("--hparams {lr}", "not JSON"),
        ('--hparams {"lrr":1}', "no hyper-parameter 'lrr'"),
        ('--hparams {"lr":-1}', "lr is -1; accepted is a number of at least 0"),
        ('--algorithms ERM CIM --hparams {"cim_lambda":1}', "ERM has no hyper-parameter 'cim_lambda'"),
        ('--algorithms CIM --hparams {"cim_lambda":-1}', "cim_lambda is -1; accepted is a number of at least 0"),
        ("--algorithms ERM ERM", "--algorithms names ERM twice"),
        ("--n_hparams_from 1", "--n_hparams_from is 1; accepted is less than --n_hparams 1"),
        ("--datasets VLCS --command_launcher local", "--data_dir data lacks data: `cim-dg data get VLCS"),
        ("--steps -1", "--steps: '-1' is not a whole number from 1"),
        ("--n_trials -3", "--n_trials: '-3' is not a whole number from 1"),
        ("--n_hparams 0", "--n_hparams: '0' is not a whole number from 1"),
        ("--n_hparams_from -1", "--n_hparams_from: '-1'"),
        ("--holdout_fraction nan", "--holdout_fraction: 'nan' is not a number between 0 and 1"),
        ("--seed x", "--seed: 'x'"),
    ],
)
def test_wrong_input_starts_nothing(flags: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = sweep.main(["launch", *ONE_JOB_EACH.split(), "--command_launcher", "dummy", *flags.split()])
    except SystemExit as end:  # as argparse ends
        code = end.code
    assert code == 2
    out, err = capsys.readouterr()
    assert re.search(complaint, err)
    assert out == ""
    assert not Path("sweep").exists()


def test_nobody_to_confirm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def closed(question: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", closed)
    flags = [flag for flag in ONE_JOB_EACH.split() if flag != "--skip_confirmation"]
    assert sweep.main(["launch", *flags, "--command_launcher", "dummy"]) == 2
    assert "--skip_confirmation" in capsys.readouterr().err
