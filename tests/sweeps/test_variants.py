"""Sweeps of variants: a folder and a row for each, on the chosen test environments only."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from domainbed import command_launchers

from cim_dg.errors import UserError
from cim_dg.results import build
from cim_dg.sweeps import domainbed, launch
from cim_dg.sweeps.plan import Plan, make_plan
from cim_dg.sweeps.spec import load


def _plan(folder: Path, **changes: object) -> Plan:
    return make_plan(
        load("ablation", {"algorithms": ["ERM", "CIM", "lambda-0"], "n_trials": 2, **changes}), None, folder
    )


def _finish(plan: Plan) -> None:
    """Results as DomainBed writes them; on 'new' CIM is 10 points above ERM, and lambda 0 has 1 point more than ERM."""
    above = {"ERM": 0.0, "CIM": 0.1, "lambda-0": 0.01}
    for job in plan.jobs:
        job.folder.mkdir(parents=True)
        test = 0.5 + above[job.algorithm] + 0.02 * job.args["trial_seed"]
        accuracies = {f"env{env}_{split}_acc": test for env in range(3) for split in ("in", "out")}
        hparams = json.loads(job.args.get("hparams", "{}"))
        line = {"step": 1, **accuracies, "args": dict(job.args), "hparams": hparams}
        (job.folder / "results.jsonl").write_text(json.dumps(line) + "\n")
        (job.folder / "done").touch()
    for path, text in plan.commands[0].files.items():
        path.write_text(text)


def test_each_variant_is_jobs_of_its_own(tmp_path: Path) -> None:
    plan = _plan(tmp_path, test_envs=["new"])
    assert [job.folder.parent.name for job in plan.jobs] == ["ERM", "CIM", "lambda-0"] * 2
    assert all(job.args["test_envs"] == [2] for job in plan.jobs)
    assert [json.loads(job.args.get("hparams", "{}")) for job in plan.jobs[:3]] == [{}, {}, {"cim_lambda": 0.0}]
    seeds = {(job.args["algorithm"], job.args["trial_seed"]): job.args["seed"] for job in plan.jobs}
    assert len(seeds) == 4, "variants of one method are paired in their seeds"


def test_collect_shows_a_row_for_each_label(tmp_path: Path) -> None:
    plan = _plan(tmp_path, test_envs=["new"])
    _finish(plan)
    assert _plan(tmp_path, test_envs=["new"]).commands == []
    (table,) = build.report([tmp_path]).tables
    assert [row.method for row in table.rows] == ["ERM", "CIM", "λ = 0"]
    assert table.columns == ["new"]
    assert [round(row.cells["new"].mean) for row in table.rows] == [51, 61, 52]
    assert {comparison.method: round(comparison.difference.mean) for comparison in table.comparisons} == {
        "CIM": 10,
        "λ = 0": 1,
    }
    assert not any("differ in --hparams" in note for note in table.notes)


@pytest.mark.parametrize("standin", [True, False])
def test_unfinished_jobs_of_a_real_domainbed_start_over_and_all_reach_the_launcher(
    standin: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "is_standin", lambda: standin)
    monkeypatch.setattr(domainbed, "is_standin", lambda: standin)
    plan = _plan(tmp_path, test_envs=["new"])
    half, running = (job.folder for job in plan.jobs[1:3])
    for folder in (half, running):
        folder.mkdir(parents=True)
        (folder / "results.jsonl").write_text("half a li")
    os.utime(half / "results.jsonl", (1000, 1000))
    left = domainbed.clear(_plan(tmp_path, test_envs=["new"]).jobs)
    assert [job.folder for job in left] == ([] if standin else [running])
    assert half.exists() == standin and (running / "results.jsonl").exists()
    (command,) = _plan(tmp_path, test_envs=["new"]).commands
    launched: list[str] = []
    monkeypatch.setitem(command_launchers.REGISTRY, "mine", launched.extend)
    for path, text in command.files.items():
        path.write_text(text)
    assert launch.main(["--command_launcher", "mine", command.words[-1]]) == 0
    assert len(launched) == (6 if standin else 5)
    assert any(str(half) in command for command in launched)
    assert launch.main(["--command_launcher", "nobody", command.words[-1]]) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algorithms": ["ERM", "SCL"]}, "no variant 'SCL'; there are ERM, CIM"),
        ({"test_envs": ["old"]}, r"no environment 'old' to test on; it has \+90%, \+80%, new"),
        ({"variants": {"a b": {"algorithm": "CIM"}}, "algorithms": ["a b"]}, "a variant is called 'a b'"),
        ({"variants": {"a": {"hparams": {}}}, "algorithms": ["a"]}, "variants.a: the entry 'algorithm' is missing"),
        ({"variants": {"a": {"algorithm": "CIM", "seed": 1}}, "algorithms": ["a"]}, "unknown entry 'seed'"),
        (
            {"variants": {"a": {"algorithm": "CIM", "hparams": 3}}, "algorithms": ["a"]},
            "hparams is 3; accepted is names",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _plan(tmp_path, **change)


def test_a_folder_of_other_origin_is_refused(tmp_path: Path) -> None:
    (tmp_path / "variants.json").write_text("[1]")
    with pytest.raises(UserError, match=r"variants\.json is not what a sweep of variants writes"):
        build.report([tmp_path])
