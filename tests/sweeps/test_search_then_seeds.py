"""Search, then seeds: what each stage plans, what it refuses, and its table, which is compared with one by hand."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_wilds_sweep
from killed_sweeps import ONE_AT_A_TIME, kill_when
from made_sweeps import uniform
from made_wilds_logs import write_wilds_log

from cim_dg import cli
from cim_dg.domainbed.standin import hparams_registry
from cim_dg.errors import UserError
from cim_dg.hparams import seed_hash
from cim_dg.results import audit, build
from cim_dg.results.read import read
from cim_dg.sweeps import plan as planning
from cim_dg.sweeps.jobs import DONE, Job
from cim_dg.sweeps.plan import Plan, make_plan
from cim_dg.sweeps.spec import load
from cim_dg.wilds.config import make_config

TRIALS, SETTINGS, ENVS = 3, 4, 3
CHANGES = {"protocol": "search-then-seeds", "n_trials": TRIALS, "n_hparams": SETTINGS, "algorithms": ["ERM", "CIM"]}


def _plan(folder: Path, **changes: Any) -> Plan:
    return make_plan(load("digits", {**CHANGES, **changes}), None, folder)


def _accuracy(args: dict[str, Any], env: int, split: str) -> float:
    return uniform(args["algorithm"], args["test_envs"], args["hparams_seed"], args["trial_seed"], env, split)


def _finish(plan: Plan) -> None:
    """Write what the missing jobs would, with accuracies that depend on their arguments alone."""
    of_commands = [item for command in plan.commands for item in command.files.items()]
    for path, text in [*plan.files.items(), *of_commands]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for job in plan.missing():
        args = dict(job.args)
        hparams = hparams_registry.default_hparams("ERM", "NuisanceDigits")
        if args["hparams_seed"]:
            stream = seed_hash(args["hparams_seed"], args["trial_seed"])
            hparams = hparams_registry.random_hparams("ERM", "NuisanceDigits", stream)
        hparams |= json.loads(args.get("hparams", "{}"))
        accuracies = {f"env{e}_{s}_acc": _accuracy(args, e, s) for e in range(ENVS) for s in ("in", "out")}
        job.folder.mkdir(parents=True)
        (job.folder / "results.jsonl").write_text(
            json.dumps({"step": 1, **accuracies, "args": args, "hparams": hparams}) + "\n"
        )
        (job.folder / "done").touch()


def _validation(job: Job, env: int) -> float:
    others = [other for other in range(ENVS) if other != env]
    return sum(_accuracy(dict(job.args), other, "out") for other in others) / len(others)


def _by_hand(searched: list[Job], algorithm: str, env: int) -> Job:
    cell = [job for job in searched if job.algorithm == algorithm and job.args["test_envs"] == [env]]
    return max(cell, key=lambda job: _validation(job, env))


def _hparams(job: Job) -> dict[str, Any]:
    line = (job.folder / "results.jsonl").read_text()
    hparams: dict[str, Any] = json.loads(line)["hparams"]
    return hparams


def test_the_search_is_on_the_first_trial_wherever_that_is(tmp_path: Path) -> None:
    fresh = _plan(tmp_path, first_trial=40)
    assert {job.args["trial_seed"] for job in fresh.jobs} == {40}
    _finish(fresh)
    after = _plan(tmp_path, first_trial=40)
    assert {job.args["trial_seed"] for job in after.missing()} == set(range(41, 40 + TRIALS))
    with pytest.raises(UserError, match="first_trial"):
        _plan(tmp_path)


def test_both_stages_and_the_table(tmp_path: Path) -> None:
    search = _plan(tmp_path)
    assert len(search.jobs) == 2 * ENVS * SETTINGS and search.later == 2 * ENVS * (TRIALS - 1)
    assert all(job.args["trial_seed"] == 0 and job.folder.parent == tmp_path / "search" for job in search.jobs)
    words = search.commands[0].words
    assert words[words.index("--n_trials") + 1] == "1" and words[words.index("--n_hparams") + 1] == str(SETTINGS)
    assert "Stage 1 of 2, the search; 12 jobs with the selected settings follow." in search.describe()
    assert not list(tmp_path.iterdir()), "planning writes nothing"
    _finish(search)

    seeds = _plan(tmp_path)
    missing = seeds.missing()
    assert len(missing) == 2 * ENVS * (TRIALS - 1) and seeds.later == 0
    for job in missing:
        best = _by_hand(search.jobs, job.algorithm, job.args["test_envs"][0])
        assert json.loads(job.args["hparams"]) == _hparams(best), "the real DomainBed gets the values themselves"
        assert job.args["hparams_seed"] == best.args["hparams_seed"]
    assert sorted(job.args["trial_seed"] for job in missing) == [1] * 6 + [2] * 6
    _finish(seeds)
    assert _plan(tmp_path).commands == [] and all(job.state == DONE for job in _plan(tmp_path).jobs)

    report = build.report([tmp_path])
    assert audit.findings(report) == []
    (table,) = report.tables
    for row in table.rows:
        assert row.protocol == f"iid, search-then-seeds ({SETTINGS} settings)"
        for env, column in enumerate(("+90%", "+80%", "new")):
            best = _by_hand(search.jobs, row.method, env)
            trials = [
                _accuracy({**best.args, "trial_seed": trial}, env, "in")  # made-up accuracies depend on nothing else
                for trial in range(TRIALS)
            ]
            assert row.cells[column].mean == pytest.approx(100 * sum(trials) / TRIALS)
            assert row.cells[column].trials == TRIALS
    assert not any("Careful" in note for note in table.notes)

    more = _plan(tmp_path, n_trials=4, algorithms=["ERM", "CIM", "VIB"])
    assert {job.algorithm for job in more.missing()} == {"VIB"}, "the search of the new method comes first"
    (seeds.jobs[-1].folder / "done").unlink()
    assert [finding.kind for finding in audit.findings(build.report([tmp_path]))] == ["missing"]
    (seeds.jobs[-1].folder / "done").touch()
    more = _plan(tmp_path, n_trials=4)
    assert {job.args["trial_seed"] for job in more.missing()} == {3}


def test_pairs_of_environments_get_the_settings_of_both(tmp_path: Path) -> None:
    search = _plan(tmp_path, selection="leave-one-out", algorithms=["ERM"], n_trials=2)
    _finish(search)
    seeds = _plan(tmp_path, selection="leave-one-out", algorithms=["ERM"], n_trials=2)
    chosen = {job.args["test_envs"][0]: job.args["hparams_seed"] for job in seeds.missing() if _is_single(job)}
    assert len(set(chosen.values())) > 1, "else this shows nothing"
    for first in range(ENVS):
        for second in range(first + 1, ENVS):
            pair = [job for job in seeds.missing() if job.args["test_envs"] == [first, second]]
            assert {job.args["hparams_seed"] for job in pair} == {chosen[first], chosen[second]}
    _finish(seeds)
    (table,) = build.report([tmp_path], rules=["leave-one-out"]).tables
    assert {cell.trials for cell in table.rows[0].cells.values()} == {2}


def test_variants_are_searched_each_for_itself(tmp_path: Path) -> None:
    def plan() -> Plan:
        changes = {**CHANGES, "algorithms": ["ERM", "lambda-0"]}
        return make_plan(load("ablation", changes), None, tmp_path)

    search = plan()
    _finish(search)
    seeds = plan()
    assert {job.folder.parent for job in seeds.missing()} == {tmp_path / "seeds" / name for name in ("ERM", "lambda-0")}
    for job in seeds.missing():
        hparams = json.loads(job.args["hparams"])
        assert hparams == _hparams(_by_hand(search.jobs, job.algorithm, 2))
        assert hparams.get("cim_lambda") == (0.0 if job.algorithm == "lambda-0" else None)
    _finish(seeds)
    (table,) = build.report([tmp_path]).tables
    assert [(row.method, row.cells["new"].trials) for row in table.rows] == [("ERM", TRIALS), ("λ = 0", TRIALS)]


def _is_single(job: Job) -> bool:
    return len(job.args["test_envs"]) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"selection": "oracle"}, "was run with selection 'iid', not 'oracle'; stages of unlike sweeps are not mixed"),
        ({"n_hparams": 5}, "was run with n_hparams 4, not 5"),
        ({"steps": 7}, "was run with steps None, not 7"),
        ({"protocol": "random-search"}, "holds a sweep of search, then seeds; give --protocol search-then-seeds"),
        ({"n_hparams": 1}, "n_hparams is 1; accepted is at least 2 for search-then-seeds"),
        ({"protocol": "halving"}, "protocol is 'halving'; accepted is one of random-search, search-then-seeds"),
    ],
)
def test_what_does_not_go_with_the_folder_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    _finish(_plan(tmp_path))
    with pytest.raises(UserError, match=message):
        _plan(tmp_path, **change)


def test_a_search_that_selects_otherwise_than_the_seeds_were_planned_is_refused(tmp_path: Path) -> None:
    search = _plan(tmp_path)
    _finish(search)
    _finish(_plan(tmp_path))
    worst = min(
        (job for job in search.jobs if job.algorithm == "CIM" and job.args["test_envs"] == [2]),
        key=lambda job: _validation(job, 2),
    )
    record = json.loads((worst.folder / "results.jsonl").read_text())
    (worst.folder / "results.jsonl").write_text(json.dumps({**record, "env0_out_acc": 1.0, "env1_out_acc": 1.0}))
    with pytest.raises(UserError, match=r"selects hparams seed \d for CIM on NuisanceDigits, and the seeds in .* by"):
        _plan(tmp_path)


def test_rows_are_never_pooled_with_another_protocol_and_other_rules_have_no_table(tmp_path: Path) -> None:
    _finish(_plan(tmp_path / "two"))
    _finish(_plan(tmp_path / "two"))
    _finish(_plan(tmp_path / "plain", protocol="random-search", n_trials=2))
    report = build.report([tmp_path])
    plain, two = report.tables
    assert {row.protocol for row in plain.rows} == {"iid"} and {row.cells["new"].trials for row in plain.rows} == {2}
    assert {row.protocol for row in two.rows} == {"iid, search-then-seeds (4 settings)"}
    assert {row.cells["new"].trials for row in two.rows} == {3}
    alone = build.report([tmp_path / "two"]).tables[0]
    assert alone == two
    oracle = build.report([tmp_path], rules=["oracle"])
    assert [row.protocol for table in oracle.tables for row in table.rows] == ["oracle", "oracle"]
    assert "Left out: runs whose seeds were planned by iid, which have no other table." in oracle.left_out


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    _finish(_plan(tmp_path))
    (tmp_path / "search" / "protocol.json").write_text('{"protocol": "mine"}')
    with pytest.raises(UserError, match=r"protocol\.json"):
        build.report([tmp_path])


def _wilds(folder: Path, root: Path, **changes: Any) -> Plan:
    (root / "waterbirds_v1.0").mkdir(exist_ok=True)
    changes = {"algorithms": ["ERM", "CIM"], "n_trials": 2, "n_hparams": 3, **changes}
    return make_plan(load("waterbirds", changes), str(root), folder)


def _options(words: list[str]) -> dict[str, str]:
    """The options of a command of `wilds train`; of a name that comes twice the last."""
    return {name[2:]: value for name, value in zip(words[5::2], words[6::2], strict=False) if name.startswith("--")}


def test_a_search_of_wilds_is_drawn_by_the_runner_and_its_seeds_get_the_values(tmp_path: Path) -> None:
    search = _wilds(tmp_path / "out", tmp_path)
    assert [job.folder.name for job in search.jobs[:3]] == [f"waterbirds-ERM-seed0{s}" for s in ("", *_settings(1, 2))]
    assert len(search.jobs) == 2 * 3 and search.later == 2
    for path, text in search.files.items():
        path.parent.mkdir(parents=True)
        path.write_text(text)
    drawn = {}
    for job in search.jobs:
        options = {"dataset": "waterbirds", "algorithm": job.algorithm, "root_dir": "data"}
        config = make_config({**options, "hparams_seed": job.args["hparams_seed"]}, "waterbirds-group_dro")
        drawn[job.algorithm, config.hparams_seed] = config
        write_wilds_log(job.folder, job.algorithm)
        record = json.loads((job.folder / "run.json").read_text())
        values = {name: getattr(config, name) for name in ("lr", "weight_decay", "batch_size", "hparams_seed")}
        record |= {"config": {"dataset": "waterbirds", **values}, "hparams": config.hparams or {"cim_lambda": 10.0}}
        (job.folder / "run.json").write_text(json.dumps(record))
        if (job.algorithm, config.hparams_seed) in {("ERM", 1), ("CIM", 2)}:  # the best, in its last epoch
            text = (job.folder / "val_eval.csv").read_text().replace("0.725", "0.99")
            (job.folder / "val_eval.csv").write_text(text)
    seeds = _wilds(tmp_path / "out", tmp_path)
    assert [job.folder.name for job in seeds.missing()] == [
        "waterbirds-ERM-seed1-hparams1",
        "waterbirds-CIM-seed1-hparams2",
    ]
    for command, key in zip(seeds.commands, (("ERM", 1), ("CIM", 2)), strict=True):
        options, config = _options([word for word in command.words if word != "--resume"]), drawn[key]
        assert (options["seed"], options["hparams_seed"]) == ("1", str(key[1]))
        assert float(options["lr"]) == config.lr and int(options["batch_size"]) == config.batch_size
        assert float(options.get("cim_lambda", 0)) == config.hparams.get("cim_lambda", 0)


def _settings(*seeds: int) -> list[str]:
    return [f"-hparams{seed}" for seed in seeds]


def _done(folder: Path) -> int:
    runs = [json.loads(path.read_text() or "{}") for path in folder.rglob("run.json")]
    return len(list(folder.rglob("done"))) + sum(bool(run.get("finished")) for run in runs)


def _killed_in_each_stage_and_resumed(words: list[str], out: Path, per_stage: tuple[int, int], **env: str) -> None:
    kill_when(lambda: _done(out / "search") >= 1, words, **env)
    assert 1 <= _done(out / "search") < per_stage[0]
    kill_when(lambda: _done(out / "seeds") >= 1, words, **env)
    assert _done(out / "search") == per_stage[0] and 1 <= _done(out / "seeds") < per_stage[1]
    variables = os.environ | {"OMP_NUM_THREADS": "1"} | env
    done = subprocess.run(
        [sys.executable, "-m", "cim_dg.cli", *words], env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (_done(out / "search"), _done(out / "seeds")) == per_stage
    assert "search-then-seeds" in done.stdout


DIGITS = """
title: two methods
harness: domainbed
datasets: [NuisanceDigits]
test_envs: [new]
algorithms: [ERM, CIM]
n_trials: 2
n_hparams: 2
protocol: search-then-seeds
steps: 3
hparams: {nuisance_digits: 40, batch_size: 8}
selection: iid
data: []
table: digits
command_launcher: LAUNCHER
"""


def _table_of_digits_is_by_hand(out: Path) -> None:
    """Its cells, from the lines of results.jsonl alone."""
    lines = {path: [json.loads(line) for line in path.read_text().splitlines()] for path in out.rglob("results.jsonl")}

    def best(paths: list[Path]) -> tuple[float, float, int]:
        figures = [
            ((line["env0_out_acc"] + line["env1_out_acc"]) / 2, line["args"]["hparams_seed"], -line["step"], line)
            for path in paths
            for line in lines[path]
        ]
        chosen = max(figures, key=lambda figure: figure[:3])[3]
        return chosen["env2_in_acc"], chosen["args"]["hparams_seed"], chosen["hparams"]

    (table,) = build.report([out]).tables
    for row in table.rows:
        values, settings = [], []
        for trial in range(2):
            cell = [
                path
                for path, (first, *_) in lines.items()
                if (first["args"]["algorithm"], first["args"]["trial_seed"]) == (row.method, trial)
            ]
            assert len(cell) == (2 if trial == 0 else 1)
            value, _, hparams = best(cell)
            values.append(value)
            settings.append(hparams)
        assert settings[0] == settings[1], "both trials are of one setting"
        assert row.cells["new"].mean == pytest.approx(100 * sum(values) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ONE_AT_A_TIME)
def test_killed_and_resumed_in_each_stage_through_the_stand_in(
    launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if launcher == "ray":
        pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(DIGITS.replace("LAUNCHER", launcher))
    words = ["sweep", "mine.yaml", "--output_dir", "out", "--skip_confirmation"]
    _killed_in_each_stage_and_resumed(words, tmp_path / "out", (4, 2), **ONE_AT_A_TIME[launcher])
    _table_of_digits_is_by_hand(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.harness
def test_killed_and_resumed_in_each_stage_through_the_real_domainbed(
    tmp_path: Path, domainbed_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(DIGITS.replace("LAUNCHER", "pool"))
    words = ["sweep", "mine.yaml", "--output_dir", "out", "--skip_confirmation"]
    _killed_in_each_stage_and_resumed(words, tmp_path / "out", (4, 2), PYTHONPATH=str(domainbed_root))
    assert {run.harness for run in read([tmp_path / "out"]).runs} == {"domainbed"}
    _table_of_digits_is_by_hand(tmp_path / "out")


@pytest.mark.slow
def test_killed_and_resumed_in_each_stage_in_wilds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = tiny_wilds_sweep.write_search("out", batch_size=8, n_epochs=2, n_hparams=2)
    _killed_in_each_stage_and_resumed(words, tmp_path / "out", (4, 2))
    (table,) = build.report([tmp_path / "out"]).tables
    for row in table.rows:
        runs = [json.loads(path.read_text()) for path in Path("out").rglob("run.json")]
        runs = [run for run in runs if run["algorithm"] == row.method]
        best = max(
            (run for run in runs if run["seed"] == 0), key=lambda run: (_best(run), run["config"]["hparams_seed"])
        )
        kept = [best, *(run for run in runs if run["seed"] > 0)]
        assert {json.dumps([run["hparams"], run["config"]["lr"]], sort_keys=True) for run in kept} == {
            json.dumps([best["hparams"], best["config"]["lr"]], sort_keys=True)
        }
        tested = [_figures(run, "test")[run["selected_epoch"]]["acc_wg"] for run in kept]
        assert row.cells["worst group"].mean == pytest.approx(100 * sum(map(float, tested)) / 2)


def _figures(run: dict[str, Any], split: str) -> dict[int, dict[str, str]]:
    with open(Path(run["config"]["log_dir"], f"{split}_eval.csv"), newline="", encoding="utf-8") as file:
        return {int(row["epoch"]): row for row in csv.DictReader(file)}


def _best(run: dict[str, Any]) -> float:
    """The average validation accuracy of the selected epoch, from the groups."""
    row = _figures(run, "val")[run["selected_epoch"]]
    groups = [name.removeprefix("count_") for name in row if name.startswith("count_")]
    counts = [float(row[f"count_{group}"]) for group in groups]
    return sum(float(row[f"acc_{g}"]) * n for g, n in zip(groups, counts, strict=True) if n) / sum(counts)


def test_a_launcher_that_only_submits_gets_the_second_stage_at_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"sweep digits --output_dir {tmp_path} --protocol search-then-seeds --n_hparams 2 --n_trials 2"
    words += " --algorithms ERM CIM --skip_confirmation --command_launcher "
    submitted: list[Plan] = []
    monkeypatch.setattr(planning, "run", lambda plan, folder: submitted.append(plan))
    assert cli.main([*words.split(), "slurm"]) == 0
    assert "The jobs are submitted." in capsys.readouterr().out and len(submitted) == 1
    _finish(submitted[0])
    assert cli.main([*words.split(), "slurm"]) == 0
    assert len(submitted) == 2 and {job.folder.parent.name for job in submitted[1].missing()} == {"seeds"}
    _finish(submitted[1])
    capsys.readouterr()
    assert cli.main([*words.split(), "slurm"]) == 0
    assert "18 jobs: 18 done" in (out := capsys.readouterr().out) and "search-then-seeds (2 settings)" in out


def test_a_launcher_that_waits_runs_both_stages_in_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages: list[int] = []

    def run(plan: Plan, folder: Path) -> None:
        stages.append(len(plan.missing()))
        _finish(plan)

    monkeypatch.setattr(planning, "run", run)
    words = f"sweep digits --output_dir {tmp_path} --protocol search-then-seeds --n_hparams 2 --n_trials 2"
    assert cli.main([*words.split(), "--algorithms", "ERM", "CIM", "--skip_confirmation"]) == 0
    assert stages == [12, 6]
