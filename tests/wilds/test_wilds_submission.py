from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., int]
SIZES = {"id_val": 20, "val": 12, "test": 12}  # of the small camelyon17, by its package


def write_logs(root: Path, seeds: int = 10, dataset: str = "camelyon17") -> list[Path]:
    """Log folders of seeds as a run leaves them, last epochs included."""
    folders = []
    for seed in range(seeds):
        folder = root / f"seed-{seed}"
        folder.mkdir(parents=True)
        for split, size in SIZES.items():
            for which in ("best", "last"):
                labels = [str((seed + i + (which == "last")) % 2) for i in range(size)]
                name = f"{dataset}_split:{split}_seed:{seed}_epoch:{which}_pred.csv"
                (folder / name).write_text("\n".join(labels) + "\n")
        (folder / "log.txt").write_text("")
        folders.append(folder)
    return folders


@pytest.fixture
def built(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> Path:
    output = tmp_path / "submission"
    assert command("submission", "build", *write_logs(tmp_path / "logs"), "--output", output) == 0
    return output


def test_a_complete_one_is_built_of_the_best_epochs_and_accepted(
    built: Path, command: Command, capsys: pytest.CaptureFixture
) -> None:
    assert len(list(built.iterdir())) == 30
    file = built / "camelyon17_split:test_seed:3_epoch:best_pred.csv"
    assert file.read_text().splitlines() == [str((3 + i) % 2) for i in range(12)]
    assert command("submission", "validate", built) == 0
    out = capsys.readouterr().out
    assert "is complete" in out and "compared among the files only" in out


def test_line_counts_are_those_of_the_dataset_where_it_is_on_disk(
    built: Path, command: Command, small_root: Path, capsys: pytest.CaptureFixture
) -> None:
    assert command("submission", "validate", built, "--root_dir", small_root) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 10 and all("id_val" in line and "has 20 lines" in line and "12 images" in line for line in err)


def test_all_findings_are_printed_a_sentence_each(built: Path, command: Command, capsys: pytest.CaptureFixture) -> None:
    def file(split: str, seed: int, epoch: str = "best") -> Path:
        return built / f"camelyon17_split:{split}_seed:{seed}_epoch:{epoch}_pred.csv"

    file("val", 4).unlink()
    file("test", 0, "last").write_text(file("test", 0).read_text())
    file("test", 1).write_text("0\n" * 11)
    file("test", 2).write_text("0\n" * 11 + "2\n")
    file("test", 3).write_text("0\n" * 11 + "nan\n")
    file("test", 5).write_text("-1\n" + "0\n" * 11)
    file("test", 10).write_text("0\n" * 12)
    file("train", 0).write_text("0\n")
    (built / "notes.txt").write_text("")
    capsys.readouterr()
    assert command("submission", "validate", built) == 2
    lines = capsys.readouterr().err.splitlines()
    expected = [
        "notes.txt is not named",
        "split val has no predictions of seed 4",
        "split test and seed 0 have more than one file",
        "seed:10_epoch:best_pred.csv is of a seed that is not wanted",
        "train_seed:0_epoch:best_pred.csv is of a split that is not wanted",
        "differ in their numbers of lines: 11 in camelyon17_split:test_seed:1",
        "seed:2_epoch:best_pred.csv line 12 is '2'",
        "seed:3_epoch:best_pred.csv line 12 is 'nan'",
        "seed:5_epoch:best_pred.csv line 1 is '-1'",
    ]
    for sentence in expected:
        assert sum(sentence in line for line in lines) == 1, sentence
    assert len(lines) == len(expected)
    assert all(line.startswith("cim-dg: error: ") for line in lines)


@pytest.mark.parametrize("label", ["0\u2028", "0\x0b1", "0\x1c", "\u0661", "1" * 5000, "0 1", ""])
def test_a_line_that_is_no_plain_number_is_refused(
    built: Path, command: Command, capsys: pytest.CaptureFixture, label: str
) -> None:
    file = built / "camelyon17_split:test_seed:0_epoch:best_pred.csv"
    file.write_text("0\n" * 11 + label + "\n", encoding="utf-8")
    capsys.readouterr()
    assert command("submission", "validate", built) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"seed:0_epoch:best_pred.csv line 12 is {label[:40]!r}; accepted is a whole number from 0 to 1" in line


@pytest.mark.parametrize("kind", ["folder", "dangling link"])
def test_what_is_no_file_is_refused(
    built: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture, kind: str
) -> None:
    log = tmp_path / "logs" / "seed-0"
    for folder in (built, log):
        file = folder / "camelyon17_split:test_seed:0_epoch:best_pred.csv"
        file.unlink()
        file.mkdir() if kind == "folder" else file.symlink_to("nowhere")
    capsys.readouterr()
    assert command("submission", "validate", built) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("camelyon17_split:test_seed:0_epoch:best_pred.csv is not a file")
    assert command("submission", "build", log, "--output", tmp_path / "again") == 2
    assert capsys.readouterr().err.endswith("camelyon17_split:test_seed:0_epoch:best_pred.csv is not a file\n")
    assert not (tmp_path / "again").exists()


def test_a_place_where_nothing_can_be_written_is_refused(
    built: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").touch()
    capsys.readouterr()
    assert command("submission", "build", tmp_path / "logs" / "seed-0", "--output", tmp_path / "file" / "in") == 2
    assert "cannot be written" in capsys.readouterr().err


def test_what_is_missing_is_said_when_building(tmp_path: Path, command: Command, capsys: pytest.CaptureFixture) -> None:
    assert command("submission", "build", *write_logs(tmp_path / "logs", seeds=3), "--output", tmp_path / "s") == 0
    assert "split val has no predictions of seed 3, 4, 5, 6, 7, 8, 9" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("dataset", "reason"),
    [("waterbirds", "not on the WILDS leaderboard"), ("amazon", "not an image"), ("mnist", "not a dataset of WILDS")],
)
def test_datasets_without_a_leaderboard_are_refused(
    dataset: str, reason: str, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture
) -> None:
    logs = write_logs(tmp_path / "logs", seeds=1, dataset=dataset)
    assert command("submission", "build", *logs, "--output", tmp_path / "s") == 2
    assert command("submission", "validate", logs[0]) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 2 and all(reason in line for line in err)
    assert not (tmp_path / "s").exists()


def test_bad_log_folders(tmp_path: Path, command: Command, capsys: pytest.CaptureFixture) -> None:
    logs = write_logs(tmp_path / "logs", seeds=2)
    other = write_logs(tmp_path / "other", seeds=1, dataset="fmow")
    (tmp_path / "empty").mkdir()
    cases = {
        (tmp_path / "absent",): "is not a folder",
        (tmp_path / "empty",): "no predictions of a best epoch",
        (logs[0], logs[0]): "seed 0 of split",
        (logs[0], other[0]): "is of fmow",
    }
    for folders, reason in cases.items():
        assert command("submission", "build", *folders, "--output", tmp_path / "s") == 2
        err = capsys.readouterr().err
        assert reason in err and err.count("\n") == 1
    assert command("submission", "build", *logs, "--output", tmp_path / "logs") == 2
    assert command("submission", "validate", tmp_path / "empty") == 2
    assert "no prediction files" in capsys.readouterr().err
