"""Successive halving in search, then seeds: which settings go on, on curves that are known; real jobs that pause; and
what is refused."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import chaos
import pytest
import tiny_wilds_sweep
from killed_sweeps import ONE_AT_A_TIME, kill_when, start

from cim_dg import cli
from cim_dg.commands import status
from cim_dg.domainbed.standin import hparams_registry
from cim_dg.errors import UserError
from cim_dg.hparams import seed_hash
from cim_dg.results import audit, build
from cim_dg.results.protocols import Rung
from cim_dg.results.records import settings_tried
from cim_dg.runtime.halving import checkpoint_at
from cim_dg.sweeps import budget, halving
from cim_dg.sweeps import plan as planning
from cim_dg.sweeps.jobs import Command, Job
from cim_dg.sweeps.plan import Plan, make_plan
from cim_dg.sweeps.spec import Spec, load

ENVS, FREQ = 3, 50
# Of 501 steps: the rungs are at the checkpoints 150 (after 1/4) and 250 (1/2), and the last step is 500.
CHANGES = {
    "protocol": "search-then-seeds",
    "halving": 2,
    "n_trials": 2,
    "n_hparams": 8,
    "steps": 501,
    "test_envs": ["new"],
    "algorithms": ["ERM", "CIM"],
}
# The validation accuracy, in percent, of the hparams seeds 0 to 7 up to each rung, and to the end.
CURVES = {
    # 6, 3, and of the three with 50 the highest seeds, 7 and 5; then 7 and 6; at the end 6. Seed 0 is found by no rung.
    "ERM": ((30, 50, 20, 60, 10, 50, 70, 50), (31, 51, 21, 65, 11, 66, 71, 80), (99, 52, 22, 67, 12, 68, 90, 85)),
    # 0 to 3; then 1 and 2; at the end 1, whose best checkpoint is the one at the second rung.
    "CIM": ((61, 62, 63, 64, 60, 59, 58, 57), (65, 90, 85, 70, 99, 99, 99, 99), (98, 50, 88, 98, 99, 99, 99, 99)),
}
GO_ON = {"ERM": ([6, 3, 7, 5], [7, 6]), "CIM": ([0, 1, 2, 3], [1, 2])}
SELECTED = {"ERM": 6, "CIM": 1}


def _plan(folder: Path, **changes: Any) -> Plan:
    return make_plan(load("digits", {**CHANGES, **changes}), None, folder)


def _accuracy(args: dict[str, Any], step: int, env: int) -> float:
    """The accuracy of a job on an environment."""
    phase = (step > 150) + (step > 250)
    return CURVES[args["algorithm"]][phase][args["hparams_seed"]] / 100


def _train(job: Job, step: int, divisor: int) -> None:
    """Write what a job writes that trains on to this step, in the place of the checkpoint's file an empty one."""
    args = dict(job.args)
    hparams = hparams_registry.default_hparams("ERM", "NuisanceDigits")
    if args["hparams_seed"]:
        stream = seed_hash(args["hparams_seed"], args["trial_seed"])
        hparams = hparams_registry.random_hparams("ERM", "NuisanceDigits", stream)
    hparams |= json.loads(args.get("hparams", "{}"))
    job.folder.mkdir(parents=True, exist_ok=True)
    records = [
        {"step": at, **{f"env{e}_{split}_acc": _accuracy(args, at, e) for e in range(ENVS) for split in ("in", "out")}}
        for at in range(0, step + 1, FREQ)
    ]
    lines = [json.dumps({**record, "args": args, "hparams": hparams}) + "\n" for record in records]
    (job.folder / "results.jsonl").write_text("".join(lines))
    (job.folder / "checkpoint.pt").touch()
    if divisor == 1:
        (job.folder / "checkpoint.pt").unlink()
    (job.folder / (f"rung-{divisor}" if divisor > 1 else "done")).touch()


