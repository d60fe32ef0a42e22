"""`domainbed.scripts.train`: the files of a run, and endings that tell why (its figures: test_standin_figures.py)."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from domainbed import algorithms
from domainbed.lib import command
from domainbed.scripts import train
from PIL import Image
from standin_samples import results_of

import cim_dg
from cim_dg import cli
from cim_dg.errors import RunError
from cim_dg.results import morph_picture, outputs

DEBUG = ["--dataset", "Debug28", "--hparams", '{"batch_size": 8}', "--output_dir", "job"]
AS_A_COMMAND = "import sys, runpy; from cim_dg import autoload; autoload.install(); sys.argv[0] = 'train'; "
AS_A_COMMAND += "runpy.run_module('domainbed.scripts.train', run_name='__main__', alter_sys=True)"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(command.ANNOUNCED, raising=False)


def test_a_training_of_small_images_imports_no_package_of_tables_or_photographs() -> None:
    """Every job of a sweep starts a process, which reads its packages from a shared disk (docs/clusters.md)."""
    heavy = {"matplotlib", "pandas", "rich", "scipy", "torchvision"}
    train_it = f"train.main({[*DEBUG, '--algorithm', 'CIM', '--steps', '1']})"
    code = f"import sys; from domainbed.scripts import train; {train_it}; sys.exit({heavy} & {{*sys.modules}} or 0)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, Path("job/done").exists()) == (0, True), run.stderr


def test_files_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*DEBUG, "--steps", "3", "--checkpoint_freq", "2", "--save_model_every_checkpoint"]
    assert train.main(flags) == 0
    out, err = capsys.readouterr()
    job = Path("job")
    names = {"done", "err.txt", "model.pkl", "model_step0.pkl", "model_step2.pkl", "out.txt", "provenance.json"}
    kept = {"logits_best.npz", "logits_last.npz"}
    assert {path.name for path in job.iterdir()} == {*names, *kept, "results.jsonl", ".lock"}
    assert (job / "out.txt").read_text() == out
    assert (job / "err.txt").read_text() == err
    assert err.count("stand-in for DomainBed") == 1
    assert [json.loads(line)["step"] for line in (job / "results.jsonl").read_text().splitlines()] == [0, 2]
    header, *rows = out.splitlines()[-3:]
    assert header.split()[:2] == ["env0_in_acc", "env0_out_acc"]
    assert len(rows) == 2

    saved = torch.load(job / "model.pkl")  # by default it reads nothing but plain types and tensors
    shape, hparams = saved["model_input_shape"], saved["model_hparams"]
    model = algorithms.get_algorithm_class("ERM")(
        shape, saved["model_num_classes"], saved["model_num_domains"], hparams
    )
    model.load_state_dict(saved["model_dict"])
    assert saved["args"]["steps"] == 3

    provenance = json.loads((job / "provenance.json").read_text())
    assert provenance["harness"] == "domainbed-standin"
    assert provenance["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert provenance["hparams"]["batch_size"] == 8
    assert provenance["seeds"] == {"seed": 0, "trial_seed": 0, "hparams_seed": 0}
    assert provenance["threads"] == torch.get_num_threads()


def test_logits_are_those_behind_the_test_domains_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the last checkpoint, and at the one that is best on the training domains' validation."""
    digits = ["--dataset", "NuisanceDigits", "--steps", "5", "--checkpoint_freq", "1", "--skip_model_save"]
    digits += ["--hparams", '{"batch_size": 8, "nuisance_digits": 40}', "--test_envs", "2"]
    images = {}
    for algorithm in ("ERM", "SCL"):
        assert train.main([*digits, "--algorithm", algorithm, "--output_dir", algorithm]) == 0
        records = results_of(Path(algorithm))
        validation = [(record["env0_out_acc"] + record["env1_out_acc"]) / 2 for record in records]
        for name, step in ((outputs.BEST, validation.index(max(validation))), (outputs.LAST, len(records) - 1)):
            kept = outputs.read(Path(algorithm) / name)
            assert kept is not None and kept.step == step
            assert (kept.logits.argmax(axis=1) == kept.y).mean() == pytest.approx(records[step]["env2_in_acc"])
            images[algorithm, name] = kept.image.tolist(), kept.y.tolist()
    # The same images in the same order, though evaluation draws them in random order.
    assert len({str(value) for value in images.values()}) == 1
    ((keys, _), *_) = images.values()
    assert keys == sorted(set(keys))
    for flags, off in ((["--test_envs", "0", "1"], {}), (["--test_envs", "1"], {"CIM_DG_KEEP_LOGITS": "0"})):
        for name, value in off.items():
            monkeypatch.setenv(name, value)
        assert train.main([*digits, *flags, "--steps", "1", "--output_dir", "none"]) == 0
        assert not list(Path("none").glob("*.npz"))
        shutil.rmtree("none")


