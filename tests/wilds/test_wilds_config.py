from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from cim_dg.errors import UserError
from cim_dg.runtime.arguments import Parser
from cim_dg.wilds.adapter import add_hparam_options, read_hparam_options
from cim_dg.wilds.config import DATASETS, FIELDS, OF_WILDS, Config, defaults_folder, make_config, read_defaults
from cim_dg.wilds.optimisers import Schedule, make_optimizer
from cim_dg.wilds.run import KeyValues

GIVEN = {"algorithm": "CIM", "root_dir": "data"}


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_dataset_has_defaults_with_their_source(dataset: str) -> None:
    config = make_config({"dataset": dataset, **GIVEN})
    assert config.n_epochs > 0
    for file in defaults_folder().glob(f"{dataset}*.yaml"):
        assert "Source: " in file.read_text()
        assert make_config({"dataset": dataset, **GIVEN}, file.stem).dataset == dataset


def test_what_is_given_comes_before_the_defaults() -> None:
    config = make_config(
        {"dataset": "waterbirds", **GIVEN, "lr": 0.5, "optimizer_kwargs": {"nesterov": True}, "seed": None}
    )
    assert config.lr == 0.5 and config.weight_decay == 1.0 and config.seed == 0
    assert config.optimizer_kwargs == {"momentum": 0.9, "nesterov": True}


def test_bf16_is_a_flag_or_takes_a_truth_value(capsys: pytest.CaptureFixture[str]) -> None:
    """Declared once for `cim-dg wilds train` and for run_expt.py."""
    parser = Parser(prog="run")
    add_hparam_options(parser)
    given = [parser.parse_args(words).bf16 for words in ([], ["--bf16"], ["--bf16", "False"])]
    assert given == [None, True, False]
    with pytest.raises(SystemExit):
        parser.parse_args(["--bf16", "half"])
    assert "argument --bf16: 'half' is neither true nor false" in capsys.readouterr().err
    with pytest.raises(UserError, match="bf16 is 'half'; accepted is true or false"):
        make_config({"dataset": "waterbirds", **GIVEN, "bf16": "half"})


def test_arguments_of_another_optimiser_are_not_inherited() -> None:
    config = make_config({"dataset": "waterbirds", **GIVEN, "optimizer": "Adam", "model": "small-cnn"})
    assert config.optimizer_kwargs == {} and config.model_kwargs == {}
    config = make_config({"dataset": "camelyon17", **GIVEN, "model": "resnet18"})
    assert config.model_kwargs == {"pretrained": False}
    config = make_config({"dataset": "backgrounds", **GIVEN, "model": "efficientnet_lite0"})
    assert config.model_kwargs == {}, "it has no other weights than its own"