def _commands_that_train(commands: list[Command], printed: Path | None) -> list[int]:
    """In the place of running commands: their jobs, as far as the environment tells them."""
    divisor = int(os.environ.get("CIM_DG_RUNG", "1"))
    step = checkpoint_at(divisor, 500, FREQ)
    for command in commands:
        for job in command.jobs:
            _train(job, step, divisor)
    return [0] * len(commands)


def _seeds(jobs: Sequence[Job], algorithm: str) -> list[int]:
    return sorted(job.args["hparams_seed"] for job in jobs if job.algorithm == algorithm)


def test_settings_go_on_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rung, resumed in the middle, and the table: from curves that are known."""
    monkeypatch.setattr(planning, "_run_commands", _commands_that_train)
    for number, (step, divisor) in enumerate([(150, 4), (250, 2), (500, 1)]):
        plan = _plan(tmp_path)
        assert plan.place is not None and (plan.place.divisor, plan.place.number) == (divisor, number)
        assert checkpoint_at(divisor, 500, FREQ) == step
        expected = {name: sorted(of[number - 1]) if number else list(range(8)) for name, of in GO_ON.items()}
        assert {name: _seeds(plan.missing(), name) for name in GO_ON} == expected
        assert f"Rung {number + 1} of 3: {8 >> number} settings" in plan.describe()
        assert "search-then-seeds, 8 settings, 2 trials, halving 2" in plan.describe() and plan.later == 2
        _train(plan.missing()[0], step, divisor)  # the sweep is killed when one job is there
        plan = _plan(tmp_path)
        assert len(plan.missing()) == 2 * (8 >> number) - 1
        planning.run(plan, tmp_path)
        assert "CIM_DG_RUNG" not in os.environ
    stopped = {path.parent for path in tmp_path.rglob("stopped")}
    assert len(stopped) == 2 * (8 - 2) and not list(tmp_path.rglob("checkpoint.pt")), "what is not needed is removed"
    seeds = _plan(tmp_path)
    assert {job.algorithm: job.args["hparams_seed"] for job in seeds.missing()} == SELECTED
    planning.run(seeds, tmp_path)
    assert _plan(tmp_path).commands == [] and _plan(tmp_path).is_last()

    protocol = json.loads((tmp_path / "search" / "protocol.json").read_text())
    rungs = [{"divisor": 4, "settings": 8}, {"divisor": 2, "settings": 4}, {"divisor": 1, "settings": 2}]
    assert (protocol["halving"], protocol["rungs"]) == (2, rungs)
    report = build.report([tmp_path])
    (table,) = report.tables
    for row in table.rows:
        best = max(CURVES[row.method][phase][SELECTED[row.method]] for phase in range(3))
        assert row.protocol == "iid, search-then-seeds (8 settings, halving 2)"
        assert row.cells["new"].mean == pytest.approx(best) and row.cells["new"].trials == 2
    assert report.records is not None and settings_tried(report.records.runs) == 8, "stopped settings are counted"
    assert "Stopped early by halving, and counted as tried: 12 of 18 runs." in report.left_out
    assert not any("Not finished" in sentence for sentence in report.left_out)
    assert audit.findings(report) == []
    assert "18 jobs: 6 done" in (said := status.describe(list(status.find(tmp_path))))
    assert "12 stopped early." in said and "Nothing is left to run." in said

    more = _plan(tmp_path, algorithms=["ERM", "CIM", "VIB"])
    assert _seeds(more.missing(), "VIB") == list(range(8)) and len(more.missing()) == 8, "its search comes first"
    for change in ({"halving": None}, {"halving": 4}):
        with pytest.raises(UserError, match="was run with halving 2, not"):
            _plan(tmp_path, **{**change, "n_hparams": 8})
    late = next(path for path in stopped if json.loads(_first_line(path))["args"]["hparams_seed"] == 0)
    text = (late / "results.jsonl").read_text()
    (late / "results.jsonl").write_text(text.replace('_acc": 0.3', '_acc": 0.99').replace('_acc": 0.61', '_acc": 0.99'))
    for done in tmp_path.glob("search/*/done"):
        done.unlink()
    with pytest.raises(UserError, match=r"was stopped early, and is among the best of the search now"):
        _plan(tmp_path)


def _first_line(folder: Path) -> str:
    return (folder / "results.jsonl").read_text().splitlines()[0]


def test_never_mixed_with_a_search_of_full_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_run_commands", _commands_that_train)
    for name, halved in (("with", True), ("without", False)):
        spec = load("digits", CHANGES if halved else {**CHANGES, "halving": None})
        for _ in range(4 if halved else 2):
            planning.run(make_plan(spec, None, tmp_path / name), tmp_path / name)
    with_halving, without = sorted(build.report([tmp_path]).tables, key=lambda table: "halving" not in table.protocol)
    assert [row.cells["new"].mean for row in with_halving.rows] == pytest.approx([90, 90])
    assert [row.cells["new"].mean for row in without.rows] == pytest.approx([99, 99])
    with pytest.raises(UserError, match="was run with halving None, not 2"):
        _plan(tmp_path / "without")


def test_pairs_of_environments_go_on_with_the_settings_of_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By leave-one-out, a setting of an environment has all of its pairs to the end."""
    monkeypatch.setattr(planning, "_run_commands", _commands_that_train)
    monkeypatch.setattr(sys.modules[__name__], "_accuracy", _by_environment)
    changes = {"selection": "leave-one-out", "test_envs": ["+90%", "+80%", "new"], "algorithms": ["ERM"]}
    for _ in range(3):
        planning.run(_plan(tmp_path, **changes), tmp_path)
    seeds = _plan(tmp_path, **changes)
    ends: dict[tuple[int, ...], list[int]] = {}
    for path in tmp_path.glob("search/*/done"):
        args = json.loads(_first_line(path.parent))["args"]
        ends.setdefault(tuple(args["test_envs"]), []).append(args["hparams_seed"])
    assert {env: sorted(of) for env, of in ends.items() if len(env) == 1} == {(0,): [6, 7], (1,): [0, 1], (2,): [3, 4]}
    assert {env: sorted(of) for env, of in ends.items() if len(env) == 2} == {
        (0, 1): [0, 1, 6, 7],
        (0, 2): [3, 4, 6, 7],
        (1, 2): [0, 1, 3, 4],
    }
    singles = {job.args["test_envs"][0]: job.args["hparams_seed"] for job in seeds.missing() if _single(job)}
    assert singles == {0: 7, 1: 0, 2: 4}