def test_the_kept_morphs_are_drawn_as_those_of_the_kept_model() -> None:
    digits = ["--dataset", "NuisanceDigits", "--steps", "1", "--test_envs", "2"]
    digits += ["--hparams", '{"batch_size": 8, "nuisance_digits": 40}']
    for algorithm in ("ERM", "CIM"):
        assert train.main([*digits, "--algorithm", algorithm, "--output_dir", algorithm]) == 0
    assert not Path("ERM", morph_picture.FILE).exists()  # it has no mask
    kept = morph_picture.read(Path("CIM", morph_picture.FILE))
    assert kept is not None and kept.method == "CIM" and len(kept.pixels) == len(kept.names) == morph_picture.SHOWN
    Path("kept.png").write_bytes(kept.png())
    assert cli.main(["morph", "--checkpoint", "CIM/model.pkl", "--output", "drawn.png"]) == 0
    pictures = [np.asarray(Image.open(name).convert("RGB")).astype(int) for name in ("kept.png", "drawn.png")]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1  # float16 is finer than 8 bits, but rounds
    assert pictures[0].std() > 10


def test_a_job_of_a_sweep_announces_the_standin_in_its_file_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(command.ANNOUNCED, "1")
    assert train.main([*DEBUG, "--steps", "1", "--skip_model_save"]) == 0
    assert capsys.readouterr().err == ""
    assert "stand-in for DomainBed" in Path("job", "err.txt").read_text()


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--algorithm Nonesuch", "there is no algorithm 'Nonesuch'.*CIM.*ERM"),
        ("--dataset Nonesuch", "there is no dataset 'Nonesuch'.*ColoredMNIST.*NuisanceDigits"),
        ("--hparams {lr:1}", "--hparams is not JSON"),
        ("--hparams [1]", "must be a JSON object"),
        ('--hparams {"lrr":1}', "ERM has no hyper-parameter 'lrr'; it has .*lr"),
        ('--hparams {"lr":"x"}', "lr is 'x'; accepted is a number"),
        ('--hparams {"batch_size":14}', "environment 1 has 13 images to train on, fewer than the batch size 14"),
        ('--hparams {"batch_size":8,"weights":"random"}', "'weights'"),
        ("--test_envs 3", r"--test_envs has 3; the environments are 0 \(0\), 1 \(1\), 2 \(2\)"),
        ("--test_envs -1", "--test_envs: '-1' is not a whole number from 0"),
        ("--seed -1", "--seed: '-1' is not a whole number from 0 to 4294967295"),
        ("--hparams_seed -1", "--hparams_seed: '-1'"),
        ("--checkpoint_freq 0", "--checkpoint_freq: '0' is not a whole number from 1"),
        ('--hparams {"lr":-1}', "lr is -1; accepted is a number of at least 0"),
        ('--hparams {"lr":NaN}', "lr is nan"),
        ('--algorithm CIM --hparams {"cim_lambda":-1}', "cim_lambda is -1; accepted is a number of at least 0"),
        ("--test_envs 1 1", "names an environment twice"),
        ("--test_envs 0 1 2", "leaves none to train on"),
        ("--holdout_fraction 1", "--holdout_fraction: '1' is not a number between 0 and 1"),
        ("--holdout_fraction nan", "--holdout_fraction: 'nan' is not a number between 0 and 1"),
        ("--holdout_fraction 0.01", "leave none for one of its splits"),
        ("--uda_holdout_fraction -0.1", "'-0.1' is not 0 or a number between 0 and 1"),
        ("--task domain_adaptation", "give --uda_holdout_fraction"),
        ("--steps 0", "--steps: '0' is not a whole number from 1"),
        ("--dataset VLCS", "VLCS is needed: give --data_dir"),
        ("--dataset VLCS --data_dir nowhere", "there is no folder nowhere/VLCS"),
        ("--dataset ColoredMNIST", "DIR/MNIST/raw"),
        (
            "--dataset RotatedMNIST --data_dir nowhere",
            "expected in nowhere/MNIST/raw; there is no train-images-idx3-ubyte",
        ),
    ],
)
def test_wrong_input(flags: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = train.main([*DEBUG, *flags.split()])
    except SystemExit as end:  # as argparse ends
        code = end.code
    err = capsys.readouterr().err
    assert code == 2 and re.search(f"error: .*{complaint}", err) and "Traceback" not in err
    assert not Path("job").exists(), "nothing is left behind"


def test_wrong_input_of_a_job_of_a_sweep_is_told_in_its_folder(capsys: pytest.CaptureFixture[str]) -> None:
    Path("job").mkdir()
    assert train.main([*DEBUG, "--dataset", "VLCS"]) == 2
    assert Path("job", "err.txt").read_text() == capsys.readouterr().err
    assert not Path("job", "done").exists()


def test_an_output_folder_that_cannot_be_made(capsys: pytest.CaptureFixture[str]) -> None:
    Path("job").write_text("a file")
    assert train.main(DEBUG) == 2
    assert "error: --output_dir job" in capsys.readouterr().err


@pytest.mark.slow
def test_photographs_through_worker_processes(photographs: Callable[..., str]) -> None:
    data_dir = photographs("PACS", list("acps"), size=4)
    hparams = {"batch_size": 2, "weights": "random", "resnet18": True, "resnet50_augmix": False}
    flags = ["--dataset", "PACS", "--data_dir", data_dir, "--hparams", json.dumps(hparams), "--steps", "2"]
    for job in ("one", "two"):
        assert train.main([*flags, "--output_dir", job, "--skip_model_save"]) == 0
    (one, two) = (results_of(Path(job))[-1] for job in ("one", "two"))
    assert one == two
    assert len([name for name in one if name.endswith("_acc")]) == 8
    assert json.loads(Path("one", "provenance.json").read_text())["weights"] == "random"


class _Failing(algorithms.Algorithm):
    """Reports a value that is not finite at its third step."""

    def update(self, minibatches: Any, unlabeled: Any = None) -> dict[str, float]:
        self.steps = getattr(self, "steps", -1) + 1
        return {"loss": 1.0, "penalty": float("nan") if self.steps == 2 else 0.0}

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), 2)


