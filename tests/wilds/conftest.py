"""What the WILDS tests share: small datasets, and the command line in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cim_dg import cli

# pytest's importlib mode leaves what stands beside the tests unimportable.
sys.path.insert(0, str(Path(__file__).parent))
from small_datasets import MAKERS, QUICK


@pytest.fixture(scope="session")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root_dir with all six datasets, for tests that only read."""
    root = tmp_path_factory.mktemp("data")
    for make in MAKERS.values():
        make(root)
    return root


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`cim-dg ARGUMENTS` in this process; returns the exit code."""
    monkeypatch.setattr(cli, "COMMANDS", ("cim_dg.wilds.cli", "cim_dg.wilds.submission"))
    return lambda *arguments: cli.main([str(a) for a in arguments])


@pytest.fixture
def train(command: Callable[..., int], small_root: Path, tmp_path: Path) -> Callable[..., Path]:
    """A quick run of a method on a small dataset; returns its log folder."""

    def run(dataset: str, algorithm: str, *options: object, log_dir: Path | None = None) -> Path:
        folder = log_dir or tmp_path / f"{dataset}-{algorithm}"
        quick = [o for o in QUICK] if dataset != "rxrx1" else QUICK[:4] + QUICK[9:]
        fixed = ["--dataset", dataset, "--algorithm", algorithm, "--root_dir", small_root, "--log_dir", folder]
        assert command("wilds", "train", *fixed, *quick, *options) == 0
        return folder

    return run
