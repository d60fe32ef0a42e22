"""Real clones of forks of DomainBed, and of its old commits: ours train, average and reload; theirs is as it was."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fork_clones import DIGITS, METHODS, OLD_COMMITS, Clone, records, swad_flags, train_flags
from standin_samples import write_mnist

pytestmark = [pytest.mark.harness, pytest.mark.slow]


def has_commit(source: str, commit: str) -> bool:
    return not subprocess.run(
        ["git", "-C", source, "cat-file", "-e", commit], capture_output=True, check=False
    ).returncode


def clone_of(variable: str, folder: Path, commit: str | None = None) -> Clone:
    source = os.environ.get(variable)
    if not source:
        pytest.skip(f"{variable} is not set: it names a clone of the fork")
    if not (Path(source) / ".git").exists():
        pytest.fail(f"{variable}={source} is no clone")
    if commit and not has_commit(source, commit):
        pytest.skip(f"{variable}={source} has no commit {commit}: its history is not whole")
    clone = Clone.of(source, folder / "clone", commit)
    if missing := clone.missing():
        pytest.skip(f"{variable} needs {', '.join(missing)}, which is not installed")
    return clone


@pytest.fixture(scope="module", params=["SWAD_ROOT", "MIRO_ROOT"])
def swad(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    clone = clone_of(request.param, tmp_path_factory.mktemp("swad"))
    yield clone
    assert clone.git("status", "--porcelain") == ""


@pytest.fixture(scope="module")
def diwa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    clone = clone_of("DIWA_ROOT", tmp_path_factory.mktemp("diwa"))
    yield clone
    assert clone.git("status", "--porcelain") == ""


def test_swad_trains_averages_and_reloads_ours(swad: Clone, tmp_path: Path) -> None:
    facts = swad.runs(*(swad_flags(name, "NuisanceDigits", tmp_path) for name in METHODS))
    assert [fact["algorithm"] for fact in facts] == METHODS
    for fact in facts:
        assert fact["reloads"]
        assert fact["averages"]
        assert len(fact["mask_batches"]) == (3 if "CIM" in fact["algorithm"] else 0)
        # Two training domains of 240 images, in batches of 128: not the steps of the training.
        assert all(batches == 4 for batches in fact["mask_batches"])
        assert len(records(swad.root / fact["folder"] / "results.jsonl")) == 12  # three test domains, four evaluations


def test_swad_erm_is_what_it_was(swad: Clone, tmp_path: Path) -> None:
    write_mnist(tmp_path)
    flags = swad_flags("ERM", "ColoredMNIST", tmp_path)
    facts = [swad.runs(flags, CIM_DG_AUTOLOAD=switch)[0] for switch in ("1", "0")]
    with_us, without_us = (records(swad.root / fact["folder"] / "results.jsonl") for fact in facts)
    assert len(with_us) == 12
    assert with_us == without_us
    assert "cim_lambda" not in with_us[0]["hparams"]


@pytest.mark.parametrize(
    ("variable", "form"), [("SWAD_ROOT", "SWAD's"), ("MIRO_ROOT", "SWAD's"), ("DIWA_ROOT", "DiWA's")]
)
def test_doctor_names_the_fork_its_commit_and_what_is_registered(variable: str, form: str, tmp_path: Path) -> None:
    clone = clone_of(variable, tmp_path)
    done = clone.python("-m", "cim_dg.cli", "doctor")
    assert done.returncode == 0, done.stdout
    head = clone.git("rev-parse", "HEAD")
    assert f"{clone.root.resolve()}, commit {head}, {form} form" in done.stdout
    assert "NuisanceDigits, Spirograph, VLCSMini" in done.stdout
    assert "ERM, GroupDRO, which it has itself" in done.stdout
    no_sweep = "left out                 launchers: it has no sweep" in done.stdout
    assert no_sweep == (form == "SWAD's")
    planned = clone.python("-m", "cim_dg.cli", "sweep", "digits", "--output_dir", str(tmp_path / "x"), "--plan")
    assert planned.returncode == (2 if no_sweep else 0), planned.stderr
    assert ("holds a fork of DomainBed without a sweep" in planned.stderr) == no_sweep


def test_diwa_averages_ours_from_a_shared_initialisation(diwa: Clone, tmp_path: Path) -> None:
    init = ["--test_envs", "2", "--path_for_init", str(tmp_path / "init.pth")]
    members = [tmp_path / "sweep" / name for name in "ab"]
    diwa.runs(
        train_flags("CIM", tmp_path / "start", "NuisanceDigits", *init, "--init_step", **DIGITS),
        *(
            train_flags("CIM", folder, "NuisanceDigits", *init, "--seed", str(seed), **DIGITS)
            for seed, folder in enumerate(members)
        ),
    )
    average = ["--dataset", "NuisanceDigits", "--test_env", "2", "--output_dir", str(tmp_path / "sweep")]
    done = diwa.python("-c", MEAN, *average)
    assert done.returncode == 0, done.stderr
    assert "mean of 2 members: True" in done.stdout
    length, accuracy = done.stdout.splitlines()[-2].split()
    assert length == "2"
    assert 0 <= float(accuracy) <= 1


MEAN = """
import runpy, sys, torch
from domainbed import algorithms_inference as inference
from pathlib import Path
average = {}
evaluate = inference.DiWA.eval
inference.DiWA.eval = lambda self: average.setdefault(0, self) and evaluate(self)
runpy.run_module("domainbed.scripts.diwa", run_name="__main__", alter_sys=True)
folder = Path(sys.argv[sys.argv.index("--output_dir") + 1])
states = [torch.load(path)["model_dict"] for path in folder.glob("*/model_best.pkl")]
got = {k.removeprefix("algorithm."): v for k, v in average[0].network_wa.state_dict().items()}
weights = [k for k, value in got.items() if value.is_floating_point()]
same = [torch.allclose(got[k], sum(s[k] for s in states) / len(states), atol=1e-6) for k in weights]
moved = any("morphing" in k and not torch.equal(states[0][k], states[1][k]) for k in got)
sys.stdout.write(f"mean of {len(states)} members: {all(same) and moved}\\n")
"""


def test_diwa_trains_ours_and_its_erm_is_what_it_was(diwa: Clone, tmp_path: Path) -> None:
    runs = [train_flags(name, tmp_path / name) for name in ("ERM", *METHODS)]
    assert all(fact["reloads"] for fact in diwa.runs(*runs))
    diwa.runs(train_flags("ERM", tmp_path / "without"), CIM_DG_AUTOLOAD="0")
    assert records(tmp_path / "ERM" / "results.jsonl") == records(tmp_path / "without" / "results.jsonl")


@pytest.mark.parametrize("year", OLD_COMMITS)
def test_old_domainbed_trains_ours_and_its_erm_is_what_it_was(year: str, tmp_path: Path) -> None:
    clone = clone_of("DOMAINBED_ROOT", tmp_path, OLD_COMMITS[year])
    runs = [train_flags(name, tmp_path / name) for name in ("ERM", *METHODS)]
    facts = clone.runs(*runs, train_flags("CIM", tmp_path / "digits", "NuisanceDigits", **DIGITS))
    assert [fact["reloads"] for fact in facts] == [True] * 6
    clone.runs(train_flags("ERM", tmp_path / "without"), CIM_DG_AUTOLOAD="0")
    assert records(tmp_path / "ERM" / "results.jsonl") == records(tmp_path / "without" / "results.jsonl")
    assert clone.git("status", "--porcelain") == ""
