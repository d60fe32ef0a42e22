"""A run that is stopped anywhere and started again ends with the results of one that was left in peace."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from domainbed import algorithms, hparams_registry
from domainbed.lib import resume
from domainbed.scripts import train
from standin_samples import results_of

from cim_dg.errors import LEFT
from cim_dg.runtime import locks


class Killed(BaseException):
    """Like SIGKILL, nobody handles it."""


RUNS = {
    "plain": (
        "--dataset Debug28 --algorithm ERM --steps 11 --checkpoint_freq 4 --seed 3",
        {"batch_size": 4},
    ),
    "queue": (
        "--dataset NuisanceDigits --algorithm CIM --steps 7 --checkpoint_freq 3",
        {"batch_size": 8, "nuisance_digits": 20, "cim_queue": 40, "cim_anchors": 8},
    ),
    "balanced, adapting": (
        "--dataset Debug28 --algorithm GroupDRO --test_envs 1 --steps 7 --checkpoint_freq 3 "
        "--task domain_adaptation --uda_holdout_fraction 0.5",
        {"batch_size": 3, "class_balanced": True},
    ),
    "noise": (
        "--dataset Debug28 --algorithm CIM_VIB --steps 4 --checkpoint_freq 2 --test_envs 0 1",
        {"batch_size": 4},
    ),
}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIM_DG_CHECKPOINT_SECONDS", "0")
    monkeypatch.setattr(resume, "SHARE", 0)


def flags(name: str, folder: str) -> list[str]:
    words, hparams = RUNS[name]
    return [*words.split(), "--hparams", json.dumps(hparams), "--output_dir", folder, "--skip_model_save"]


@functools.cache
def undisturbed(name: str) -> list[dict[str, Any]]:
    """The results of a run that nobody kills; they depend on its flags alone."""
    assert train.main(flags(name, "left")) == 0
    return results_of(Path("left"))


def kill_at(monkeypatch: pytest.MonkeyPatch, where: Callable[[int], bool], saved: bool) -> Callable[[], None]:
    """Runs end after the steps (from 1 on) of which `where` says so, once their checkpoint is written or before."""
    after_step = resume.Resume.after_step

    def dying(self: Any, steps: int, since_record: Any) -> None:
        if saved or not where(steps):
            after_step(self, steps, since_record)
        if where(steps):
            raise Killed

    monkeypatch.setattr(resume.Resume, "after_step", dying)
    return lambda: monkeypatch.setattr(resume.Resume, "after_step", after_step)


@pytest.mark.parametrize("name", RUNS)
def test_killed_after_any_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    left = undisturbed(name)
    live = kill_at(monkeypatch, lambda steps: True, saved=True)
    steps = left[-1]["step"]
    for _ in range(steps):  # each takes one step and is killed
        with pytest.raises(Killed):
            train.main(flags(name, "killed"))
    assert train.main(flags(name, "killed")) == 0  # there is nothing to write after the last step
    live()
    assert results_of(Path("killed")) == left
    assert not Path("killed", resume.NAME).exists()


def test_killed_between_a_record_and_its_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is there, and the checkpoint is of a step before it: the record is made again, not doubled."""
    left = undisturbed("plain")
    live = kill_at(monkeypatch, lambda steps: steps == 5, saved=False)
    with pytest.raises(Killed):
        train.main(flags("plain", "killed"))
    live()
    results = Path("killed", "results.jsonl")
    assert [record["step"] for record in results_of(Path("killed"))] == [0, 4]
    with results.open("a") as file:
        file.write('{"step": 8, "cut sho')
    assert train.main(flags("plain", "killed")) == 0
    assert "Going on after step 3" in Path("killed", "out.txt").read_text()
    assert results_of(Path("killed")) == left


