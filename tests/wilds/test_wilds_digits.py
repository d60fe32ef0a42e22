from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import wilds

from cim_dg.data import digits as shared
from cim_dg.results import build
from cim_dg.wilds import digits

FULL = dict(digits.SIZES)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small dataset: a full one takes seconds."""
    sizes = {"train": (60, 3, 2, 8), "val": (4, 4, 4, 4), "test": (5, 5, 5, 5)}
    monkeypatch.setattr(digits, "SIZES", sizes)


def test_the_package_reads_them_as_waterbirds(tmp_path: Path) -> None:
    digits.write_digits(tmp_path)
    dataset = wilds.get_dataset("waterbirds", root_dir=str(tmp_path))
    for split, sizes in digits.SIZES.items():
        subset = dataset.get_subset(split)
        actual = Counter((int(y), int(place)) for place, y, _ in subset.metadata_array)
        assert [actual[divmod(group, 2)] for group in range(4)] == list(sizes)
        image, y, metadata = subset[0]
        assert image.mode == "RGB" and y == metadata[1]


def test_training_groups_are_as_skewed_as_those_of_waterbirds() -> None:
    train = np.array(FULL["train"])
    assert np.abs(train / train.sum() - np.array([3498, 184, 56, 1057]) / 4795).max() < 0.002
    assert len(set(FULL["val"])) == len(set(FULL["test"])) == 1


def test_no_digit_is_in_two_splits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of 80 digits, so that training takes some twice; told apart by images that are all of one value, their own."""
    marks = np.arange(80, dtype=np.float32) / 80
    images, labels = np.ones((80, 8, 8), np.float32) * marks[:, None, None], shared.load_digits()[1][:80]
    monkeypatch.setattr(shared, "load_digits", lambda: (images, labels))
    drawn = []
    enlarge = shared.enlarge
    monkeypatch.setattr(shared, "enlarge", lambda d, *a: (drawn.append(d[:, 0, 0]), enlarge(d, *a))[1])
    digits.write_digits(tmp_path)
    splits = wilds.get_dataset("waterbirds", root_dir=str(tmp_path)).split_array
    train, val, test = (set(drawn[0][splits == split].tolist()) for split in range(3))
    assert not train & val and not train & test and not val & test
    assert len(train) < 73 and len(val) == 8 and len(test) == 10


def test_the_same_seed_gives_the_same_images(tmp_path: Path) -> None:
    folders = [digits.write_digits(tmp_path / name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    first, again, other = ((folder / "images" / "0000.jpg").read_bytes() for folder in folders)
    assert first == again != other


def test_methods_of_other_papers_train_on_them(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture
) -> None:
    digits.write_digits(tmp_path / "data")
    methods = ["CCSA", "DCoDR", "TransformInvariance", "ERM"]
    for method in methods:
        arguments = [
            "--dataset",
            "waterbirds",
            "--defaults",
            "digits",
            "--root_dir",
            tmp_path / "data",
            "--n_epochs",
            1,
        ]
        arguments += ["--algorithm", method, "--log_dir", tmp_path / "logs" / method, "--average_copies", 2]
        assert command("wilds", "train", *arguments) == 0
        made = json.loads((tmp_path / "logs" / method / "run.json").read_text())
        assert made["hparams"]["average_copies"] == 2
        assert made["used_domains"] is (method in ("CCSA", "DCoDR"))
    (table,) = build.report([tmp_path / "logs"], rules=["average"]).tables
    labels = {row.method: row.group_labels for row in table.rows}
    assert labels == {
        "ERM": "no",
        "CCSA": "yes (training)",
        "DCoDR": "yes (training)",
        "TransformInvariance": "no",
    }


@pytest.mark.parametrize("seed", ["-1", "x", str(2**32)])
def test_a_seed_that_numpy_does_not_take_is_refused(tmp_path: Path, command: Callable[..., int], seed: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        command("wilds", "digits", "--root_dir", tmp_path, f"--seed={seed}")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture
) -> None:
    assert command("wilds", "digits", "--root_dir", tmp_path) == 0
    assert "--defaults digits" in capsys.readouterr().out
    assert command("wilds", "digits", "--root_dir", tmp_path) == 2
    assert "exists already" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == [digits.FOLDER]
