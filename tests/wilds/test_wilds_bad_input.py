from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import bad_files
import pandas as pd
import pytest
import small_datasets
import torch
from small_datasets import QUICK

from cim_dg.errors import UserError
from cim_dg.wilds.subset import collate

Command = Callable[..., int]
Train = Callable[..., Path]


@pytest.fixture
def fails(command: Command, tmp_path: Path, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Run `wilds train`, which must end with exit code 2 and one sentence; returns the sentence."""

    def run(root: Path, *options: object, dataset: str = "waterbirds", algorithm: str = "ERM") -> str:
        before = set(tmp_path.glob("log/*"))
        fixed = ["--dataset", dataset, "--algorithm", algorithm, "--root_dir", root, "--log_dir", tmp_path / "log"]
        assert command("wilds", "train", *fixed, *QUICK, *options) == 2
        err = capsys.readouterr().err
        assert err.startswith("cim-dg: error: ") and err.count("\n") == 1, err
        assert set(tmp_path.glob("log/*")) - {tmp_path / "log" / ".lock"} == before, "nothing is left behind"
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


def test_an_image_without_a_name(fails: Callable[..., str], tmp_path: Path) -> None:
    small_datasets.waterbirds(tmp_path)
    table = tmp_path / "waterbirds_v1.0" / "metadata.csv"
    table.write_text(table.read_text().replace("images/0003.jpg", ""))
    assert "image nan of waterbirds cannot be read" in fails(tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read(workers: int, fails: Callable[..., str], tmp_path: Path) -> None:
    small_datasets.waterbirds(tmp_path)
    image = tmp_path / "waterbirds_v1.0" / "images" / "0003.jpg"
    image.write_bytes(image.read_bytes()[:40])
    assert "0003.jpg of waterbirds cannot be read" in fails(tmp_path, "--loader_kwargs", f"num_workers={workers}")
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
        (["--max_grad_norm=-1"], "max_grad_norm is -1.0"),
        (["--max_grad_norm", "nan"], "max_grad_norm is nan"),
        (["--seed=-1"], "seed is -1"),
        (["--seed", str(2**32)], "seed is 4294967296"),
        (["--target_resolution", "-5", "3"], "target_resolution[0] is -5"),
        (["--target_resolution", "5", "3", "3"], "target_resolution is [5, 3, 3]"),
        (["--target_resolution", "100000", "100000"], "target_resolution[0] is 100000"),
        (["--transform", "image_resize", "--resize_scale", "-1"], "resize_scale is -1.0"),
        (["--lr", "1e38"], "lr is 1e+38"),
        (["--lr", "inf"], "lr is inf"),
        (["--weight_decay", "nan"], "weight_decay is nan"),
        (["--optimizer_kwargs", "momentum=nan"], "optimizer_kwargs.momentum is nan"),
        (["--optimizer_kwargs", "momentum=x"], "optimizer_kwargs does not fit SGD"),
        (["--scheduler", "StepLR", "--scheduler_kwargs", "step_size=0"], "scheduler_kwargs does not fit StepLR"),
        (["--scheduler", "StepLR", "--scheduler_kwargs", "step_size=1", "gamma=-1"], "give the learning rate -0.01"),
        (["--model_kwargs", "width=4"], "width is 4; accepted is a multiple of 8"),
        (["--model_kwargs", "width=x"], "width is 'x'"),
        (["--model_kwargs", "width=8", "in_channels=5"], "model_kwargs does not fit small-cnn"),
        (["--model", "resnet18", "--model_kwargs", "pretrained=False", "num_classes=x"], "does not fit resnet18"),
        (["--model", "densenet121", "--model_kwargs", "pretrained=False"], "does not take images of 16 x 16"),
        (["--loader_kwargs", "num_workers=-1"], "the loaders cannot be made"),
        (["--log_dir", "x" * 300], "File name too long"),
        (["--defaults", f"{'x' * 300}.yaml"], "File name too long"),
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


def test_a_refused_input_leaves_a_log_dir_as_it_was(
    command: Command, small_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    small_datasets.waterbirds(tmp_path, train=(4, 4, 4, 4))
    image = tmp_path / "waterbirds_v1.0" / "images" / "0003.jpg"
    content = image.read_bytes()
    image.write_bytes(b"")
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "mine.txt").write_text("mine")
    words = ["wilds", "train", "--dataset", "waterbirds", "--algorithm", "ERM", "--root_dir", tmp_path, *QUICK]
    assert command(*words, "--log_dir", tmp_path / "log") == 2
    assert [path.name for path in (tmp_path / "log").iterdir()] == ["mine.txt"]
    image.write_bytes(content)
    assert command(*words, "--log_dir", tmp_path / "log") == 0, "the corrected command"


def test_a_run_with_a_checkpoint_is_kept_when_an_image_breaks(command: Command, train: Train, tmp_path: Path) -> None:
    small_datasets.waterbirds(tmp_path, train=(4, 4, 4, 4))
    words = ["--root_dir", tmp_path, "--n_epochs"]
    log = train("waterbirds", "ERM", *words, 1)
    image = tmp_path / "waterbirds_v1.0" / "images" / "0003.jpg"
    content = image.read_bytes()
    image.write_bytes(b"")
    fixed = ["wilds", "train", "--dataset", "waterbirds", "--algorithm", "ERM", "--log_dir", log, *QUICK, *words]
    assert command(*fixed, 2, "--resume") == 2
    image.write_bytes(content)
    assert command(*fixed, 2, "--resume") == 0


@pytest.mark.parametrize("y", [2, 5])
def test_a_label_that_is_no_class(y: int, fails: Callable[..., str], tmp_path: Path) -> None:
    small_datasets.waterbirds(tmp_path)
    path = tmp_path / "waterbirds_v1.0" / "metadata.csv"
    table = pd.read_csv(path)
    table.loc[3, "y"] = y
    table.to_csv(path, index=False)
    assert f"has the label {y}; accepted are 0 to 1" in fails(tmp_path)


@pytest.mark.parametrize("side", [20_000, 100_000])
def test_an_image_that_is_too_large(side: int, fails: Callable[..., str], tmp_path: Path) -> None:
    small_datasets.waterbirds(tmp_path)
    (tmp_path / "waterbirds_v1.0" / "images" / "0003.jpg").write_bytes(bad_files.png_header(side))
    assert "0003.jpg of waterbirds cannot be read: Image size" in fails(tmp_path)


def test_images_of_different_sizes() -> None:
    item = torch.zeros(3, 16, 16), torch.tensor(0), torch.zeros(2)
    assert [len(part) for part in collate([item, item])] == [2, 2, 2]
    with pytest.raises(UserError, match="different sizes, such as 16 x 16 and 20 x 20; give --target_resolution"):
        collate([item, (torch.zeros(3, 20, 20), *item[1:])])


@pytest.mark.parametrize("content", [b"", b"no weights", "hostile"])
def test_a_file_that_holds_no_weights(
    content: bytes | str, fails: Callable[..., str], small_root: Path, tmp_path: Path
) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(bad_files.hostile() if isinstance(content, str) else content)
    error = fails(small_root, "--model", "resnet18", "--model_kwargs", "--pretrained_model_path", file)
    assert f"{file} does not hold the weights of this model" in error and "weights_only" not in error
    assert not Path(bad_files.EXECUTED).exists()
