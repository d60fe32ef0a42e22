"""Our methods in the real examples harness (tests marked harness), and what keeps our hands off everything else."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from cim_dg import autoload
from cim_dg.algorithms import SCL, Batch
from cim_dg.nn.networks import SmallCNN
from cim_dg.nn.pixels import PixelSpace
from cim_dg.wilds import plugin
from cim_dg.wilds.examples import Model
from cim_dg.wilds.transforms import Standardize, make_transform

REPOSITORY = Path(__file__).resolve().parents[2]
QUICK = ["--n_epochs", "1", "--model", "resnet18", "--model_kwargs", "pretrained=False", "--batch_size", "12"]
QUICK += ["--loader_kwargs", "num_workers=0", "pin_memory=False"]
SMALL = ["--transform", "image_base", "--target_resolution", "16", "16"]


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a Python program in an interpreter that starts as one does where cim-dg is installed."""
    start = tmp_path / "start"
    start.mkdir()
    (start / "sitecustomize.py").write_text(
        f"import sys\nsys.path.append({str(REPOSITORY)!r})\nfrom cim_dg import autoload\nautoload.install()\n"
        f"sys.path.remove({str(REPOSITORY)!r})\n"
    )
    path = os.pathsep.join(filter(None, [str(start), os.environ.get("PYTHONPATH", "")]))

    def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *(str(a) for a in arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)
        assert done.returncode == code, done.stdout[-2000:] + done.stderr[-4000:]
        return done

    return run


@pytest.fixture
def run_expt(wilds_root: Path) -> Path:
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("run_expt.py needs the package transformers")
    return wilds_root / "examples" / "run_expt.py"


def test_nothing_is_touched_unless_run_expt_is_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoload, "HOOKS", dict(autoload.HOOKS))
    monkeypatch.setattr(plugin, "_extend_parser", lambda: None)
    script = tmp_path / "run_expt.py"
    script.write_text("")
    for program in (sys.argv[0], "", "-c", str(script)):  # the last has no harness beside it
        monkeypatch.setattr(sys, "argv", [program])
        plugin.on_wilds(sys)
    assert not plugin.HOOKS.keys() & autoload.HOOKS.keys()
    for inside in ("configs/supported.py", "algorithms/initializer.py"):
        (tmp_path / inside).parent.mkdir()
        (tmp_path / inside).write_text("")
    plugin.on_wilds(sys)
    assert plugin.HOOKS.keys() <= autoload.HOOKS.keys()