def _single(job: Job) -> bool:
    return len(job.args["test_envs"]) == 1


def _by_environment(args: dict[str, Any], step: int, env: int) -> float:
    """On the second environment of a pair: the less, the farther the setting is from the best one of the first."""
    first = next((other for other in args["test_envs"] if other != env), env)
    return 0.9 - 0.01 * abs(args["hparams_seed"] - (7, 0, 3.6)[first])


SPANS: dict[str, halving.Span] = {"VLCS": (5000, 300), "NuisanceDigits": (199, 50)}


@pytest.mark.parametrize(
    ("settings", "by", "datasets", "expected"),
    [
        (20, 3, ["VLCS"], [(9, 20), (3, 6), (1, 2)]),
        (20, 2, ["VLCS"], [(8, 20), (4, 10), (2, 5), (1, 2)]),
        (20, 4, ["VLCS"], [(4, 20), (1, 5)]),
        (100, 4, ["VLCS"], [(16, 100), (4, 25), (1, 6)]),  # 16 checkpoints have no rung of 1/64
        (20, 3, ["VLCS", "NuisanceDigits"], [(3, 20), (1, 6)]),
    ],
)
def test_rungs_by_hand(settings: int, by: int, datasets: list[str], expected: list[tuple[int, int]]) -> None:
    spec = _spec(n_hparams=settings, halving=by)
    spans = {name: SPANS[name] for name in datasets}
    assert halving.rungs(spec, spans) == [Rung(*rung) for rung in expected]
    for last, interval in spans.values():
        stops = [checkpoint_at(divisor, last, interval) for divisor, _ in expected[:-1]]
        assert all(
            stop % interval == 0 and last / d <= stop < last for stop, (d, _) in zip(stops, expected, strict=False)
        )
        assert sorted(set(stops)) == stops


