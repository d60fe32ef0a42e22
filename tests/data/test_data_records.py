"""Runs say which copy of the data they are on, `collect` compares copies, and errors end in the command to get data."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from data_lookalikes import domain_names, tree
from real_domainbed import RealDomainBed, train_flags, write_photographs
from small_datasets import QUICK, waterbirds

from cim_dg import cli
from cim_dg.data import fingerprint
from cim_dg.data.catalogue import load
from cim_dg.data.verify import verify
from cim_dg.domainbed.data_record import watch
from cim_dg.errors import UserError
from cim_dg.results.data_copies import described, sentences
from cim_dg.results.records import Run

SHORT = ["--dataset", "VLCSMini", "--algorithm", "ERM", "--steps", "1", "--checkpoint_freq", "1"]


@pytest.fixture(autouse=True)
def anew() -> None:
    """A process of its own has not looked at the folder yet."""
    fingerprint._record.cache_clear()


def run_on(data: dict[str, Any] | None, algorithm: str = "ERM", dataset: str = "VLCS") -> Run:
    return Run(Path("job"), "domainbed", dataset, algorithm, 0, provenance={} if data is None else {"data": data})


def copy(listing: str, digest: str | None = None, verified: bool | None = None) -> dict[str, Any]:
    return {"dataset": "VLCS", "listing": listing, "fingerprint": digest, "verified": verified}


def test_a_record_tells_verified_from_changed(tmp_path: Path) -> None:
    folder = tree(tmp_path, domain_names(load("VLCSMini"), each=1, top="VLCSMini/")) / "VLCSMini"
    first = fingerprint.record("domainbed", "VLCSMini", tmp_path)
    assert first is not None and first["fingerprint"] is None and first["verified"] is None
    fingerprint._record.cache_clear()
    digest = verify(load("VLCSMini"), tmp_path).fingerprint
    second = fingerprint.record("domainbed", "VLCSMini", tmp_path)
    assert second == {**first, "fingerprint": digest, "verified": False}, "it has fewer images than VLCSMini"
    fingerprint._record.cache_clear()
    (folder / "C" / "dog" / "c_00.jpg").write_bytes(b"another size")
    third = fingerprint.record("domainbed", "VLCSMini", tmp_path)
    assert third is not None and third["fingerprint"] is None and third["listing"] != first["listing"]
    assert fingerprint.record("domainbed", "NuisanceDigits", tmp_path) is None
    assert fingerprint.record("domainbed", "VLCS", tmp_path) is None
    assert fingerprint.record("wilds", "VLCSMini", tmp_path) is None


def test_different_copies_are_told() -> None:
    one, other = copy("a" * 64, "1" * 64, True), copy("b" * 64)
    assert sentences([run_on(one), run_on(one, "CIM")]) == []
    (said,) = sentences([run_on(one), run_on(one, "CIM"), run_on(other, "SCL")])
    assert said.startswith("VLCS: the runs are on 2 different copies of the data")
    assert (
        "111111111111 (verified): 2 runs of CIM, ERM" in said and "bbbbbbbbbbbb (not verified): 1 runs of SCL" in said
    )
    # Of different datasets nobody compares figures.
    assert sentences([run_on(one), run_on(other, dataset="PACS")]) == []


def test_a_copy_that_was_verified_between_two_runs_is_one_copy() -> None:
    assert sentences([run_on(copy("a" * 64)), run_on(copy("a" * 64, "1" * 64, True))]) == []


def test_the_same_names_and_sizes_with_other_bytes_are_two_copies() -> None:
    runs = [run_on(copy("a" * 64, digit * 64, True)) for digit in "12"]
    assert "2 different copies" in sentences(runs)[0]


def test_copies_that_differ_from_the_manifest_and_silent_runs_are_told() -> None:
    (said,) = sentences([run_on(copy("a" * 64, "1" * 64, False))])
    assert "1 of 1 runs are on data that differ from what papers mean" in said
    assert sentences([run_on(None), run_on(None)]) == []
    (said,) = sentences([run_on(None), run_on(copy("a" * 64))])
    assert said == "VLCS: 1 of 2 runs do not say which copy of the data they are on."
    assert described(run_on(None)) == "unknown" and described(run_on(copy("a" * 64))) == "aaaaaaaaaaaa (not verified)"


def test_a_damaged_record_of_a_copy_counts_as_none() -> None:
    damaged: Any = [[[]]]
    assert sentences([run_on(copy(damaged)), run_on(copy(damaged, "1" * 64, True))]) == []
    assert described(run_on(copy("a" * 64) | {"verified": damaged})) == "aaaaaaaaaaaa (not verified)"


def train(data_dir: Path, output_dir: Path) -> dict[str, Any]:
    from domainbed.scripts import train as standin

    hparams = json.dumps({"batch_size": 4, "weights": "random", "resnet18": True, "resnet50_augmix": False})
    flags = [*SHORT, "--data_dir", str(data_dir), "--output_dir", str(output_dir), "--test_envs", "0"]
    assert standin.main([*flags, "--hparams", hparams, "--holdout_fraction", "0.5"]) == 0
    return json.loads((output_dir / "provenance.json").read_text())["data"]


@pytest.mark.slow
def test_the_stand_ins_jobs_and_collect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = domain_names(load("VLCSMini"), each=4, top="VLCSMini/")
    tree(tmp_path / "one", names)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    first = train(tmp_path / "one", tmp_path / "runs" / "one")
    assert first == fingerprint.record("domainbed", "VLCSMini", tmp_path / "two") and first["dataset"] == "VLCSMini"
    assert cli.main(["collect", str(tmp_path / "runs")]) == 0
    assert "different copies" not in "".join(capsys.readouterr())
    (tmp_path / "two" / names[0]).unlink()
    fingerprint._record.cache_clear()
    train(tmp_path / "two", tmp_path / "runs" / "two")
    assert cli.main(["collect", str(tmp_path / "runs")]) == 0
    assert "VLCSMini: the runs are on 2 different copies of the data" in "".join(capsys.readouterr())


def test_runs_of_wilds_say_it(tmp_path: Path) -> None:
    waterbirds(tmp_path / "data")
    words = ["wilds", "train", "--dataset", "waterbirds", "--algorithm", "ERM", "--root_dir", str(tmp_path / "data")]
    assert cli.main([*words, "--log_dir", str(tmp_path / "log"), *QUICK]) == 0
    data = json.loads((tmp_path / "log" / "run.json").read_text())["data"]
    assert data["dataset"] == "Waterbirds" and data["listing"] == fingerprint.listing(
        load("Waterbirds"), tmp_path / "data"
    )


# The real DomainBed.


def fake_datasets(tmp_path: Path) -> ModuleType:
    """A module as DomainBed's, with constructors that fail as its own do."""
    module = ModuleType("domainbed.datasets")

    class MultipleEnvironmentImageFolder:
        def __init__(self, root: str, test_envs: list[int], augment: bool, hparams: dict[str, Any]) -> None:
            self.environments = sorted(path.name for path in Path(root).iterdir())

    class VLCS(MultipleEnvironmentImageFolder):
        ENVIRONMENTS = ("C", "L", "S", "V")

        def __init__(self, root: str, test_envs: list[int], hparams: dict[str, Any]) -> None:
            super().__init__(str(Path(root, "VLCS")), test_envs, False, hparams)

    vars(module).update(VLCS=VLCS, MultipleEnvironmentImageFolder=MultipleEnvironmentImageFolder)
    return module


