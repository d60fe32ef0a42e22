from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_datasets import QUICK

from cim_dg.errors import LEFT
from cim_dg.results import outputs
from cim_dg.runtime import checkpoint, locks
from cim_dg.wilds import training

Train = Callable[..., Path]
METHODS = ["ERM", "GroupDRO", "VIB", "SCL", "CCSA", "DCoDR", "TransformInvariance", "CIM", "CIM_VIB"]
REPOSITORY = Path(__file__).resolve().parents[2]


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def predictions(folder: Path, which: str = "last") -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.glob(f"*_epoch:{which}_pred.csv"))}


@pytest.mark.parametrize("algorithm", METHODS)
def test_every_method_trains_and_leaves_run_expts_files(algorithm: str, train: Train) -> None:
    folder = train("waterbirds", algorithm)
    stem = "waterbirds_split"
    for name in (
        "log.txt",
        "train_eval.csv",
        "val_eval.csv",
        "test_eval.csv",
        "waterbirds_seed:0_epoch:best_model.pth",
    ):
        assert (folder / name).stat().st_size > 0
    assert not list(folder.glob(f"{stem}:train*"))
    lines = (folder / f"{stem}:test_seed:0_epoch:best_pred.csv").read_text().splitlines()
    assert len(lines) == 20 and set(lines) <= {"0", "1"}
    made = record(folder)
    assert made["harness"] == "wilds" and made["algorithm"] == algorithm and made["finished"]
    assert made["selection"] == "average" and made["selected_epoch"] == 0
    # Only the methods that are about groups saw them.
    assert made["used_domains"] is (algorithm in ("GroupDRO", "CCSA", "DCoDR"))
    assert made["results"]["test"]["worst_group"] == float(rows(folder / "test_eval.csv")[0]["acc_wg"])


@pytest.mark.parametrize("dataset", ["celebA", "camelyon17", "iwildcam", "fmow", "rxrx1"])
def test_every_dataset_trains(dataset: str, train: Train) -> None:
    folder = train(dataset, "CIM", "--cim_width", 4)
    results = record(folder)["results"]
    assert ("groups" in results["val"]) and (results["val"]["worst_group"] is None) is (dataset == "iwildcam")
    assert "positives" in rows(folder / "train_algo.csv")[0]


