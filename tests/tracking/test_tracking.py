"""Curves arrive in TensorBoard and Weights & Biases whole, once, and without a hand in training."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from worker_jobs import until

from cim_dg import cli
from cim_dg.errors import UserError
from cim_dg.tracking import writers
from cim_dg.tracking.command import TARGETS
from cim_dg.tracking.curves import Curves
from cim_dg.tracking.sidecar import track

NAME = "VLCS-CIM-env0+2-trial1-hparams4"


def add_checkpoint(folder: Path, step: int, **values: float) -> None:
    """Add a checkpoint to the results of a job of DomainBed, as its `train` does."""
    folder.mkdir(parents=True, exist_ok=True)
    args = {"algorithm": "CIM", "dataset": "VLCS", "test_envs": [0, 2], "trial_seed": 1, "hparams_seed": 4}
    with open(folder / "results.jsonl", "a") as file:
        file.write(json.dumps({"step": step, "hparams": {"lr": 0.1}, "args": args, **values}) + "\n")


def curve(folder: Path, tag: str, name: str = NAME) -> list[tuple[int, float]]:
    """What TensorBoard shows."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    if not (folder / "tensorboard" / name).is_dir():
        return []
    events = accumulator.EventAccumulator(str(folder / "tensorboard" / name)).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)] if tag in events.Tags()["scalars"] else []


def test_log_of_finished_runs(tmp_path, capsys):
    pytest.importorskip("tensorboard")
    job = tmp_path / "sweep" / "job"
    add_checkpoint(job, 0, loss=2.0, env0_in_acc=0.25)
    add_checkpoint(job, 300, loss=1.5, env0_in_acc=0.5)
    (job / "done").touch()
    for _ in range(2):  # done twice, the curves are there once
        assert cli.main(["log", str(tmp_path / "sweep"), "--to", "tensorboard"]) == 0
        assert curve(job, "train/loss") == [(0, 2.0), (300, 1.5)]
    assert curve(job, "env0_in/acc") == [(0, 0.25), (300, 0.5)]
    assert f"tensorboard --logdir {tmp_path / 'sweep'}" in capsys.readouterr().out


def test_log_of_wilds(tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "run.json").write_text('{"dataset": "camelyon17", "algorithm": "CIM", "seed": 2, "finished": true}')
    (tmp_path / "val_eval.csv").write_text("epoch,acc_avg\n0,0.5\n1,0.75\n")
    Curves([tmp_path], ["tensorboard"]).update()
    assert curve(tmp_path, "val/average", "camelyon17-CIM-seed2") == [(0, 0.5), (1, 0.75)]


def test_what_comes_is_added_and_what_starts_anew_is_replaced(tmp_path):
    pytest.importorskip("tensorboard")
    curves = Curves([tmp_path], ["tensorboard"])
    with pytest.raises(UserError):
        curves.update()
    for step in (0, 300):
        add_checkpoint(tmp_path, step, loss=step / 100)
        curves.update()
    (tmp_path / "results.jsonl").unlink()
    add_checkpoint(tmp_path, 0, loss=7.0)
    curves.update()
    (tmp_path / "done").touch()
    curves.update()
    assert curve(tmp_path, "train/loss") == [(0, 7.0)]
    add_checkpoint(tmp_path, 300, loss=5.0)
    curves.update()
    assert curve(tmp_path, "train/loss") == [(0, 7.0), (300, 5.0)]


def test_weights_and_biases_stays_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    add_checkpoint(tmp_path, 0, loss=2.0)
    (tmp_path / "done").touch()
    for _ in range(2):
        Curves([tmp_path], ["wandb"]).update()
    (file,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 30  # the service of Weights & Biases writes in its own time
    while b"train/loss" not in (content := file.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert NAME.encode() in content and b"train/loss" in content
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(UserError, match="WANDB_MODE is 'onlin'; accepted are offline, online"):
        Curves([tmp_path], ["wandb"])


def test_every_target_can_be_asked_for():
    assert set(TARGETS) == set(writers.WRITERS)


def test_what_is_missing_is_said_in_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(writers, "find_spec", lambda name: None)
    add_checkpoint(tmp_path, 0, loss=2.0)
    assert cli.main(["log", str(tmp_path), "--to", "wandb"]) == 2
    assert "wandb, which is not installed: pip install 'cim-dg[wandb]'" in capsys.readouterr().err
    monkeypatch.setenv("CIM_DG_LOG", "visdom")
    with pytest.raises(UserError, match="'visdom'; accepted are tensorboard and wandb"), track(tmp_path):
        pass


def test_beside_a_run_that_ends_and_one_that_is_killed(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("CIM_DG_LOG", "tensorboard")
    code = (
        f"import sys; sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}\n"
        "import os, signal, test_tracking as t; from pathlib import Path\n"
        "with t.track(folder := Path(sys.argv[1])):\n"
        "    t.add_checkpoint(folder, 0, loss=2.0)\n"
        "    if sys.argv[2] == 'killed': os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for end in ("ends", "killed"):
        run = subprocess.run([sys.executable, "-c", code, tmp_path / end, end], stdin=subprocess.DEVNULL, check=False)
        assert run.returncode == (0 if end == "ends" else -signal.SIGKILL)
    assert curve(tmp_path / "ends", "train/loss") == [(0, 2.0)]
    until(lambda: curve(tmp_path / "killed", "train/loss") == [(0, 2.0)])


@pytest.mark.slow
def test_beside_a_training_of_the_standin_nothing_else_changes(tmp_path):
    pytest.importorskip("tensorboard")
    results = []
    for target in ("", "tensorboard"):
        train(tmp_path / f"job{target}", {"CIM_DG_LOG": target}, cwd=tmp_path)
        lines = (tmp_path / f"job{target}" / "results.jsonl").read_text().splitlines()
        results.append([json.loads(line)["loss"] for line in lines])
    assert results[0] == results[1]
    shown = curve(tmp_path / "jobtensorboard", "train/loss", "NuisanceDigits-ERM-env0-trial0-hparams0")
    assert [value for _, value in shown] == pytest.approx(results[1])


@pytest.mark.slow
@pytest.mark.harness
def test_beside_a_training_of_the_real_domainbed(domainbed_root, tmp_path):
    pytest.importorskip("tensorboard")
    train(tmp_path, {"CIM_DG_LOG": "tensorboard"}, cwd=domainbed_root)
    steps = [step for step, _ in curve(tmp_path, "train/loss", "NuisanceDigits-ERM-env0-trial0-hparams0")]
    assert steps == [0, 2, 3]


def train(folder: Path, variables: dict[str, str], cwd: Path) -> None:
    flags = (
        f"--algorithm ERM --dataset NuisanceDigits --data_dir none --steps 4 --checkpoint_freq 2 --output_dir {folder}"
    )
    command = [sys.executable, "-m", "domainbed.scripts.train", *flags.split(), "--skip_model_save", "--hparams"]
    environment = os.environ | variables | {"PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(
        [*command, '{"batch_size": 8, "nuisance_digits": 50}'],
        cwd=cwd,
        env=environment,
        check=True,
        capture_output=True,
    )
