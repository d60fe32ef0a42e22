"""Selection against naive loops over the records, and the ties by hand."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_sweeps import job_args, record, write_job, write_sweep

from cim_dg.errors import UserError
from cim_dg.results.read import read
from cim_dg.results.selection import select, unserved


def _load(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in root.glob("*/results.jsonl") for line in file.read_text().splitlines()]


def _naive(jobs: list[dict[str, Any]], rule: str, env: int, n_envs: int) -> tuple[float, float] | None:
    """(validation, test) of the best (hparams seed, step) among one cell's records, by plain loops."""
    others = [one for one in range(n_envs) if one != env]
    actual: list[tuple[float, int, float]] = []
    for seed in sorted({one["args"]["hparams_seed"] for one in jobs}):
        mine = [one for one in jobs if one["args"]["hparams_seed"] == seed]
        singles = sorted((one for one in mine if one["args"]["test_envs"] == [env]), key=lambda one: one["step"])
        choices = []
        for single in singles[-1:] if rule == "oracle" else singles:
            if rule == "iid":
                validation = float(np.mean([single[f"env{other}_out_acc"] for other in others]))
            elif rule == "oracle":
                validation = single[f"env{env}_out_acc"]
            else:
                pairs = {
                    (set(one["args"]["test_envs"]) - {env}).pop(): one
                    for one in mine
                    if len(one["args"]["test_envs"]) == 2 and one["step"] == single["step"]
                }
                if set(pairs) != set(others):
                    continue
                validation = float(np.sum([pairs[other][f"env{other}_in_acc"] for other in others])) / len(others)
            choices.append((validation, single[f"env{env}_in_acc"]))
        if choices:
            validation, test = max(choices, key=lambda one: one[0])  # the earliest of the best steps
            actual.append((validation, seed, test))
    if not actual:
        return None
    validation, _, test = max(actual)  # the highest seed of the best settings
    return validation, test


@pytest.mark.parametrize("rule", ["iid", "leave-one-out", "oracle"])
@pytest.mark.parametrize(("levels", "keep"), [(None, 1.0), (4, 1.0), (8, 0.8)])
def test_every_cell_is_the_naive_loops(tmp_path: Path, rule: str, levels: int | None, keep: float) -> None:
    write_sweep(tmp_path, "VLCS", 4, trials=2, levels=levels, keep=keep)
    jobs = _load(tmp_path)
    chosen = {
        (row.algorithm, row.test_env, row.trial): (row.validation, row.value)
        for row in select(read([tmp_path]), rule).itertuples()
    }
    expected = {}
    for algorithm, env, trial in product(("ERM", "CIM"), range(4), range(2)):
        cell = [
            row
            for row in jobs
            if row["args"]["algorithm"] == algorithm
            and row["args"]["trial_seed"] == trial
            and env in row["args"]["test_envs"]
        ]
        if (best := _naive(cell, rule, env, 4)) is not None:
            expected[algorithm, env, trial] = best
    assert chosen == expected


@pytest.mark.parametrize("n_envs", range(3, 25))
def test_means_are_added_up_as_domainbed_adds_them(tmp_path: Path, n_envs: int) -> None:
    """Not one bit off: a tie that is not one on DomainBed's side would choose another checkpoint."""
    rng = np.random.default_rng(n_envs)
    write_job(tmp_path / "job", job_args("New", "ERM", [1], 0), [record(0, rng.uniform(size=2 * n_envs).tolist())])
    (line,) = _load(tmp_path)
    expected = np.mean([line[f"env{env}_out_acc"] for env in range(n_envs) if env != 1])
    assert select(read([tmp_path]), "iid")["validation"].item() == expected


def test_ties_fall_to_the_earliest_step_and_the_highest_seed(tmp_path: Path) -> None:
    for seed in (0, 2, 1):
        # Two steps with the same validation accuracy (env1, env2) and different test accuracies (env0_in).
        steps = [record(step, [0.1 * seed + step / 1000, 0.0, 0.5, 0.5, 0.5, 0.5]) for step in (0, 10)]
        write_job(tmp_path / f"job{seed}", job_args("ColoredMNIST", "ERM", [0], 0, seed), steps)
    (chosen,) = select(read([tmp_path]), "iid").to_dict("records")
    assert (chosen["hparams_seed"], chosen["step"], chosen["value"]) == (2, 0, 0.2)


def test_oracle_takes_the_last_step_whatever_its_accuracy(tmp_path: Path) -> None:
    steps = [record(0, [0.9, 0.9, 0, 0, 0, 0]), record(20, [0.2, 0.1, 0, 0, 0, 0]), record(10, [0.8, 0.8, 0, 0, 0, 0])]
    write_job(tmp_path / "job", job_args("ColoredMNIST", "ERM", [0], 0), steps)
    (chosen,) = select(read([tmp_path]), "oracle").to_dict("records")
    assert (chosen["step"], chosen["validation"], chosen["value"]) == (20, 0.1, 0.2)


def test_harnesses_are_never_pooled(tmp_path: Path) -> None:
    for name, harness in (("a", "domainbed-standin"), ("b", None)):
        folder = write_job(tmp_path / name, job_args("ColoredMNIST", "ERM", [0], 0), [record(0, [0.5] * 6)])
        if harness:
            (folder / "provenance.json").write_text(json.dumps({"harness": harness}))
    assert sorted(select(read([tmp_path]), "iid")["harness"]) == ["domainbed", "domainbed-standin"]


def test_leave_one_out_after_single_test_envs_says_what_to_run(tmp_path: Path) -> None:
    write_sweep(tmp_path, "ColoredMNIST", 3, trials=1, hparams_seeds=1, pairs=False)
    records = read([tmp_path])
    assert len(select(records, "leave-one-out")) == 0
    sentence = unserved(records, "leave-one-out")
    assert sentence is not None
    assert "without --single_test_envs" in sentence
    assert unserved(records, "iid") is None


def test_pairs_alone_serve_no_rule(tmp_path: Path) -> None:
    write_job(tmp_path / "job", job_args("ColoredMNIST", "ERM", [0, 1], 0), [record(0, [0.5] * 6)])
    records = read([tmp_path])
    assert "exactly one test environment" in str(unserved(records, "oracle"))


def test_an_unknown_rule_is_an_error(tmp_path: Path) -> None:
    write_job(tmp_path / "job", job_args("ColoredMNIST", "ERM", [0], 0), [record(0, [0.5] * 6)])
    with pytest.raises(UserError, match="'best' is no selection rule"):
        select(read([tmp_path]), "best")
