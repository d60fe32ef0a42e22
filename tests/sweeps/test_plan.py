"""Plans: the harness' own jobs, only those that are needed and missing, and what running them comes to."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from worker_jobs import until

from cim_dg import cli, launchers
from cim_dg.errors import LeftToAnother, RunError, UserError
from cim_dg.launchers import notes
from cim_dg.runtime import locks
from cim_dg.sweeps import domainbed
from cim_dg.sweeps import plan as planning
from cim_dg.sweeps.jobs import DONE, Command
from cim_dg.sweeps.plan import Plan, make_plan
from cim_dg.sweeps.spec import load

ROOT = Path(__file__).parents[2]
ONE_SETTING = {"protocol": "random-search", "n_hparams": 1}


def _digits(folder: Path, **changes: object) -> Plan:
    return make_plan(load("digits", {"algorithms": ["ERM", "CIM"], "n_trials": 2, **changes}), None, folder)


def _finish(plan: Plan, count: int) -> None:
    for place, job in enumerate(plan.jobs[:count]):
        job.folder.mkdir(parents=True)
        (job.folder / "err.txt").touch()
        (job.folder / "done").touch()
        os.utime(job.folder / "err.txt", (1000, 1000))
        os.utime(job.folder / "done", (1000 + 60 * (place + 1),) * 2)


def test_only_the_jobs_that_the_rule_needs(tmp_path: Path) -> None:
    assert len(_digits(tmp_path).jobs) == 2 * 2 * 3
    assert len(_digits(tmp_path, selection="leave-one-out").jobs) == 2 * 2 * 6
    words = _digits(tmp_path).commands[0].words
    assert "--single_test_envs" in words
    assert "--single_test_envs" not in _digits(tmp_path, selection="leave-one-out").commands[0].words


def _compare_with_sweep(plan: Plan, folder: Path, environment: dict[str, str], cwd: Path) -> None:
    """The folders that `domainbed.scripts.sweep` lists are the plan's, in the same order."""
    (command,) = plan.commands
    words = ["delete_incomplete" if word == "launch" else word for word in command.words]  # lists all, deletes nothing
    done = subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    listed = [line.split(": ")[1].split(" ")[0] for line in done.stdout.splitlines() if line.startswith("Not launched")]
    assert listed == [str(job.folder) for job in plan.jobs]


@pytest.mark.parametrize("rule", ["iid", "leave-one-out"])
def test_the_jobs_are_those_of_the_stand_in(tmp_path: Path, rule: str) -> None:
    plan = _digits(tmp_path, selection=rule, steps=5, n_hparams=2)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    code = (
        "import sys; from cim_dg import autoload; autoload.install(); from domainbed.scripts import sweep\n"
        "sys.exit(sweep.main(sys.argv[1:]))"
    )
    (command,) = plan.commands
    run = Plan(plan.spec, plan.jobs, [Command([sys.executable, "-c", code, *command.words[3:]], command.jobs)])
    _compare_with_sweep(run, tmp_path, environment, tmp_path)


def test_fresh_trials_are_jobs_of_their_own(tmp_path: Path) -> None:
    plan = _digits(tmp_path, first_trial=1000)
    assert {job.args["trial_seed"] for job in plan.jobs} == {1000, 1001}
    seeds = {job.args["seed"] for job in plan.jobs}
    assert len(seeds) == len(plan.jobs) and not seeds & {job.args["seed"] for job in _digits(tmp_path).jobs}
    assert plan.commands[0].words[2] == "cim_dg.sweeps.launch", "DomainBed's sweep counts from 0"


@pytest.mark.harness
def test_the_jobs_are_those_of_the_real_domainbed(tmp_path: Path, domainbed_root: Path) -> None:
    (tmp_path / "VLCS").mkdir()
    spec = load("vlcs", {"algorithms": ["ERM", "IRM"], "n_trials": 2, "n_hparams": 2, "selection": "leave-one-out"})
    plan = make_plan(spec, str(tmp_path), tmp_path / "out")
    _compare_with_sweep(plan, tmp_path, dict(os.environ), domainbed_root)


def test_done_jobs_are_not_run_again_and_unfinished_ones_are(tmp_path: Path) -> None:
    plan = _digits(tmp_path)
    _finish(plan, 3)
    plan.jobs[5].folder.mkdir()
    again = _digits(tmp_path)
    assert [command.words[3] for command in again.commands] == ["launch"]
    assert len(again.missing()) == 9
    assert "12 jobs: 3 done, 1 unfinished, 8 not started." in again.describe()
    _finish(Plan(plan.spec, [job for job in plan.jobs if not job.folder.exists()], []), 99)
    (plan.jobs[5].folder / "done").touch()
    assert _digits(tmp_path).commands == []


