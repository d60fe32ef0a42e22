"""Datasets of the user's own: registered, read by both harnesses, and refused where they would be read wrongly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cim_dg import cli
from cim_dg.data import own

DOMAINS, CLASSES = ("art", "photo", "sketch"), ("cat", "dog")
WILDS = [
    *("--model", "small-cnn", "--model_kwargs", "pretrained=False", "width=8", "--target_resolution", "16", "16"),
    *("--batch_size", "8", "--n_epochs", "1", "--loader_kwargs", "num_workers=0", "--device", "cpu"),
]


@pytest.fixture(autouse=True)
def own_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of registered datasets for this test alone."""
    monkeypatch.setenv("CIM_DG_DATASETS", str(tmp_path / "registry"))
    return tmp_path / "registry"


def write_image(path: Path, label: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.RandomState(seed).randint(0, 80, size=(20, 24, 3))
    Image.fromarray((noise + 120 * np.array([label, 1 - label, 0])).astype(np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """DOMAIN/CLASS/IMAGE with 12 images of each class in each domain."""
    for d, domain in enumerate(DOMAINS):
        for c, label in enumerate(CLASSES):
            for number in range(12):
                write_image(tmp_path / "mine" / domain / label / f"{number}.png", c, 100 * d + 12 * c + number)
    return tmp_path / "mine"


@pytest.fixture
def table(folder: Path, tmp_path: Path) -> Path:
    """A CSV file of the same images with a split and a group column."""
    rows = [
        {
            "path": str(path.relative_to(folder)),
            "label": path.parts[-2],
            "domain": path.parts[-3],
            "split": ("train", "train", "val", "test")[number % 4],
            "light": ("day", "night")[number % 2],
        }
        for number, path in enumerate(sorted(folder.rglob("*.png")))
    ]
    pd.DataFrame(rows).to_csv(folder / "images.csv", index=False)
    return folder / "images.csv"


def register(*words: object) -> int:
    return cli.main(["data", "register", *map(str, words)])


def refusal(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one sentence with which `register` refuses."""
    assert register(*words) == 2
    error = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
    assert error.startswith("cim-dg: error: ")
    return error


def test_a_folder_is_laid_out_by_links_with_drawn_splits(folder: Path, tmp_path: Path) -> None:
    assert register("Mine", "--from", folder, "--data_dir", tmp_path / "data", "--stratify", "--seed", 3) == 0
    dataset = own.read("Mine")
    assert (dataset.domains, dataset.classes, dataset.splits) == (list(DOMAINS), list(CLASSES), list(own.SPLITS))
    table = pd.read_csv(Path(dataset.folder, own.METADATA))
    assert Counter(table["split"]) == {"train": 49, "val": 8, "test": 15}
    for split, allowed in (("train", (24, 25)), ("val", (4,)), ("test", (7, 8))):
        counts = Counter(table[table["split"] == split]["class"])
        assert all(count in allowed for count in counts.values())
    links = [Path(dataset.folder, name) for name in table["filename"]]
    assert all(link.is_symlink() for link in links)
    assert {link.resolve() for link in links} == set(folder.rglob("*.png"))
    assert all(link.parts[-3:-1] == link.resolve().parts[-3:-1] for link in links)


def test_test_domains_are_the_split_test(folder: Path, tmp_path: Path) -> None:
    words = ["--split", "0.8", "0.2", "0", "--test_domains", "sketch"]
    assert register("Mine", "--from", folder, "--data_dir", tmp_path / "data", *words) == 0
    table = pd.read_csv(Path(own.read("Mine").folder, own.METADATA))
    assert set(table[table["domain"] == "sketch"]["split"]) == {"test"}
    assert Counter(table[table["domain"] != "sketch"]["split"]) == {"train": 38, "val": 10}


def test_a_csv_file_brings_its_splits_and_groups(table: Path, tmp_path: Path) -> None:
    words = ["--split_column", "split", "--group_columns", "light", "--copy"]
    assert register("Mine", "--from", table, "--data_dir", tmp_path / "data", *words) == 0
    dataset = own.read("Mine")
    assert dataset.groups == ["light"]
    given, written = pd.read_csv(table), pd.read_csv(Path(dataset.folder, own.METADATA))
    pd.testing.assert_frame_equal(given[["domain", "split", "light"]], written[["domain", "split", "light"]])
    first = Path(dataset.folder, written["filename"][0])
    assert not first.is_symlink()
    assert first.read_bytes() == (table.parent / given["path"][0]).read_bytes()


def test_images_that_lie_in_their_place_stay_there(folder: Path, tmp_path: Path) -> None:
    before = sorted(folder.rglob("*"))
    assert register("mine", "--from", folder, "--data_dir", tmp_path) == 0
    assert sorted(folder.rglob("*")) == sorted([*before, folder / own.METADATA])


def test_what_would_be_read_wrongly_is_refused_and_leaves_nothing(
    folder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], own_registry: Path
) -> None:
    data = tmp_path / "data"
    arguments = ["--from", folder, "--data_dir", data]
    rows = ["--from", table, "--data_dir", data]
    assert "NAME is 'VLCS'" in refusal(capsys, "VLCS", *arguments)
    assert "NAME is 'waterbirds'" in refusal(capsys, "waterbirds", *arguments)
    assert "NAME is '../x'" in refusal(capsys, "../x", *arguments)
    assert "--from is missing" in refusal(capsys, "Mine", "--data_dir", data)
    assert "no.csv cannot be read as CSV" in refusal(capsys, "Mine", "--from", tmp_path / "no.csv", "--data_dir", data)
    assert "no column 'labels'; it has path, label" in refusal(capsys, "Mine", *rows, "--label_column", "labels")
    assert "--split is 0.5 0.5 0.5" in refusal(capsys, "Mine", *arguments, "--split", 0.5, 0.5, 0.5)
    assert "--test_domains has 'oil'; accepted are art" in refusal(capsys, "Mine", *arguments, "--test_domains", "oil")
    assert "--seed is -1" in refusal(capsys, "Mine", *arguments, "--seed", -1)
    (folder / "art" / "cat" / "broken.png").write_bytes(b"no image")
    assert "broken.png cannot be read" in refusal(capsys, "Mine", *arguments)
    (folder / "art" / "cat" / "broken.png").rename(folder / "loose.png")
    assert "loose.png is not in a folder DOMAIN/CLASS" in refusal(capsys, "Mine", *arguments)
    assert not data.exists() and not own_registry.exists()


def test_a_folder_that_is_there_is_kept(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data" / "Mine").mkdir(parents=True)
    (tmp_path / "data" / "Mine" / "thesis.txt").write_text("years of work")
    assert "exists already" in refusal(capsys, "Mine", "--from", folder, "--data_dir", tmp_path / "data")
    assert (tmp_path / "data" / "Mine" / "thesis.txt").read_text() == "years of work"


def test_it_can_be_forgotten(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert register("Mine", "--from", folder, "--data_dir", tmp_path / "data") == 0
    assert own.names() == ["Mine"]
    assert register("Mine", "--remove") == 0
    assert own.names() == [] and (tmp_path / "data" / "Mine").is_dir()
    assert "no dataset 'Mine' is registered" in refusal(capsys, "Mine", "--remove")


TRAIN = """
import runpy, sys
from cim_dg import autoload
autoload.install()
sys.argv[0] = "train"
runpy.run_module("domainbed.scripts.train", run_name="__main__", alter_sys=True)
"""


def train_in_domainbed(output: Path, *words: str, root: Path | None = None) -> subprocess.CompletedProcess[str]:
    """domainbed.scripts.train for one step on Mine; the stand-in starts from random weights."""
    hparams: dict[str, object] = {
        "batch_size": 4,
        "resnet18": True,
        "resnet50_augmix": False,
        "data_augmentation": False,
    }
    hparams |= {} if root else {"weights": "random"}
    command = [sys.executable, "-c", TRAIN, "--dataset", "Mine", "--data_dir", "none", "--steps", "1"]
    command += ["--output_dir", str(output), "--hparams", json.dumps(hparams), *words]
    path = [str(root)] if root else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*path, str(Path(cli.__file__).parents[1])])}
    return subprocess.run(command, env=environment, cwd=output.parent, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_stand_in_trains_on_it_from_one_source_domain(folder: Path, tmp_path: Path) -> None:
    assert register("Mine", "--from", folder, "--data_dir", tmp_path / "data") == 0
    done = train_in_domainbed(tmp_path / "job", "--algorithm", "ERM", "--test_envs", "1", "2")
    assert done.returncode == 0, done.stderr
    (record,) = [json.loads(line) for line in (tmp_path / "job" / "results.jsonl").read_text().splitlines()]
    assert {name for name in record if name.endswith("_acc")} == {
        f"env{env}_{split}_acc" for env in range(3) for split in ("in", "out")
    }


@pytest.mark.slow
@pytest.mark.harness
def test_the_real_domainbed_trains_on_it_from_one_source_domain(
    folder: Path, tmp_path: Path, domainbed_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    import torchvision

    assert register("Mine", "--from", folder, "--data_dir", tmp_path / "data") == 0
    # In the place of the download that the real one would make.
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    place = tmp_path / "hub" / "checkpoints" / Path(weights.url).name
    place.parent.mkdir(parents=True)
    torch.save(torchvision.models.resnet18().state_dict(), place)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    done = train_in_domainbed(
        tmp_path / "job", "--algorithm", "ERM", "--test_envs", "1", "2", "--skip_model_save", root=domainbed_root
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "job" / "done").exists()


def test_domainbed_needs_every_class_in_every_domain(folder: Path, tmp_path: Path) -> None:
    import domainbed.datasets

    from cim_dg.domainbed.own_datasets import make_own_dataset
    from cim_dg.errors import UserError

    for path in (folder / "art" / "cat").iterdir():
        path.unlink()
    assert register("Mine", "--from", folder, "--data_dir", tmp_path / "data") == 0
    made: Any = make_own_dataset(own.read("Mine"), domainbed.datasets)
    assert list(DOMAINS) == made.ENVIRONMENTS
    with pytest.raises(UserError, match="the domain art of Mine has no image of cat: DomainBed needs every class"):
        made(None, [0], {"data_augmentation": False})


def test_wilds_trains_on_it_and_reports_its_worst_group(table: Path, tmp_path: Path) -> None:
    words = ["--split_column", "split", "--group_columns", "light"]
    assert register("Mine", "--from", table, "--data_dir", tmp_path / "data", *words) == 0
    run = ["wilds", "train", "--dataset", "Mine", "--algorithm", "CIM", "--root_dir", str(tmp_path / "data")]
    assert cli.main([*run, "--log_dir", str(tmp_path / "logs"), "--selection", "worst-group", *WILDS]) == 0
    record = json.loads((tmp_path / "logs" / "run.json").read_text())
    assert record["finished"] and record["model"]["classes"] == list(CLASSES)
    assert record["config"]["groupby_fields"] == ["domain"] and record["config"]["report_groups"] == ["light", "y"]
    evaluated = pd.read_csv(tmp_path / "logs" / "test_eval.csv")
    assert {"acc_avg", "acc_wg", "acc_y:cat_light:day"} <= set(evaluated.columns)