def test_defaults_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("include: celebA\nlr: 0.25\n")
    config = make_config({"dataset": "celebA", **GIVEN}, str(file))
    assert config.lr == 0.25 and config.model == "resnet50"
    for text, words in (
        ("lrr: 1\n", "unknown entry 'lrr'; .* did you mean 'lr'"),
        ("[]\n", "must hold names with values"),
        ("a: [", "is not YAML"),
        ("lr: 1e-5\n", "lr is '1e-5'"),
        ("lr: 1\n", "model"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=words):
            make_config({"dataset": "celebA", **GIVEN}, str(file))
    for text, words in (
        (
            "include: celebA\nlr: 1e-5\n",
            r"mine\.yaml: lr is '1e-5'; accepted is a number of at least 0",
        ),  # read as a text
        ("include: celeb\n", "no defaults named 'celeb'; .* did you mean 'celebA'"),
        (f"include: {file}\n", "includes itself"),
        ("batch_size: true\n", "batch_size is True; accepted is a whole number of at least 1"),
        ("optimizer_kwargs: null\n", "optimizer_kwargs is None; accepted is names with values"),
        ("include: celebA\nselection: average\nadjust_average: true\nreport_groups: []\n", "needs report_groups"),
        ("target_resolution: [224.5, 1]\n", r"target_resolution\[0\] is 224.5"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=words):
            make_config({"dataset": "celebA", **GIVEN}, str(file))


@pytest.mark.harness
@pytest.mark.parametrize("dataset", OF_WILDS)
def test_defaults_are_those_of_run_expt(dataset: str, wilds_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(wilds_root / "examples"))
    from configs.datasets import dataset_defaults  # type: ignore[import-not-found]

    ours, theirs = read_defaults(dataset), dataset_defaults[dataset]
    if theirs["scheduler"] == "StepLR":
        theirs["scheduler_kwargs"].setdefault("step_size", 1)  # from configs/scheduler.py
    for name in sorted(set(FIELDS) & set(theirs) - {"scheduler", "resize_scale", "target_resolution"}):
        default = FIELDS[name].default
        assert ours.get(name, default) == theirs[name] or (not theirs[name] and name not in ours), name
    assert ours.get("scheduler") == theirs["scheduler"]
    assert ours.get("resize_scale") == pytest.approx(theirs.get("resize_scale"))
    del sys.modules["configs.datasets"], sys.modules["configs"]


def schedule(n_steps: int, **given: object) -> list[float]:
    """The learning rates of `n_steps` steps, in epochs of five."""
    config = make_config({"dataset": "camelyon17", **GIVEN, "lr": 2.0, **given})
    optimizer = make_optimizer(config, [torch.nn.Parameter(torch.zeros(1))])
    made, rates = Schedule(config, optimizer, n_steps), []
    for step in range(n_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        made.after_batch()
        if step % 5 == 4:
            made.after_epoch({"acc_avg": 0.5})
    return rates


def test_schedules() -> None:
    warm = {"scheduler_kwargs": {"num_warmup_steps": 4}}
    linear = schedule(12, scheduler="linear_schedule_with_warmup", **warm)
    assert linear == pytest.approx([2 * min(s / 4, (12 - s) / 8) for s in range(12)])
    cosine = schedule(12, scheduler="cosine_schedule_with_warmup", **warm)
    expected = [2 * s / 4 if s < 4 else 1 + float(torch.cos(torch.tensor(torch.pi * (s - 4) / 8))) for s in range(12)]
    assert cosine == pytest.approx(expected, abs=1e-6)
    step = schedule(12, scheduler="StepLR", scheduler_kwargs={"step_size": 1, "gamma": 0.5})
    assert step == [2.0] * 5 + [1.0] * 5 + [0.5] * 2
    plateau = {"patience": 0, "factor": 0.1, "mode": "max"}
    given = {"scheduler": "ReduceLROnPlateau", "scheduler_kwargs": plateau, "scheduler_metric_name": "acc_avg"}
    assert schedule(12, **given) == pytest.approx([2.0] * 10 + [0.2] * 2)
    assert schedule(12) == [2.0] * 12


def test_a_config_cannot_be_incomplete() -> None:
    with pytest.raises(UserError, match="dataset is None"):
        make_config(GIVEN)
    with pytest.raises(UserError, match="algorithm is not given"):
        make_config({"dataset": "celebA", "root_dir": "data"})
    assert isinstance(make_config({"dataset": "celebA", **GIVEN}), Config)
    assert yaml.safe_load((defaults_folder() / "leaderboard.yaml").read_text())["camelyon17"]["seeds"] == 10


def test_key_value_options(command: Callable[..., int], capsys: pytest.CaptureFixture) -> None:
    assert [KeyValues.read(text) for text in ("3", "1e-8", "True", "none", "SGD")] == [3, 1e-8, True, None, "SGD"]
    with pytest.raises(SystemExit) as stopped:
        command(
            "wilds", "train", "-d", "celebA", "--algorithm", "ERM", "--root_dir", ".", "--model_kwargs", "pretrained"
        )
    assert stopped.value.code == 2
    assert "--model_kwargs takes key=value" in capsys.readouterr().err


def test_hyper_parameters_are_options() -> None:
    parser = argparse.ArgumentParser()
    add_hparam_options(parser)
    arguments = ["--cim_margin", "none", "--cim_supervise_mask", "false", "--cim_width", "8", "--cim_lambda", "1e1"]
    values = read_hparam_options(parser.parse_args(arguments), "CIM_VIB")
    assert values == {"cim_margin": None, "cim_supervise_mask": False, "cim_width": 8, "cim_lambda": 10.0}
    assert type(values["cim_lambda"]) is float
    for wrong in (["--cim_width", "8.5"], ["--cim_supervise_mask", "perhaps"], ["--cim_contrast", "angle"]):
        with pytest.raises(UserError, match=wrong[0][2:]):
            read_hparam_options(parser.parse_args(wrong), "CIM")
    assert "--scl_temperature" in parser.format_help()


def test_a_momentum_that_the_second_step_cannot_take_is_refused() -> None:
    given = {**GIVEN, "optimizer": "SGD", "optimizer_kwargs": {"momentum": 10**20}}
    config = make_config({"dataset": "camelyon17", **given})
    with pytest.raises(UserError, match="optimizer_kwargs does not fit SGD"):
        make_optimizer(config, [torch.nn.Parameter(torch.zeros(1))])