def test_a_value_that_is_not_finite_stops_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(algorithms, "ERM", _Failing)
    Path("job").mkdir()
    Path("job", "done").write_text("of an earlier run")
    assert train.main([*DEBUG, "--steps", "9"]) == 1
    assert "error: ERM's penalty is nan at step 2" in capsys.readouterr().err
    assert not Path("job", "done").exists()
    assert len(Path("job", "results.jsonl").read_text().splitlines()) == 1


def test_errors_of_algorithms(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for error, code, text in ((RunError("no luck"), 1, "error: no luck\n"), (KeyError("bug"), 1, "Traceback")):

        def update(self: Any, minibatches: Any, unlabeled: Any = None, error: Exception = error) -> dict[str, float]:
            raise error

        monkeypatch.setattr(algorithms, "ERM", type("Failing", (_Failing,), {"update": update}))
        assert train.main(DEBUG) == code
        assert text in capsys.readouterr().err
        assert text in Path("job", "err.txt").read_text()


def test_interrupted(tmp_path: Path) -> None:
    flags = [*DEBUG, "--checkpoint_freq", "1", "--steps", "100000"]
    run = subprocess.Popen(
        [sys.executable, "-c", AS_A_COMMAND, *flags],
        stderr=subprocess.PIPE,
        text=True,
        env=_here(),
        # A shell's background job ignores the signal, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    results = Path("job", "results.jsonl")
    deadline = time.time() + 120
    while not (results.exists() and results.read_bytes().count(b"\n") > 2):
        assert run.poll() is None and time.time() < deadline, "no results to interrupt"
        time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert not Path("job", "done").exists()
    text = results.read_text()
    assert text.endswith("\n")
    assert all(json.loads(line)["args"] for line in text.splitlines())


def _here() -> dict[str, str]:
    """An environment in which a subprocess finds the package as this process does."""
    return {**os.environ, "PYTHONPATH": str(Path(cim_dg.__file__).parents[1])}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_required_gpu_that_is_not_there_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CIM_DG_REQUIRE_GPU", "1")
    assert train.main([*DEBUG, "--steps", "1", "--output_dir", str(tmp_path / "job")]) == 2
    assert "error: a GPU is required (CIM_DG_REQUIRE_GPU, --require_gpu) and cannot be used" in capsys.readouterr().err
    assert not (tmp_path / "job" / "results.jsonl").exists()