def test_a_job_that_pauses_at_rungs_ends_as_one_in_peace(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a search by halving has it: of 11 steps, to the checkpoints 4 (a third) and 8 (a half), then to the end."""
    monkeypatch.setenv("CIM_DG_CHECKPOINT_SECONDS", "3600")  # only pauses write checkpoints
    left = undisturbed("plain")
    folder = Path("paused")
    for divisor, steps in ((3, [0, 4]), (2, [0, 4, 8])):
        monkeypatch.setenv("CIM_DG_RUNG", str(divisor))
        for _ in range(2):  # the second time it was killed before it could mark the rung
            assert train.main(flags("plain", "paused")) == 0
            assert [record["step"] for record in results_of(folder)] == steps
            assert (folder / f"rung-{divisor}").exists() and not (folder / "done").exists()
            (folder / f"rung-{divisor}").unlink()
        (folder / f"rung-{divisor}").touch()
        assert "starts from the beginning" not in (folder / "err.txt").read_text()
    monkeypatch.delenv("CIM_DG_RUNG")
    assert train.main(flags("plain", "paused")) == 0
    assert results_of(folder) == left and (folder / "done").exists() and not (folder / resume.NAME).exists()


def test_a_job_that_starts_over_has_been_at_no_rung(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIM_DG_RUNG", "3")
    assert train.main(flags("plain", "paused")) == 0
    Path("paused", resume.NAME).write_bytes(b"damaged")
    monkeypatch.setenv("CIM_DG_RUNG", "2")
    live = kill_at(monkeypatch, lambda steps: steps == 2, saved=False)
    with pytest.raises(Killed):
        train.main(flags("plain", "paused"))
    live()
    assert not list(Path("paused").glob("rung-*"))


def _killed(monkeypatch: pytest.MonkeyPatch) -> Path:
    live = kill_at(monkeypatch, lambda steps: steps == 6, saved=True)
    with pytest.raises(Killed):
        train.main(flags("plain", "killed"))
    live()
    return Path("killed", resume.NAME)


def test_a_job_keeps_the_number_of_threads_that_it_began_with(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        _killed(monkeypatch)
        torch.set_num_threads(before)
        assert train.main(flags("plain", "killed")) == 0
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    warning = f"warning: this job began with {before + 1} threads and keeps them, in place of {before}\n"
    assert warning in capsys.readouterr().err and warning in Path("killed", "err.txt").read_text()
    assert json.loads(Path("killed", "provenance.json").read_text())["threads"] == before + 1


@pytest.mark.parametrize("name", ["checkpoint.pt", "results.jsonl"])
def test_what_killed_writes_left_is_removed(name: str) -> None:
    Path("job").mkdir()
    left = Path("job", f".{name}.a1b2c3d4")
    left.touch()
    assert train.main(flags("plain", "job")) == 0
    assert not left.exists()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-1000]), "cannot be resumed from"),
        (lambda file: file.write_bytes(b""), "cannot be resumed from"),
        (lambda file: torch.save({"steps": 3}, file), "is no checkpoint of a job"),
        (lambda file: (file.parent / "results.jsonl").write_text(""), "is of a longer results.jsonl than there is"),
    ],
)
def test_a_checkpoint_that_cannot_be_used(
    spoil: Callable[[Path], object], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left = undisturbed("plain")
    spoil(_killed(monkeypatch))
    capsys.readouterr()
    assert train.main(flags("plain", "killed")) == 0
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert said in warning
    assert warning.endswith("; the job starts from the beginning")
    assert results_of(Path("killed")) == left


def test_a_checkpoint_executes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = _killed(monkeypatch)

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (Path("executed"),))

    torch.save({"identity": Evil()}, checkpoint)
    assert train.main(flags("plain", "killed")) == 0
    assert not Path("executed").exists()


def test_another_job_in_the_folder_keeps_its_records(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _killed(monkeypatch)
    assert train.main([*flags("plain", "killed"), "--trial_seed", "1"]) == 0
    assert "is of a job whose trial_seed is 0, not 1; the job starts from the beginning" in capsys.readouterr().err
    assert [(record["args"]["trial_seed"], record["step"]) for record in results_of(Path("killed"))] == [
        (0, 0), (0, 4), (1, 0), (1, 4), (1, 8), (1, 10),
    ]  # fmt: skip


def test_a_changed_default_is_no_continuation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _killed(monkeypatch)
    default = hparams_registry.default_hparams
    monkeypatch.setattr(hparams_registry, "default_hparams", lambda *names: {**default(*names), "weight_decay": 0.1})
    assert train.main(flags("plain", "killed")) == 0
    assert "whose weight_decay is 0.0, not 0.1; the job starts from the beginning" in capsys.readouterr().err
    assert len(results_of(Path("killed"))) == 4


def test_a_job_that_is_done_is_not_run_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(flags("plain", "job")) == 0
    before = {path: path.stat().st_mtime_ns for path in Path("job").iterdir() if path.name.endswith((".jsonl", "done"))}
    capsys.readouterr()
    assert train.main(flags("plain", "job")) == 0
    assert "job: this job is done; to run it again, remove its folder" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert train.main([*flags("plain", "job"), "--steps", "2"]) == 0
    assert len(results_of(Path("job"))) == 4 + 2


def test_a_job_that_another_process_runs_is_left_to_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0)
    Path("job").mkdir()
    claimed = locks.claim("job")
    assert claimed is not None
    with claimed:
        assert train.main(flags("plain", "job")) == LEFT
        assert "job: another process is running this job" in capsys.readouterr().err
        assert {path.name for path in Path("job").iterdir()} == {locks.NAME}
    assert train.main(flags("plain", "job")) == 0


class _Stateful(algorithms.Algorithm):
    """Keeps its state where nothing but its own attributes has it."""

    def __init__(self, *shape_and_hparams: Any) -> None:
        super().__init__(*shape_and_hparams)
        self.network = torch.nn.Linear(3 * 28 * 28, 2)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.01, momentum=0.9)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=2, gamma=0.5)
        self.average = torch.zeros(2)
        self.history: list[tuple[int, float]] = []

    def update(self, minibatches: Any, unlabeled: Any = None) -> dict[str, float]:
        x, y = (torch.cat(parts) for parts in zip(*minibatches, strict=True))
        loss = torch.nn.functional.cross_entropy(self.predict(x), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.average = 0.9 * self.average + 0.1 * torch.rand(2)
        self.history.append((len(self.history), loss.item()))
        return {
            "loss": loss.item(),
            "average": self.average.sum().item(),
            "sum": sum(value for _, value in self.history),
        }

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x.flatten(1))


def test_an_algorithm_of_somebody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algorithms, "ERM", _Stateful)
    assert train.main(flags("plain", "left")) == 0
    _killed(monkeypatch)
    assert train.main(flags("plain", "killed")) == 0
    assert results_of(Path("killed")) == results_of(Path("left"))


@pytest.mark.slow
def test_photographs_that_processes_load_ahead(
    photographs: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Augmented images, and batches that are in flight when the run is killed."""
    data_dir = photographs("PACS", list("acps"), size=4)
    hparams = {"batch_size": 2, "weights": "random", "resnet18": True, "resnet50_augmix": False}
    words = ["--dataset", "PACS", "--data_dir", data_dir, "--hparams", json.dumps(hparams), "--skip_model_save"]
    words += ["--steps", "4", "--checkpoint_freq", "3"]
    assert train.main([*words, "--output_dir", "left"]) == 0
    live = kill_at(monkeypatch, lambda steps: steps == 2, saved=True)
    with pytest.raises(Killed):
        train.main([*words, "--output_dir", "killed"])
    live()
    assert train.main([*words, "--output_dir", "killed"]) == 0
    assert results_of(Path("killed")) == results_of(Path("left"))