def test_an_error_of_domainbed_on_missing_data_ends_in_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = fake_datasets(tmp_path)
    for _ in range(2):  # a reload watches nothing twice
        watch(module)
    with pytest.raises(FileNotFoundError) as error:
        module.VLCS(str(tmp_path), [0], {})
    said = f"`cim-dg data get VLCS --data_dir {tmp_path}` gets VLCS"
    notes = getattr(error.value, "__notes__", None)
    assert notes == [said] if sys.version_info >= (3, 11) else said in capsys.readouterr().err
    tree(tmp_path, domain_names(load("VLCS"), each=1, top="VLCS/"))
    assert module.VLCS(str(tmp_path), [0], {}).environments == list(load("VLCS").domains)


@pytest.mark.harness
def test_jobs_of_the_real_domainbed(domainbed_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real = RealDomainBed(domainbed_root)
    failed = real.python("-m", "domainbed.scripts.train", *train_flags("ERM", "VLCS", tmp_path / "no", tmp_path))
    assert failed.returncode != 0
    printed = (tmp_path / "no" / "err.txt").read_text()
    assert printed.strip().endswith(f"`cim-dg data get VLCS --data_dir {tmp_path}` gets VLCS")
    assert (
        cli.main(["data", "get", "PACS", "--data_dir", str(tmp_path), "--no_verify", "--from", str(_pacs(tmp_path))])
        == 0
    )
    hparams = {"resnet18": True, "resnet50_augmix": False}
    done = real.python(
        "-c",
        "import torchvision.models as m, runpy; real = m.resnet18; m.resnet18 = lambda *a, **k: real();"
        "runpy.run_module('domainbed.scripts.train', run_name='__main__', alter_sys=True)",
        *train_flags("ERM", "PACS", tmp_path / "job", tmp_path, steps=1, **hparams),
    )
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "job" / "data.json").read_text())
    assert data["listing"] == fingerprint.listing(load("PACS"), tmp_path)
    assert cli.main(["collect", str(tmp_path / "job")]) == 0


