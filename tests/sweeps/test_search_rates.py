"""On sweeps with a known best setting: how often each protocol finds it, and whether the table's intervals cover.

Setting 3 is DELTA better than the other K - 1, and validation has noise of SIGMA. It is selected with probability
p = E[Phi(z + DELTA / SIGMA)^(K - 1)], z standard normal: once for all trials in search, then seeds, and in each trial
anew in random search.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from scipy import integrate, stats

from cim_dg.results import build
from cim_dg.results.read import read
from cim_dg.results.selection import select
from cim_dg.sweeps.plan import Plan, make_plan
from cim_dg.sweeps.spec import load

K, BEST, QUALITY, DELTA, SIGMA = 4, 3, 0.6, 0.02, 0.02
METHODS, TRIALS = 60, 3
CELLS = METHODS * 3  # test environments
SPREAD = 4  # standard deviations that a rate may be off


def _theory() -> float:
    def integrand(z: float) -> float:
        return float(stats.norm.pdf(z) * stats.norm.cdf(z + DELTA / SIGMA) ** (K - 1))

    return integrate.quad(integrand, -10, 10)[0]


def _plan(folder: Path, protocol: str) -> Plan:
    algorithms = [f"Method{number}" for number in range(METHODS)]
    changes = {"algorithms": algorithms, "n_hparams": K, "n_trials": TRIALS, "protocol": protocol}
    return make_plan(load("digits", changes), None, folder)


def _run(plan: Plan, random: np.random.RandomState) -> None:
    for path, text in plan.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for job in plan.missing():
        args = dict(job.args)
        quality = _quality(args["hparams_seed"])
        validation, test = quality + SIGMA * random.randn(2)
        accuracies = {f"env{env}_out_acc": validation for env in range(3)}
        accuracies |= {f"env{env}_in_acc": test for env in range(3)}
        hparams = json.loads(args.get("hparams", "null")) or {"setting": args["hparams_seed"]}
        assert hparams["setting"] == args["hparams_seed"]
        job.folder.mkdir(parents=True)
        line = {"step": 1, **accuracies, "args": args, "hparams": hparams}
        (job.folder / "results.jsonl").write_text(json.dumps(line) + "\n")
        (job.folder / "done").touch()


def _quality(setting: int) -> float:
    return QUALITY + DELTA * (setting == BEST)


def _is_at_rate(count: int, of: int, rate: float) -> bool:
    return abs(count - of * rate) <= SPREAD * np.sqrt(of * rate * (1 - rate))


def test_search_then_seeds_finds_the_best_at_the_rate_of_one_search_and_its_intervals_cover(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    for _ in range(2):
        _run(_plan(tmp_path, "search-then-seeds"), random)
    selected = select(read([tmp_path]), "iid")
    per_cell = selected.groupby(["algorithm", "test_env"])["hparams_seed"].agg(["nunique", "first", "size"])
    assert len(per_cell) == CELLS and set(per_cell["nunique"]) == {1} and set(per_cell["size"]) == {TRIALS}
    assert _is_at_rate(int((per_cell["first"] == BEST).sum()), CELLS, _theory())

    (table,) = build.report([tmp_path]).tables
    covered = 0
    for row in table.rows:
        for env, column in enumerate(("+90%", "+80%", "new")):
            low, high = row.cells[column].interval or (0, 0)
            covered += low <= 100 * _quality(per_cell.loc[(row.method, env), "first"]) <= high
    assert _is_at_rate(covered, CELLS, 0.95)


def test_random_search_finds_it_in_each_trial_anew(tmp_path: Path) -> None:
    _run(_plan(tmp_path, "random-search"), np.random.RandomState(1))
    selected = select(read([tmp_path]), "iid")
    found = (selected["hparams_seed"] == BEST).groupby([selected["algorithm"], selected["test_env"]]).sum()
    assert _is_at_rate(int(found.sum()), CELLS * TRIALS, _theory())
    assert _is_at_rate(int((found == TRIALS).sum()), CELLS, _theory() ** TRIALS)
