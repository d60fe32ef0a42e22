"""The page on adding a method holds: its files are written, its commands run, in both harnesses."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "add_a_method.md").read_text(encoding="utf-8")
FILE = re.compile(r"^`([\w./]+)`,.*?^```\w+\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, installed by its first command into a folder of their own."""
    folder = tmp_path_factory.mktemp("method")
    for name, text in FILE.findall(PAGE):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    install = "-m pip install --quiet --no-deps --disable-pip-version-check --target site ."
    subprocess.run([sys.executable, *install.split()], cwd=folder, check=True)
    return folder


def commands() -> list[list[str]]:
    (block,) = re.findall(r"^```\n(pip install .*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]


def run(words: list[str], folder: Path, **environment: str) -> None:
    """As a user would, with the method and this package importable, quickly."""
    if words[0] == "cim-dg":
        words = ["python", "-m", "cim_dg.cli", *words[1:]]
    # Not this checkout: its folder algorithms would shadow that of WILDS. The package is installed where tests run.
    path = os.pathsep.join(filter(None, [str(folder / "site"), os.environ.get("PYTHONPATH")]))
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **environment,
    }
    done = subprocess.run([sys.executable, *words[1:]], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_pages_commands_run(project: Path) -> None:
    first, *others = commands()
    assert first == ["pip", "install", "."]
    for words in others:
        if "domainbed.scripts.train" in words:
            words += ["--steps", "3"]
        if words[:3] == ["cim-dg", "wilds", "train"]:
            words += ["--n_epochs", "1"]
        run(words, project)
    record = json.loads((project / "runs/nuisance-digits/results.jsonl").read_text().splitlines()[-1])
    assert record["args"]["algorithm"] == "ConfidencePenalty"
    assert record["hparams"]["confidence_weight"] == 0.1
    assert 0 < record["entropy"] < 2.4  # log 10
    wilds = json.loads((project / "runs/waterbirds-format/run.json").read_text())
    assert wilds["finished"]
    assert wilds["hparams"]["confidence_weight"] == 0.2


@pytest.mark.harness
@pytest.mark.slow
def test_the_real_domainbed_knows_it(project: Path, domainbed_root: Path) -> None:
    words = next(words for words in commands() if "domainbed.scripts.train" in words)
    output = words.index("--output_dir") + 1
    words = [*words[:output], "runs/real", *words[output + 1 :], "--steps", "3"]
    run(words, project, PYTHONPATH=os.pathsep.join(map(str, (project / "site", domainbed_root))))
    assert (project / "runs/real/done").exists()
    assert not (project / "runs/real/provenance.json").exists(), "that was the stand-in"


@pytest.mark.harness
@pytest.mark.slow
def test_the_real_wilds_knows_it(project: Path, wilds_root: Path) -> None:
    pytest.importorskip("transformers", reason="run_expt.py needs the package transformers")
    run(["cim-dg", "wilds", "digits", "--root_dir", "real"], project)
    words = ["python", str(wilds_root / "examples/run_expt.py"), "--algorithm", "ConfidencePenalty"]
    words += ["--dataset", "waterbirds", "--root_dir", "real", "--log_dir", "runs/expt", "--confidence_weight", "0.2"]
    words += ["--n_epochs", "1", "--model", "resnet18", "--model_kwargs", "pretrained=False", "--batch_size", "32"]
    words += ["--loader_kwargs", "num_workers=0", "pin_memory=False", "--transform", "image_base"]
    run([*words, "--target_resolution", "36", "36"], project)
    assert "entropy" in (project / "runs/expt/train_algo.csv").read_text().splitlines()[0]
