from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import small_datasets
from small_datasets import QUICK

Command = Callable[..., int]


@pytest.fixture
def fails(command: Command, tmp_path: Path, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Run `wilds train`, which must end with exit code 2 and one sentence; returns the sentence."""

    def run(root: Path, *options: object, dataset: str = "waterbirds", algorithm: str = "ERM") -> str:
        fixed = ["--dataset", dataset, "--algorithm", algorithm, "--root_dir", root, "--log_dir", tmp_path / "log"]
        assert command("wilds", "train", *fixed, *QUICK, *options) == 2
        err = capsys.readouterr().err
        assert err.startswith("cim-dg: error: ") and err.count("\n") == 1, err
        return err

    return run


def test_root_dir(fails: Callable[..., str], tmp_path: Path) -> None:
    assert "is not a folder" in fails(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "waterbirds is not below" in fails(tmp_path / "empty")


@pytest.mark.parametrize(
    ("dataset", "table", "column"),
    [
        ("waterbirds", "metadata.csv", "place"),
        ("camelyon17", "metadata.csv", "tumor"),
        ("rxrx1", "metadata.csv", "site"),
    ],
)
def test_a_table_without_a_column(
    dataset: str, table: str, column: str, fails: Callable[..., str], tmp_path: Path
) -> None:
    small_datasets.MAKERS[dataset](tmp_path)
    (path,) = tmp_path.glob(f"{dataset}_v*/{table}")
    pd.read_csv(path).drop(columns=column).to_csv(path, index=False)
    error = fails(tmp_path, dataset=dataset)
    assert column in error and dataset in error


def test_a_table_that_is_not_there(fails: Callable[..., str], tmp_path: Path) -> None:
    small_datasets.waterbirds(tmp_path)
    (tmp_path / "waterbirds_v1.0" / "metadata.csv").unlink()
    assert "metadata.csv" in fails(tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read(workers: int, fails: Callable[..., str], tmp_path: Path) -> None:
    small_datasets.waterbirds(tmp_path)
    image = tmp_path / "waterbirds_v1.0" / "images" / "0003.jpg"
    image.write_bytes(image.read_bytes()[:40])
    assert "0003.jpg of waterbirds cannot be read" in fails(tmp_path, "--loader_kwargs", f"num_workers={workers}")
    shutil.rmtree(tmp_path / "log")
    image.unlink()
    assert "0003.jpg of waterbirds cannot be read" in fails(tmp_path, "--loader_kwargs", f"num_workers={workers}")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--eval_splits", "val", "exam"], "no split 'exam'"),
        (["--split_scheme", "mine"], "mine"),
        (["--groupby_fields", "colour"], "accepted are fields among background, y"),
        (["--train_loader", "group", "--n_groups_per_batch", "3"], "must be evenly divisible"),
        (["--defaults", "nowhere"], "no defaults named 'nowhere'"),
        (["--frac", "0"], "frac is 0.0"),
        (["--lr", "-1"], "lr is -1.0"),
        (["--batch_size", "0"], "batch_size is 0"),
        (["--images_per_class", "3"], "not a multiple of images_per_class 3"),
        (
            ["--model", "resnet18", "--model_kwargs", "depth=3", "pretrained=False"],
            "model_kwargs does not fit resnet18",
        ),
        (["--model_kwargs", "pretrained=True"], "no pretrained weights for small-cnn"),
        (["--pretrained_model_path", "absent.pth", "--model", "resnet18"], "absent.pth is not a file"),
        (["--optimizer_kwargs", "momentun=0.9"], "optimizer_kwargs does not fit SGD"),
        (["--scheduler", "StepLR", "--scheduler_kwargs", "gama=0.1"], "scheduler_kwargs does not fit StepLR"),
        (["--scheduler", "ReduceLROnPlateau"], "needs scheduler_metric_name"),
        (["--scheduler", "ReduceLROnPlateau", "--scheduler_metric_name", "x"], "scheduler_metric_name is 'x'"),
        (["--device", "99"], "device is '99'"),
        (["--log_dir", "/dev/null/log"], "log_dir /dev/null/log cannot be made"),
        (["--cim_lambda", "3"], "--cim_lambda is not an option of ERM"),
    ],
)
def test_options(options: list[str], words: str, fails: Callable[..., str], small_root: Path) -> None:
    assert words in fails(small_root, *options)


def test_options_of_the_methods(fails: Callable[..., str], small_root: Path) -> None:
    assert "cim_lambda is 'many'" in fails(small_root, "--cim_lambda", "many", algorithm="CIM")
    assert "cim_lambda is -1.0" in fails(small_root, "--cim_lambda", "-1", algorithm="CIM")
    assert "add --use_domains" in fails(small_root, "--cim_negatives", "same_domain", algorithm="CIM")
    assert "algorithm is 'CIN'" in fails(small_root, algorithm="CIN")


def test_a_selection_that_needs_groups_where_there_are_none(fails: Callable[..., str], small_root: Path) -> None:
    assert "no groups to select by" in fails(small_root, "--selection", "worst-group", dataset="iwildcam")


def test_pretrained_weights_are_never_substituted(
    fails: Callable[..., str], small_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from urllib.error import URLError

    def refuse(*args: object, **kwargs: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    error = fails(small_root, "--model", "resnet18", "--model_kwargs", "pretrained=True")
    assert "no network" in error and "pretrained=False" in error


def test_a_resume_from_a_broken_checkpoint(fails: Callable[..., str], small_root: Path, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "waterbirds_seed:0_epoch:last_model.pth").write_bytes(b"half a file")
    assert "cannot be resumed from" in fails(small_root, "--resume")