def test_the_time_left_is_the_median_of_the_same_method(tmp_path: Path) -> None:
    plan = _digits(tmp_path)
    assert plan.seconds_left() is None
    _finish(plan, 3)  # three jobs of ERM, of 60, 120 and 180 seconds
    again = _digits(tmp_path)
    assert again.seconds_left() == pytest.approx(9 * 120)
    assert "18 min" in again.describe() and again.describe().endswith(" Not timed yet, and counted as the others: CIM.")


def test_a_sweep_of_wilds_is_a_command_for_each_run(tmp_path: Path) -> None:
    (tmp_path / "waterbirds_v1.0").mkdir()
    spec = load("waterbirds", {**ONE_SETTING, "algorithms": ["ERM", "CIM"], "n_trials": 2, "selection": "worst-class"})
    plan = make_plan(spec, str(tmp_path), tmp_path / "out")
    assert len(plan.commands) == 4
    later = make_plan(replace(spec, first_trial=7), str(tmp_path), tmp_path / "out")
    assert [job.args["seed"] for job in later.jobs] == [7, 7, 8, 8]
    words = plan.commands[1].words
    assert words[1:5] == ["-m", "cim_dg.cli", "wilds", "train"]
    for flag, value in (("--algorithm", "CIM"), ("--seed", "0"), ("--selection", "worst-class")):
        assert words[words.index(flag) + 1] == value
    for job, record in zip(plan.jobs, ({"finished": True}, {"finished": False}), strict=False):
        job.folder.mkdir(parents=True)
        (job.folder / "run.json").write_text(json.dumps(record))
    again = make_plan(spec, str(tmp_path), tmp_path / "out")
    assert [job.state for job in again.jobs].count(DONE) == 1
    assert all("--resume" in command.words for command in again.commands)


def test_options_of_wilds_are_passed_on(tmp_path: Path) -> None:
    (tmp_path / "waterbirds_v1.0").mkdir()
    file = tmp_path / "mine.yaml"
    text = (ROOT / "sweeps" / "waterbirds.yaml").read_text().partition("options:")[0]
    file.write_text(text + "options: {n_epochs: 2, model_kwargs: {pretrained: false}, target_resolution: [36, 36]}\n")
    words = make_plan(load(str(file), ONE_SETTING), str(tmp_path), tmp_path / "out").commands[0].words
    assert " ".join(words).endswith("--n_epochs 2 --model_kwargs pretrained=False --target_resolution 36 36")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("vlcs", None, "--data_dir is missing: the folder that holds VLCS"),
        ("vlcs", "nowhere", "holds no VLCS"),
        ("waterbirds", ".", "holds no waterbirds_v"),
    ],
)
def test_data_that_are_not_there(name: str, data: str | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        make_plan(load(name), data, tmp_path)


def _with_command(plan: Plan, code: str) -> Plan:
    """The plan with a command that stands for the harness: `code` gets the folder of each missing job."""
    folders = [str(job.folder) for job in plan.missing()]
    return Plan(plan.spec, plan.jobs, [Command([sys.executable, "-c", code, *folders], plan.missing())])


FINISH = """
import pathlib, sys
for one in sys.argv[1:]:
    p = pathlib.Path(one); p.mkdir(parents=True); (p / 'done').touch()
"""


def test_running_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planning.run(_with_command(_digits(tmp_path / "new"), FINISH), tmp_path / "new")
    assert "[1/1] $ " in capsys.readouterr().err
    assert _digits(tmp_path / "new").missing() == []


def test_jobs_that_fail_are_named_with_their_last_words(tmp_path: Path) -> None:
    code = FINISH.replace("(p / 'done').touch()", "(p / 'err.txt').write_text('Traceback\\nValueError: no luck\\n')")
    with pytest.raises(RunError, match=r"12 of 12 jobs are not done; the first, ERM on .*: ValueError: no luck"):
        planning.run(_with_command(_digits(tmp_path), code), tmp_path)


def test_a_command_that_fails_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="exit code 3"):
        planning.run(_with_command(_digits(tmp_path), FINISH + "sys.exit(3)"), tmp_path)


def test_a_command_that_refuses_is_no_failure_of_the_jobs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="DomainBed's command refused to start the jobs, for the reason above"):
        planning.run(_with_command(_digits(tmp_path), "raise SystemExit(2)"), tmp_path)


