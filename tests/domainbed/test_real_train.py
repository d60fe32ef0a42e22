"""`train` of a real DomainBed, unpatched, with every method of ours and on every kind of dataset."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

import pytest
import torch
from real_domainbed import OURS, RealDomainBed, results_of, train_flags, write_photographs
from standin_samples import write_mnist

from cim_dg.errors import LEFT
from cim_dg.runtime import locks

pytestmark = [pytest.mark.harness, pytest.mark.slow]

RANDOM = ["--hparams_seed", "1"]


def check_run(folder: Path, environments: int) -> None:
    """It ended, its losses are numbers, it has accuracies of all environments, and its checkpoint is read safely."""
    *_, last = results_of(folder)
    assert math.isfinite(last["loss"])
    accuracies = [last[f"env{env}_{split}_acc"] for env in range(environments) for split in ("in", "out")]
    assert all(0 <= accuracy <= 1 for accuracy in accuracies)
    assert f"env{environments}_in_acc" not in last
    model = torch.load(folder / "model.pkl")
    assert model["model_hparams"] == last["hparams"]
    assert all(torch.isfinite(value).all() for value in model["model_dict"].values())


def test_every_method_with_default_and_with_random_hparams(real: RealDomainBed, tmp_path: Path) -> None:
    default = [train_flags(name, "Debug28", tmp_path / f"{name}-default", tmp_path, steps=3) for name in OURS]
    random = [
        [*train_flags(name, "NuisanceDigits", tmp_path / f"{name}-random", tmp_path, nuisance_digits=50), *RANDOM]
        for name in OURS
    ]
    drawings = train_flags("CIM", "Spirograph", tmp_path / "Spirograph", tmp_path, steps=3, spirograph_images=80)
    real.trains(*default, *random, drawings)
    check_run(tmp_path / "Spirograph", 3)
    for name in OURS:
        check_run(tmp_path / f"{name}-default", 3)
        check_run(tmp_path / f"{name}-random", 3)


def test_photographs_with_a_resnet(real: RealDomainBed, tmp_path: Path) -> None:
    hparams = {"batch_size": 4, "resnet18": True, "resnet50_augmix": False}
    runs = []
    for algorithm, dataset in (("CIM", "VLCS"), ("CIM_VIB", "PACS"), ("SCL", "VLCSMini")):
        write_photographs(tmp_path, dataset)
        runs.append(train_flags(algorithm, dataset, tmp_path / f"{dataset}-out", tmp_path, steps=1, **hparams))
    real.trains(*runs)
    check_run(tmp_path / "VLCS-out", 4)
    check_run(tmp_path / "PACS-out", 4)
    check_run(tmp_path / "VLCSMini-out", 3)


def test_coloured_mnist_from_inside_the_clone(real: RealDomainBed, tmp_path: Path) -> None:
    write_mnist(tmp_path)
    real.script("train", *train_flags("VIB", "ColoredMNIST", tmp_path / "out", tmp_path))
    check_run(tmp_path / "out", 3)


def test_by_pythonpath_from_elsewhere(real: RealDomainBed, tmp_path: Path) -> None:
    flags = train_flags("CIM", "Debug28", Path("out"), Path("data"), steps=3)
    real.script("train", *flags, cwd=tmp_path, PYTHONPATH=str(real.root))
    check_run(tmp_path / "out", 3)


def test_a_misspelt_hparam_is_refused_with_the_names_there_are(real: RealDomainBed, tmp_path: Path) -> None:
    flags = train_flags("CIM", "Debug28", tmp_path, tmp_path, cim_lamda=1)
    done = real.python("-m", "domainbed.scripts.train", *flags)
    assert done.returncode != 0
    complaint = (tmp_path / "err.txt").read_text()
    assert "unknown hyper-parameter 'cim_lamda' for CIM; valid names are" in complaint
    assert "cim_lambda" in complaint
    assert not (tmp_path / "done").exists()


def test_a_job_that_another_process_runs_is_left_to_it(real: RealDomainBed, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "results.jsonl").write_text("of the other\n")
    words = ["-m", "domainbed.scripts.train", *train_flags("ERM", "Debug28", folder, tmp_path)]
    with locks.claim(folder):  # type: ignore[union-attr]
        left = real.python(*words)
        assert left.returncode == LEFT and "another process is running this job" in left.stderr
        refused = real.python(*words, CIM_DG_REQUIRE_GPU="1", CUDA_VISIBLE_DEVICES="")
        assert refused.returncode == 2 and "a GPU is required" in refused.stderr
    assert {path.name for path in folder.iterdir()} == {locks.NAME, "results.jsonl"}
    assert (folder / "results.jsonl").read_text() == "of the other\n"


@pytest.mark.harness
def test_a_single_logit_has_an_accuracy_of_4_in_domainbed(real: RealDomainBed) -> None:
    """Which is why the stand-in refuses it."""
    program = """
        import torch
        from domainbed.lib.misc import accuracy
        class Single(torch.nn.Module):
            def predict(self, x):
                return torch.ones(len(x), 1)
        print(accuracy(Single(), [(torch.zeros(4, 1), torch.ones(4))], None, "cpu"))
    """
    done = real.python("-c", textwrap.dedent(program))
    assert done.stdout.split()[-1] == "4.0", done.stderr
