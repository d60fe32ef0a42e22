"""The page on adding a method holds: its commands run, in both harnesses, and it shows the files that they write."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cim_dg.commands.new import method_files

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "add_a_method.md").read_text(encoding="utf-8")
FILE = re.compile(r"^`([\w./]+)`,.*?^```\w+\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
OPTIONS = {
    "domainbed.scripts.train": ["--steps", "3"],
    "train": ["--n_epochs", "1", "--confidence_penalty_weight", "0.2"],
}
"""Words of commands -> options, most of them to be quick."""


def commands() -> list[list[str]]:
    (block,) = re.findall(r"^```\n(cim-dg new .*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]


def run(words: list[str], folder: Path, **environment: str) -> None:
    """As a user would, with the method and this package importable."""
    program = {"cim-dg": [sys.executable, "-m", "cim_dg.cli"], "python": [sys.executable]}[words[0]]
    # Not this checkout: its folder algorithms would shadow that of WILDS. The package is installed where tests run.
    path = os.pathsep.join(filter(None, [str(folder / "site"), os.environ.get("PYTHONPATH")]))
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **environment,
    }
    done = subprocess.run([*program, *words[1:]], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, written and installed by the page's first commands, into a folder of its own."""
    new, enter, install, *_ = commands()
    assert enter == ["cd", new[new.index("--output") + 1]] and install == ["pip", "install", "."]
    parent = tmp_path_factory.mktemp("method")
    run(new, parent)
    folder = parent / enter[1]
    options = "--quiet --no-deps --no-build-isolation --disable-pip-version-check --target site"
    run(["python", "-m", *install[:2], *options.split(), "."], folder)
    return folder


def test_the_page_shows_the_files_that_are_written() -> None:
    assert dict(FILE.findall(PAGE)) == method_files("ConfidencePenalty")


@pytest.mark.slow
def test_the_pages_commands_run(project: Path) -> None:
    for words in commands()[3:]:
        run([*words, *(word for name, options in OPTIONS.items() if name in words for word in options)], project)
    record = json.loads((project / "runs/nuisance-digits/results.jsonl").read_text().splitlines()[-1])
    assert record["args"]["algorithm"] == "ConfidencePenalty"
    assert record["hparams"]["confidence_penalty_weight"] == 0.1
    assert 0 < record["entropy"] < 2.4  # log 10
    wilds = json.loads((project / "runs/waterbirds-format/run.json").read_text())
    assert wilds["finished"]
    assert wilds["hparams"]["confidence_penalty_weight"] == 0.2


@pytest.mark.slow
def test_its_test_fails_when_the_method_is_broken(project: Path) -> None:
    source = project / "confidence_penalty" / "__init__.py"
    text = source.read_text(encoding="utf-8")
    broken = text.replace("supervised - self", "supervised + self")
    assert broken != text
    source.write_text(broken, encoding="utf-8")
    try:
        with pytest.raises(AssertionError, match="1 failed"):
            run(["python", "-m", "pytest", "-p", "no:cacheprovider", "-k", "loop"], project)
    finally:
        source.write_text(text, encoding="utf-8")


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
    words += ["--dataset", "waterbirds", "--root_dir", "real", "--log_dir", "runs/expt"]
    words += ["--confidence_penalty_weight", "0.2"]
    words += ["--n_epochs", "1", "--model", "resnet18", "--model_kwargs", "pretrained=False", "--batch_size", "32"]
    words += ["--loader_kwargs", "num_workers=0", "pin_memory=False", "--transform", "image_base"]
    run([*words, "--target_resolution", "36", "36"], project)
    assert "entropy" in (project / "runs/expt/train_algo.csv").read_text().splitlines()[0]