def _spec(**changes: Any) -> Spec:
    return load("vlcs", {"protocol": "search-then-seeds", **changes})


def test_a_plan_counts_the_part_that_jobs_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 20 settings of VLCS, 20 train to step 600 of 5000, 6 to 1800, and 2 to the end: 5.12 jobs of full length."""
    spec = _spec(halving=3)
    stand_in = {name: (5000, 300) for name in ("VLCS",)}
    in_full = (20 * 600 + 6 * (1800 - 600) + 2 * (5000 - 1800)) / 5000
    assert halving.in_full_jobs(spec, stand_in) == {"VLCS": pytest.approx(in_full)}
    assert budget.job_counts(spec)["VLCS", "ERM"] == 4 * 22
    assert budget.in_full_jobs(spec)["VLCS", "ERM"] == pytest.approx(4 * (in_full + 2))
    costs = {("VLCS", name): budget.Cost(3600.0, 1e9) for name in spec.algorithms}
    assert budget.hours(spec, costs) == pytest.approx(5 * 4 * (in_full + 2))
    *_, without, with_halving = budget.tables(spec, costs)[-1].rows
    assert [cell for (cell,) in without] == ["search-then-seeds", "440", "440", "440", "440"]
    full = 20 * (in_full + 2)
    assert [cell for (cell,) in with_halving][1:] == ["440", f"{full:.1f}", f"{full:.3g}", "440"]
    smaller, _ = budget.fit(spec, costs, 100.0)
    assert smaller.n_hparams >= 6 and budget.hours(smaller, costs) <= 100.0
    words = ["sweep", "vlcs", "--output_dir", str(tmp_path), "--plan", "--protocol", "search-then-seeds"]
    assert cli.main([*words, "--halving", "3"]) == 0
    last = next(line for line in capsys.readouterr().out.splitlines() if "halving 3" in line)
    assert last.split()[-4:] == ["440", "142.4", "?", "?"], "what it saves is known without a job"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--halving", "1"], "halving is 1; accepted is"),
        (["--halving", "2", "--protocol", "random-search"], "halving is 2; accepted is none for random-search"),
        (["--halving", "2", "--selection", "oracle"], "halving is 2; accepted is none for oracle"),
        (["--halving", "5"], "n_hparams is 8; accepted is at least 10 for halving 5"),
        (["--halving", "4", "--steps", "151"], "halving is 4; accepted on NuisanceDigits is at most 3"),
    ],
)
def test_bad_input_is_one_sentence(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ["sweep", "digits", "--output_dir", str(tmp_path), "--dry_run", "--n_hparams", "8"]
    protocol = [] if "--protocol" in words else ["--protocol", "search-then-seeds"]
    assert cli.main([*sweep, *protocol, *words]) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1


def test_the_real_domainbed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cim_dg.sweeps.domainbed.is_standin", lambda: False)
    words = ["sweep", "digits", "--output_dir", str(tmp_path), "--protocol", "search-then-seeds", "--n_hparams", "4"]
    for how in ("--dry_run", "--plan"):
        assert cli.main([*words, how, "--halving", "2"]) == 2
        assert "halving is 2; accepted is none for DomainBed itself" in capsys.readouterr().err
    assert cli.main([*words, "--dry_run"]) == 0


DIGITS = """
title: one method
harness: domainbed
datasets: [NuisanceDigits]
test_envs: [new]
algorithms: [VIB]
n_trials: 2
n_hparams: 4
protocol: search-then-seeds
steps: 101
hparams: {nuisance_digits: 20, batch_size: 2}
selection: iid
data: []
table: digits
"""

LAUNCHED = {name: ONE_AT_A_TIME[name] | {"CIM_DG_CHECKPOINT_SECONDS": "1"} for name in ("pool", "ray")}
"""All with the same number of threads a job, which is part of a result."""


def _whole_and_killed_in_each_rung(
    words: list[str], harness: str, launcher: str
) -> tuple[chaos.Records, chaos.Records]:
    """The records of a search of 4 settings, and of one with halving by 2 that is killed when the first
    job is at the rung, and when the first is done, and then runs to its end."""
    whole_words = [*words, "--skip_confirmation", "--output_dir", "whole", "--n_trials", "1"]
    assert start([*whole_words, "--command_launcher", "pool"], **LAUNCHED["pool"]).wait() == 0
    halved_words = [*words, "--skip_confirmation", "--output_dir", "halved", "--halving", "2"]
    halved_words += ["--command_launcher", launcher]
    search = Path("halved/search")
    for reached in (_at_the_rung, _done):
        holds = functools.partial(lambda reached: len(reached(search)) >= 1, reached)
        kill_when(holds, halved_words, **LAUNCHED[launcher])
        assert len(reached(search)) < (4 if reached is _at_the_rung else 2)
    assert len(_at_the_rung(search)) == 4 and len(list(search.glob("*/stopped"))) == 2
    assert start(halved_words, **LAUNCHED[launcher]).wait() == 0
    assert len(_at_the_rung(search)) == 4 and len(_done(search)) == 2
    for name in ("whole", "halved"):
        Path(name, "jobs").symlink_to("search")
    whole, halved = (chaos.read(harness, Path(name)) for name in ("whole", "halved"))
    assert whole.keys() == halved.keys() and len(whole) == 4
    return whole, halved


def _at_the_rung(search: Path) -> list[Path]:
    return list(search.glob("*/rung-2"))


def _done(search: Path) -> list[Path]:
    finished = [path for path in search.glob("*/run.json") if '"finished": true' in path.read_text()]
    return [*search.glob("*/done"), *finished]


@pytest.mark.slow
def test_killed_and_resumed_in_each_rung_through_the_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(DIGITS)
    whole, halved = _whole_and_killed_in_each_rung(["sweep", "mine.yaml"], chaos.STANDIN, "pool")
    validation = {
        job: max((records[step,]["env0_out_acc"] + records[step,]["env1_out_acc"]) / 2 for step in (0, 50))
        for job, records in whole.items()
    }
    order = sorted(whole, key=lambda job: (validation[job], whole[job][0,]["args"]["hparams_seed"]))
    for job in order[:2]:
        assert halved[job] == {(step,): whole[job][step,] for step in (0, 50)}
    for job in order[2:]:
        assert halved[job] == whole[job] and (100,) in halved[job]
    (table,) = build.report([Path("halved")]).tables
    assert {(row.protocol, row.cells["new"].trials) for row in table.rows} == {
        ("iid, search-then-seeds (4 settings, halving 2)", 2)
    }


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHED)
def test_killed_and_resumed_in_each_rung_in_wilds(
    launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if launcher == "ray":
        pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    words = tiny_wilds_sweep.write_search("unused", batch_size=16, n_epochs=2, n_hparams=4)[:4]
    whole, halved = _whole_and_killed_in_each_rung([*words, "--algorithms", "CIM"], chaos.WILDS, launcher)
    jobs = ["waterbirds-CIM-seed0" + (f"-hparams{seed}" if seed else "") for seed in range(4)]
    first = {job: float(whole[job]["val_eval.csv", "0", None]["acc_avg"]) for job in jobs}
    order = sorted(jobs, key=lambda job: (first[job], jobs.index(job)))
    for job in order[:2]:
        rows = {key: row for key, row in halved[job].items() if len(key) == 3}
        assert rows == {key: row for key, row in whole[job].items() if len(key) == 3 and key[1] == "0"}
    for job in order[2:]:
        assert halved[job] == whole[job] and ("val_eval.csv", "1", None) in halved[job]
    (table,) = build.report([Path("halved")]).tables
    assert {(row.protocol, row.cells["worst group"].trials) for row in table.rows} == {
        ("average, search-then-seeds (4 settings, halving 2)", 2)
    }
    assert any("Settings tried" in note and ": 4" in note for note in table.notes), "stopped ones count"
