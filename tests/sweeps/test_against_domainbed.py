"""The sweep of DomainBed's own algorithms: what it plans, what the stand-in answers, and which of them train here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from real_domainbed import RealDomainBed

from cim_dg import cli
from cim_dg.sweeps.plan import make_plan
from cim_dg.sweeps.spec import load

NAME = "against-domainbed"
OURS = ("CIM", "CIM_VIB")
LEFT_OUT = {
    "Fishr": "AssertionError: Install backpack",
    "TRM": "NVIDIA",
    "RDM": "NVIDIA",
    "URM": "AssertionError",
    "MLDG": "unchanged",
    "SANDMask": "unchanged",
    "ARM": "trained",  # but slowly
}
"""DomainBed's algorithms that the sweep has not, and how that is seen."""

STEPS = """
import json, sys
import torch
from domainbed import algorithms, hparams_registry

def step(name):
    hparams = hparams_registry.default_hparams(name, "NuisanceDigits")
    torch.manual_seed(0)
    algorithm = algorithms.get_algorithm_class(name)((3, 36, 36), 10, 2, hparams)
    before = [value.clone() for value in algorithm.parameters()]
    for _ in range(2):
        algorithm.update([(torch.rand(8, 3, 36, 36), torch.arange(8)) for _ in range(2)], None)
    with torch.no_grad():
        assert algorithm.predict(torch.rand(8, 3, 36, 36)).shape == (8, 10)
    same = all(torch.equal(old, new) for old, new in zip(before, algorithm.parameters()))
    return "unchanged" if same else "trained"

seen = {}
for name in algorithms.ALGORITHMS:
    try:
        seen[name] = step(name)
    except Exception as error:
        seen[name] = f"{type(error).__name__}: {error}"
print(json.dumps(seen), file=sys.stderr)
"""


def test_ten_fresh_trials_of_each_method_on_new(tmp_path: Path) -> None:
    plan = make_plan(load(NAME), None, tmp_path)
    methods = load(NAME).algorithms
    assert set(OURS) < set(methods) and len(methods) == 29
    assert len(plan.jobs) == 29 * 10 and all(job.args["test_envs"] == [2] for job in plan.jobs)
    trials = {job.args["trial_seed"] for job in plan.jobs}
    assert trials == set(range(2000, 2010)), "trials that have chosen nothing"


def test_the_stand_in_says_what_the_sweep_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sweep", NAME, "--output_dir", str(tmp_path / "out"), "--skip_confirmation"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert "no algorithm 'ERMPlusPlus'" in err and "a clone of DomainBed has its own too: start this in one" in err
    assert not (tmp_path / "out").exists()


def test_the_command_line_names_other_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep", NAME, "--output_dir", str(tmp_path / "out"), "--algorithms", "ERM", "CIM", "--dry_run"]
    assert cli.main([*words, "--datasets", "Spirograph", "--test_envs", "thick", "thin"]) == 0
    assert "domainbed: Spirograph" in (out := capsys.readouterr().out) and "40 jobs" in out
    assert cli.main([*words, "--hparams", '{"nuisance_background": "plain"}']) == 0
    spec = load(NAME, {"algorithms": ["CIM"], "hparams": {"nuisance_background": "plain"}})
    (hparams,) = {job.args["hparams"] for job in make_plan(spec, None, tmp_path).jobs}
    assert json.loads(hparams) == {"nuisance_background": "plain"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hparams", "{"], "--hparams is not JSON"),
        (["--hparams", "null"], "--hparams must be a JSON object"),
        (["--hparams", '{"nuisance_background": "red"}'], "accepted is one of texture, plain"),
        (["--datasets", "Spirograph"], "Spirograph has no environment 'new' to test on; it has thin, middle, thick"),
        (["--datasets", "Digits"], "the data set 'Digits' is not one of DomainBed's"),
    ],
)
def test_wrong_data_on_the_command_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ["sweep", NAME, "--output_dir", str(tmp_path / "out"), "--algorithms", "CIM", "--dry_run"]
    assert cli.main([*sweep, *words]) == 2
    out, err = capsys.readouterr()
    assert message in err and out == "" and err.count("\n") == 1


@pytest.mark.harness
@pytest.mark.slow
def test_it_has_every_algorithm_that_trains_here(real: RealDomainBed) -> None:
    done = real.python("-c", STEPS)
    seen: dict[str, Any] = json.loads(done.stderr.splitlines()[-1])
    trained = [name for name, what in seen.items() if what == "trained"]
    assert [name for name in trained if name not in LEFT_OUT] == [*load(NAME).algorithms][: -len(OURS)]
    assert set(LEFT_OUT) == set(seen) - set(load(NAME).algorithms)
    for name, reason in LEFT_OUT.items():
        assert reason in seen[name], (name, seen[name])


@pytest.mark.harness
@pytest.mark.slow
def test_in_a_clone_it_ends_with_the_table(real: RealDomainBed, tmp_path: Path) -> None:
    words = ["sweep", NAME, "--output_dir", str(tmp_path), "--algorithms", "ERM", "SD", "CIM_VIB", "--n_trials", "1"]
    words += ["--steps", "2", "--skip_confirmation", "--skip_model_save"]
    for state in ("0 done", "3 done"):
        done = real.python("-m", "cim_dg.cli", *words)
        assert done.returncode == 0, done.stderr
        assert f"3 jobs: {state}" in done.stdout
        assert "NuisanceDigits: test accuracy (%) [iid]" in done.stdout and "domainbed-standin" not in done.stdout
        assert [name in done.stdout for name in ("ERM", "SD", "CIM_VIB")] == [True] * 3
    assert len(list(tmp_path.glob("*/done"))) == 3 and not list(tmp_path.glob("*/model.pkl"))