def test_run_expt_says_where_it_looked(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert command("wilds", "run-expt", tmp_path, "--", "--dataset", "waterbirds") == 2
    err = capsys.readouterr().err
    assert "there is no run_expt.py at" in err and err.count("\n") == 1


def test_evaluation_averages_features_where_it_is_asked_to() -> None:
    """run_expt.py evaluates by a forward pass, and not by `predict`."""
    x, y = torch.rand(4, 3, 16, 16), torch.arange(4) % 2
    for copies in (0, 2):
        method = SCL(SmallCNN(3), lambda n: torch.nn.Linear(n, 2), PixelSpace.of("unit", 3), 2)
        method.hparams["average_copies"] = copies
        model = Model(method, bf16=False).eval()
        assert torch.equal(model(x, y, None)[0], method.predict(x))
        trained = model.train()(x, y, None)[0]
        assert torch.equal(trained, method(Batch(x, y)).logits)


@pytest.mark.harness
@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["waterbirds", "camelyon17"])
@pytest.mark.parametrize("algorithm", ["ERM", "VIB", "SCL", "CCSA", "DCoDR", "TransformInvariance", "CIM", "CIM_VIB"])
def test_run_expt_trains_every_method(
    algorithm: str, dataset: str, python: Callable[..., object], run_expt: Path, small_root: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    arguments = ["--dataset", dataset, "--algorithm", algorithm, "--root_dir", small_root, "--log_dir", log]
    python(run_expt, *arguments, *QUICK, *SMALL)
    made = json.loads((log / "run.json").read_text())
    assert made["algorithm"] == algorithm and made["runner"] == "run_expt.py"
    assert made["used_domains"] is (algorithm in ("CCSA", "DCoDR"))
    assert made["selection"] == ("worst-group" if dataset == "waterbirds" else "average")
    with open(log / "val_eval.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert 0 <= float(row["acc_wg"]) <= 1
    labels = (log / f"{dataset}_split:test_seed:0_epoch:best_pred.csv").read_text().split()
    assert len(labels) == {"waterbirds": 20, "camelyon17": 12}[dataset]
    if algorithm in ("VIB", "CIM_VIB"):
        state = torch.load(log / f"{dataset}_seed:0_epoch:last_model.pth", weights_only=False)["algorithm"]
        (steps,) = (value for name, value in state.items() if name.endswith(".step"))
        assert steps == {"waterbirds": 4, "camelyon17": 2}[dataset]  # batches of training alone
    if "CIM" in algorithm:
        assert "mask_mean" in (log / "val_algo.csv").read_text().splitlines()[0]


@pytest.mark.harness
def test_transforms_are_those_of_the_harness(run_expt: Path, small_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(run_expt.parent))
    theirs = importlib.import_module("transforms")
    image = Image.open(small_root / "waterbirds_v1.0" / "images" / "0000.jpg").resize((20, 24))
    for name in ("image_base", "image_resize", "image_resize_and_center_crop"):
        for resolution in ((20, 24), (16, 16)):
            config = SimpleNamespace(target_resolution=(12, 12), resize_scale=1.2, algorithm="ERM")
            dataset = SimpleNamespace(original_resolution=resolution)
            expected = theirs.initialize_transform(name, config, dataset, is_training=False)(image)
            ours = make_transform(name, resolution, [12, 12], 1.2, training=False)(image)
            torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    expected = theirs.initialize_transform("rxrx1", config, dataset, is_training=False)(image)
    ours = Standardize()(make_transform("rxrx1", None, None, None, training=False)(image)[None])[0]
    torch.testing.assert_close(ours, expected)
    for name in ("transforms", "data_augmentation", "data_augmentation.randaugment"):
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.harness
@pytest.mark.slow
def test_options_in_run_expt(
    python: Callable[..., subprocess.CompletedProcess[str]], run_expt: Path, small_root: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    arguments = [run_expt, "--dataset", "rxrx1", "--root_dir", small_root, "--log_dir", log, *QUICK]
    assert (
        "--cim_lambda is not an option of ERM"
        in python(*arguments, "--algorithm", "ERM", "--cim_lambda", 3, code=2).stderr
    )
    assert "cim_lambda is 'x'" in python(*arguments, "--algorithm", "CIM", "--cim_lambda", "x", code=2).stderr
    words = ("--cim_lambda", 3, "--cim_width", 4, "--use_domains", "--parts_lr_factor", 0, "--cim_mask_initial", 0.8)
    done = python(*arguments, "--algorithm", "CIM", *words)
    assert "Cim lambda: 3.0" in done.stdout and "Cim anchors: 32" in done.stdout
    made = json.loads((log / "run.json").read_text())
    assert made["hparams"]["cim_lambda"] == 3.0 and made["used_domains"] is True
    state = torch.load(log / "rxrx1_seed:0_epoch:last_model.pth", weights_only=False)["algorithm"]
    (bias,) = (value for name, value in state.items() if name.endswith("morphing.network.head.bias"))
    assert bias.item() == pytest.approx(math.log(0.8 / 0.2))  # as at the start: its learning rate was 0


@pytest.mark.harness
@pytest.mark.slow
def test_run_expt_without_autoload(
    python: Callable[..., object], run_expt: Path, small_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cim-dg wilds run-expt`, from a checkout whose own folder `algorithms` is on the path."""
    program = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from cim_dg import cli; "
    program += "cli.COMMANDS = {'wilds': 'cim_dg.wilds.cli'}; sys.exit(cli.main(sys.argv[1:]))"
    log = tmp_path / "log"
    arguments = [
        "--dataset",
        "waterbirds",
        "--algorithm",
        "SCL",
        "--root_dir",
        small_root,
        "--log_dir",
        log,
        *QUICK,
        *SMALL,
    ]
    python("-c", program, "wilds", "run-expt", run_expt.parent.parent, "--", *arguments)
    assert json.loads((log / "run.json").read_text())["algorithm"] == "SCL"


@pytest.mark.harness
@pytest.mark.slow
def test_wilds_evaluates_our_submission_as_we_do(
    train: Callable[..., Path],
    command: Callable[..., int],
    python: Callable[..., object],
    wilds_root: Path,
    small_root: Path,
    tmp_path: Path,
) -> None:
    folders = [
        train("camelyon17", "ERM", "--seed", seed, "--lr", 0.001, log_dir=tmp_path / "logs" / str(seed))
        for seed in range(10)
    ]
    assert command("submission", "build", *folders, "--output", tmp_path / "submission") == 0
    assert command("submission", "validate", tmp_path / "submission", "--root_dir", small_root) == 0
    (tmp_path / "out").mkdir()
    evaluate = wilds_root / "examples" / "evaluate.py"
    python(evaluate, tmp_path / "submission", tmp_path / "out", "--dataset", "camelyon17", "--root_dir", small_root)
    theirs = json.loads((tmp_path / "out" / "camelyon17_results.json").read_text())
    results = [json.loads((folder / "run.json").read_text())["results"] for folder in folders]
    for split in ("id_val", "val", "test"):
        ours = [result[split]["average"] for result in results]
        assert theirs[split]["acc_avg"] == pytest.approx(np.mean(ours))
        assert theirs[split]["acc_avg_std"] == pytest.approx(np.std(ours, ddof=1))
    assert len({result["val"]["average"] for result in results}) > 1