def test_logits_of_the_best_epoch_are_those_of_its_predictions(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train("camelyon17", "ERM", "--n_epochs", 3, log_dir=tmp_path / "kept")
    for split in ("id_val", "val", "test"):
        kept = outputs.read(folder / f"camelyon17_split:{split}_seed:0_epoch:best_logits.npz")
        assert kept is not None and kept.step == record(folder)["selected_epoch"]
        predicted = (folder / f"camelyon17_split:{split}_seed:0_epoch:best_pred.csv").read_text().split()
        assert kept.logits.argmax(axis=1).tolist() == [int(label) for label in predicted]
        accuracy = float(rows(folder / f"{split}_eval.csv")[kept.step]["acc_avg"])
        assert (kept.logits.argmax(axis=1) == kept.y).mean() == pytest.approx(accuracy)
    monkeypatch.setenv("CIM_DG_KEEP_LOGITS", "0")
    assert not list(train("camelyon17", "ERM", log_dir=tmp_path / "off").glob("*.npz"))


def test_group_dro_gives_hospitals_without_training_images_no_weight(train: Train) -> None:
    folder = train("camelyon17", "GroupDRO")
    q = torch.load(folder / "camelyon17_seed:0_epoch:last_model.pth", weights_only=True)["algorithm"]["q"]
    assert (q > 0).tolist() == [True, False, False, True, True]
    assert float(q.sum()) == pytest.approx(1)


def test_class_mates_give_every_anchor_a_positive(train: Train, tmp_path: Path) -> None:
    alone = rows(train("iwildcam", "CIM", "--batch_size", 2, log_dir=tmp_path / "alone") / "train_algo.csv")
    arguments = ["--batch_size", 2, "--images_per_class", 2]
    together = rows(train("iwildcam", "CIM", *arguments, log_dir=tmp_path / "together") / "train_algo.csv")
    assert float(alone[0]["positives"]) < 1.0 == float(together[0]["positives"])


def test_bf16_trains(train: Train) -> None:
    assert record(train("waterbirds", "CIM_VIB", "--bf16"))["config"]["bf16"] is True


def test_the_best_epoch_is_that_of_the_rule(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three epochs whose validation predictions are made up, one best for each rule."""
    chosen = {}
    for rule in ("average", "worst-class", "worst-group"):
        made = iter(
            [
                {(0, 0): 1, (0, 1): 1, (1, 0): 0, (1, 1): 1},  # average .75, classes 1 and .5, worst group 0
                {(0, 0): 1, (0, 1): 0, (1, 0): 0.75, (1, 1): 0.5},  # .5625, classes .5 and .625, worst group 0
                {(0, 0): 0.25, (0, 1): 0.5, (1, 0): 0.5, (1, 1): 0.5},  # worst group .25
            ]
        )
        original = training.Trainer.evaluate

        def evaluate(self: training.Trainer, made: Any = made, original: Any = original) -> dict[str, Any]:
            outcomes, hits = original(self), next(made)
            _, y, metadata = outcomes["val"]
            y_pred = y.clone()
            for (label, place), accuracy in hits.items():
                members = ((metadata[:, 1] == label) & (metadata[:, 0] == place)).nonzero()[:, 0]
                wrong = members[int(accuracy * len(members)) :]
                y_pred[wrong] = 1 - y[wrong]
            return outcomes | {"val": (y_pred, y, metadata)}

        with monkeypatch.context() as patch:
            patch.setattr(training.Trainer, "evaluate", evaluate)
            folder = train("waterbirds", "ERM", "--n_epochs", 3, "--selection", rule, log_dir=None)
        chosen[rule] = record(folder)["selected_epoch"]
        for path in folder.iterdir():
            path.unlink()
    assert chosen == {"average": 0, "worst-class": 0, "worst-group": 2}


def test_group_labels_are_seen_only_when_asked_for(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cim_dg.algorithms import CIM

    seen = []
    original = CIM.forward
    monkeypatch.setattr(CIM, "forward", lambda self, batch: (seen.append(batch.domain), original(self, batch))[1])
    train("waterbirds", "CIM", log_dir=tmp_path / "a")
    assert seen and all(domain is None for domain in seen)
    seen.clear()
    folder = train("waterbirds", "CIM", "--use_domains", log_dir=tmp_path / "b")
    assert all(domain is not None and int(domain.max()) <= 3 for domain in seen)
    assert record(folder)["used_domains"] is True
    assert record(train("waterbirds", "ERM", "--uniform_over_groups", log_dir=tmp_path / "c"))["used_domains"] is True


@pytest.mark.parametrize("algorithm", ["GroupDRO", "CIM_VIB"])
def test_evaluating_twice_changes_nothing(
    algorithm: str, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the weights nor step-dependent state (group weights, warm-ups, queues), nor what is drawn after it."""
    state = ["--cim_queue", 16, "--vib_warmup", 9] if algorithm == "CIM_VIB" else []
    options = ["--n_epochs", 2, *state]
    once = train("waterbirds", algorithm, *options, log_dir=tmp_path / "once")
    original = training.Trainer.evaluate
    monkeypatch.setattr(training.Trainer, "evaluate", lambda self: (original(self), original(self))[1])
    twice = train("waterbirds", algorithm, *options, log_dir=tmp_path / "twice")
    name = "waterbirds_seed:0_epoch:last_model.pth"
    a, b = (torch.load(folder / name, weights_only=True)["algorithm"] for folder in (once, twice))
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.slow
def test_a_killed_run_ends_as_one_that_was_not(train: Train, small_root: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of the second of three epochs, then --resume."""
    schedule = ["--scheduler", "cosine_schedule_with_warmup", "--scheduler_kwargs", "num_warmup_steps=3"]
    options = ["--n_epochs", "3", *schedule, "--cim_queue", "16", "--vib_warmup", "15"]
    whole = train("waterbirds", "CIM_VIB", *options, log_dir=tmp_path / "whole")
    killed = tmp_path / "killed"
    program = f"""
        import os, signal, sys
        from pathlib import Path
        sys.path[:0] = [{str(REPOSITORY)!r}, {str(REPOSITORY / "tests" / "helpers")!r}]
        import small_datasets, torch
        from cim_dg import cli
        from cim_dg.algorithms import CIM_VIB
        torch.set_num_threads(1)
        cli.COMMANDS = {{"wilds": 'cim_dg.wilds.cli'}}
        steps, original = [], CIM_VIB.after_step
        def after_step(self):
            original(self)
            steps.append(1)
            if len(steps) == 9:
                os.kill(os.getpid(), signal.SIGKILL)
        CIM_VIB.after_step = after_step
        sys.exit(cli.main(["wilds", "train", "--dataset", "waterbirds", "--algorithm", "CIM_VIB", "--root_dir",
            {str(small_root)!r}, "--log_dir", {str(killed)!r}, *small_datasets.QUICK, *{options!r}]))
    """
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert record(killed)["epochs"] == 1
    train("waterbirds", "CIM_VIB", *options, "--resume", log_dir=killed)
    assert predictions(killed) == predictions(whole) and predictions(killed)
    assert predictions(killed, "best") == predictions(whole, "best")
    assert rows(killed / "val_eval.csv") == rows(whole / "val_eval.csv")
    assert rows(killed / "train_algo.csv") == rows(whole / "train_algo.csv")


class Stopped(BaseException):
    """Like SIGKILL, nobody handles it."""


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("VIB", ["--scheduler", "cosine_schedule_with_warmup", "--scheduler_kwargs", "num_warmup_steps=2"]),
        ("CIM", ["--images_per_class", "2"]),
        ("GroupDRO", []),
        ("CCSA", ["--train_loader", "group", "--n_groups_per_batch", "2"]),
        ("ERM", ["--transform", "imagenet"]),
        pytest.param("ERM", ["--transform", "imagenet", "--loader_kwargs", "num_workers=2"], marks=pytest.mark.slow),
        ("VIB", ["--loader_kwargs", "num_workers=2"]),
    ],
)
def test_a_run_stopped_within_an_epoch_ends_as_one_in_peace(
    algorithm: str, options: list[str], train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--n_epochs", "2", "--log_every", "3", *options]
    whole = train("waterbirds", algorithm, *options, log_dir=tmp_path / "whole")
    monkeypatch.setenv("CIM_DG_CHECKPOINT_SECONDS", "0")
    monkeypatch.setattr(checkpoint.Interval, "is_due", lambda self: True)
    stopped = tmp_path / "stopped"
    save = training.Trainer._save_partial
    saved = 0

    def save_and_stop(self: training.Trainer, *args: Any) -> None:
        nonlocal saved
        save(self, *args)
        saved += 1
        if saved in (2, 7):  # in the first epoch, and in the second
            raise Stopped

    monkeypatch.setattr(training.Trainer, "_save_partial", save_and_stop)
    for attempt in range(2):
        with pytest.raises(Stopped):
            train("waterbirds", algorithm, *options, *(["--resume"] if attempt else []), log_dir=stopped)
        torch.rand(3)
    train("waterbirds", algorithm, *options, "--resume", log_dir=stopped)
    assert "after batch 2" in (stopped / "log.txt").read_text()
    assert predictions(stopped) == predictions(whole) and predictions(stopped)
    for name in ("train_eval.csv", "val_eval.csv", "test_eval.csv", "train_algo.csv"):
        assert rows(stopped / name) == rows(whole / name)
    assert not list(stopped.glob("*_checkpoint.pt"))


def test_a_run_that_pauses_at_a_rung_ends_as_one_in_peace(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a search by halving has it: two of three epochs, and then the third."""
    options = ["--n_epochs", "3", "--scheduler", "cosine_schedule_with_warmup", "--skip_model_save"]
    whole, paused = (tmp_path / name for name in ("whole", "paused"))
    train("waterbirds", "CIM", *options, log_dir=whole)
    monkeypatch.setenv("CIM_DG_RUNG", "2")
    for attempt in range(2):  # the second time it was killed before it could mark the rung
        train("waterbirds", "CIM", *options, *(["--resume"] if attempt else []), log_dir=paused)
        assert record(paused)["epochs"] == 2 and not record(paused)["finished"]
        (paused / "rung-2").unlink()
    monkeypatch.delenv("CIM_DG_RUNG")
    train("waterbirds", "CIM", *options, "--resume", log_dir=paused)
    assert record(paused)["finished"] and record(paused)["selected_epoch"] == record(whole)["selected_epoch"]
    assert predictions(paused) == predictions(whole) and predictions(paused)
    for name in ("train_eval.csv", "val_eval.csv", "test_eval.csv", "train_algo.csv"):
        assert rows(paused / name) == rows(whole / name)


def test_a_run_keeps_its_threads_and_leaves_no_partial_files(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    train("waterbirds", "ERM", log_dir=tmp_path / "a")
    left = tmp_path / "a" / ".waterbirds_seed:0_epoch:last_model.pth.a1b2c3d4"
    left.touch()
    torch.set_num_threads(before + 1)
    try:
        train("waterbirds", "ERM", "--n_epochs", 2, "--resume", log_dir=tmp_path / "a")
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(before)
    assert record(tmp_path / "a")["threads"] == before
    log = (tmp_path / "a" / "log.txt").read_text()
    assert f"warning: this job began with {before} threads and keeps them, in place of {before + 1}" in log
    assert not left.exists()


def test_models_of_a_finished_run_can_be_left_out(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert not list(train("waterbirds", "ERM", "--skip_model_save", log_dir=tmp_path / "a").glob("*.pth"))
    monkeypatch.setenv("CIM_DG_SKIP_MODEL_SAVE", "1")
    assert not list(train("waterbirds", "ERM", log_dir=tmp_path / "b").glob("*.pth"))


def test_a_run_that_another_process_has_is_left_to_it(
    train: Train, command: Callable[..., int], small_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0)
    (tmp_path / "run").mkdir()
    words = ["wilds", "train", "--dataset", "waterbirds", "--algorithm", "ERM", "--root_dir", small_root]
    with locks.claim(tmp_path / "run"):  # type: ignore[union-attr]
        assert command(*words, "--log_dir", tmp_path / "run", *QUICK) == LEFT
    assert command(*words, "--log_dir", tmp_path / "run", *QUICK) == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_required_gpu_that_is_not_there_is_an_error(
    command: Callable[..., int], small_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["wilds", "train", "--dataset", "waterbirds", "--algorithm", "ERM", "--root_dir", small_root]
    assert command(*words, "--log_dir", tmp_path / "run", *QUICK, "--require_gpu") == 2
    assert "a GPU is required (CIM_DG_REQUIRE_GPU, --require_gpu) and cannot be used: " in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_another_run_is_neither_overwritten_nor_resumed(
    train: Train, command: Callable[..., int], small_root: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = train("waterbirds", "ERM")
    arguments = ["wilds", "train", "--dataset", "waterbirds", "--root_dir", small_root, "--log_dir", folder]
    assert command(*arguments, "--algorithm", "ERM") == 2
    assert "holds a run already" in capsys.readouterr().err
    assert command(*arguments, "--algorithm", "ERM", "--resume", "--model", "small-cnn") == 2
    # Apart from the warning about WILDS' own defaults for Waterbirds.
    (error,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert "is to go on with" in error


def test_a_loss_that_is_not_finite_stops_the_run(
    train: Train, command: Callable[..., int], small_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["wilds", "train", "--dataset", "waterbirds", "--algorithm", "ERM", "--root_dir", small_root]
    assert command(*arguments, "--log_dir", tmp_path / "run", *QUICK, "--optimizer", "SGD", "--lr", "1e30") == 1
    error = capsys.readouterr().err
    assert "ERM stopped at epoch 0" in error and error.count("\n") == 1