def _pacs(tmp_path: Path) -> Path:
    write_photographs(tmp_path / "made", "PACS", classes=("dog", "horse"), count=8)
    return tmp_path / "made"


@pytest.mark.harness
def test_run_expt_on_missing_data_ends_in_the_command(wilds_root: Path, tmp_path: Path) -> None:
    words = [
        "--dataset",
        "waterbirds",
        "--algorithm",
        "ERM",
        "--root_dir",
        str(tmp_path),
        "--log_dir",
        str(tmp_path / "log"),
    ]
    done = RealDomainBed(wilds_root).python(str(wilds_root / "examples" / "run_expt.py"), *words, cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr.strip().endswith(f"`cim-dg data get Waterbirds --data_dir {tmp_path}` gets Waterbirds.")


# What else names the command.


def test_errors_of_ours_end_in_the_command(tmp_path: Path) -> None:
    from cim_dg.domainbed.standin import datasets
    from cim_dg.wilds.data import load_dataset

    with pytest.raises(UserError, match=f"`cim-dg data get PACS --data_dir {tmp_path}` gets PACS$"):
        datasets.PACS(str(tmp_path), [0], {"data_augmentation": False})
    with pytest.raises(UserError, match=r"`cim-dg data get OfficeHome --data_dir DIR` gets OfficeHome$"):
        datasets.OfficeHome(None, [0], {"data_augmentation": False})
    with pytest.raises(UserError, match=r"`cim-dg data get MNIST --data_dir DIR` gets MNIST$"):
        datasets.RotatedMNIST(None, [0], {})
    with pytest.raises(UserError, match=f"`cim-dg data get MNIST --data_dir {tmp_path}` gets MNIST$"):
        datasets.ColoredMNIST(str(tmp_path), [0], {})
    for name, ours in (("celebA", "CelebA"), ("rxrx1", "RxRx1"), ("backgrounds", "ImageNet9")):
        with pytest.raises(UserError, match=f"`cim-dg data get {ours} --data_dir {tmp_path}` gets"):
            load_dataset(name, str(tmp_path))


@pytest.mark.parametrize(
    ("sweep", "end"),
    [
        ("vlcs", "holds no VLCS, which this sweep needs; `cim-dg data get VLCS --data_dir {}` gets VLCS"),
        ("ablation-colored-mnist", "`cim-dg data get MNIST --data_dir {}` gets MNIST"),
        ("backgrounds", "original/val, mixed_same/val, .*; `cim-dg data get ImageNet9 --data_dir {}` gets ImageNet9"),
        ("waterbirds-digits", "`cim-dg wilds digits --root_dir {}` writes the digits"),
    ],
)
def test_a_sweep_says_it_before_it_plans(
    sweep: str, end: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", sweep, "--data_dir", str(tmp_path), "--output_dir", str(tmp_path / "out"), "--dry_run"]
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert re.search(end.format(re.escape(str(tmp_path))) + "$", error.strip())


def test_doctor_says_it_for_every_sweep(tmp_path: Path) -> None:
    from cim_dg.commands.doctor import datasets

    tree(tmp_path, domain_names(load("VLCS"), each=1, top="VLCS/"))
    lines = dict(datasets(tmp_path))
    assert lines[f"datasets in {tmp_path}"] == "VLCS"
    assert lines["  sweep vlcs"] == "has its data" and lines["  sweep digits"] == "has its data"
    assert lines["  sweep celeba"] == f"lacks celebA_v*; `cim-dg data get CelebA --data_dir {tmp_path}` gets CelebA"