def test_jobs_of_others_are_not_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real DomainBed's jobs start over, but for those that are claimed, or wait in Slurm or in a live launcher."""
    plan = _digits(tmp_path)
    waiting, stopped, claimed, listed = plan.jobs[:4]
    for job in (waiting, stopped, claimed, listed):
        job.folder.mkdir(parents=True)
        (job.folder / locks.NAME).touch()
        (job.folder / "results.jsonl").touch()
    (tmp_path / ".cim-dg").mkdir()
    (tmp_path / ".cim-dg" / "slurm.txt").write_text(f"41_0 {waiting.folder.name}\n41_1 {stopped.folder.name}\n")
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho 41_0\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("cim_dg.sweeps.domainbed.is_standin", lambda: False)
    monkeypatch.setattr(locks, "PATIENCE", 0)
    monkeypatch.setattr("cim_dg.launchers.DYING", 0)
    with locks.claim(claimed.folder), notes.announced([launchers.Job((), listed.folder, False)]):  # type: ignore[union-attr]
        left = domainbed.clear(_digits(tmp_path).jobs)
        assert [job.folder for job in left] == [waiting.folder, claimed.folder, listed.folder]
        assert not stopped.folder.exists()
        others = FINISH.replace("p.mkdir(", "p.exists() or p.mkdir(").replace(
            "(p / 'done')", "list(p.iterdir()) or (p / 'done')"
        )
        run = _with_command(_digits(tmp_path), others)
        with pytest.raises(LeftToAnother, match="3 of 12 jobs are left to another process"):
            planning.run(run, tmp_path)
    squeue.write_text("#!/bin/sh\n")
    assert domainbed.clear(_digits(tmp_path).jobs) == []


@pytest.mark.slow
def test_a_sweep_by_slurm_submits_and_shows_the_table_when_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("submitit")
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("CIM_DG_SLURM_CLUSTER", "local")
    monkeypatch.setenv("CIM_DG_LOG", "")  # put back after the test
    output = tmp_path / "sweep"
    words = f"sweep digits --output_dir {output} --algorithms ERM --n_trials 1 --steps 2 --skip_confirmation"
    words += " --command_launcher slurm --log tensorboard"
    assert cli.main(words.split()) == 0
    assert "The jobs are submitted." in capfd.readouterr().out
    until(lambda: len(list(output.glob("submitit/*_result.pkl"))) == 3, seconds=240)
    assert cli.main(words.split()) == 0
    assert "3 jobs: 3 done" in (out := capfd.readouterr().out) and "cim-dg collect" in out
    assert len(list(output.glob("*/tensorboard/*/events.*"))) == 3


def test_jobs_find_the_python_that_runs_this(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    code = "import shutil\nassert shutil.which('python'), 'DomainBed starts jobs as `python`'\n" + FINISH
    planning.run(_with_command(_digits(tmp_path), code), tmp_path)


def test_a_dry_run_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sweep", "digits", "--output_dir", str(tmp_path / "out"), "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert "45 jobs: 0 done" in out
    assert "-m domainbed.scripts.sweep launch --datasets NuisanceDigits" in out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", ["--require_gpu", "--command_launcher multi_gpu"])
def test_without_a_gpu_that_the_jobs_need_nothing_is_made(
    options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CIM_DG_REQUIRE_GPU", "0")  # the command sets it for its jobs
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = ["sweep", "digits", "--output_dir", str(tmp_path / "out"), "--skip_confirmation", *options.split()]
    assert cli.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match("cim-dg: error: (a GPU is required|the launcher multi_gpu needs a GPU)", line)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", ["--dry_run", "--plan", "--skip_confirmation"])
def test_a_fork_without_a_sweep_is_named(
    options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "domainbed" / "algorithms").mkdir(parents=True)
    (tmp_path / "domainbed" / "algorithms" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("domainbed", "domainbed.command_launchers"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert cli.main(["sweep", "digits", "--output_dir", str(tmp_path / "out"), options]) == 2
    out, err = capsys.readouterr()
    assert f"error: {tmp_path} holds a fork of DomainBed without a sweep" in err and not out
    assert not (tmp_path / "out").exists()


def test_nobody_to_ask_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nobody(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", nobody)
    assert cli.main(["sweep", "digits", "--output_dir", str(tmp_path)]) == 2
    assert "--skip_confirmation" in capsys.readouterr().err


def test_no_is_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("builtins.input", lambda prompt: "n")
    assert cli.main(["sweep", "digits", "--output_dir", str(tmp_path / "out")]) == 0
    assert "Nothing was run" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_whole_sweep_ends_with_the_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Real jobs, of four steps, and none of them again the second time."""
    words = ["sweep", "digits", "--output_dir", str(tmp_path), "--steps", "4", "--n_trials", "1", "--skip_confirmation"]
    words += ["--algorithms", "CIM"]
    assert cli.main(words) == 0
    out = capfd.readouterr().out
    assert "NuisanceDigits: test accuracy (%) [iid]" in out
    assert "domainbed-standin" in out
    times = {path: path.stat().st_mtime for path in tmp_path.glob("*/done")}
    assert len(times) == 3
    assert cli.main(words) == 0
    assert {path: path.stat().st_mtime for path in tmp_path.glob("*/done")} == times
    assert "3 jobs: 3 done" in capfd.readouterr().out
