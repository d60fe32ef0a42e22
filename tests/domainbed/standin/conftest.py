"""Fixtures of the stand-in's tests."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from standin_samples import GOLDEN, write_mnist, write_sweep

pytest.register_assert_rewrite("golden_checks")


@pytest.fixture(scope="session", autouse=True)
def the_standin_is_tested() -> None:
    """These tests import `domainbed` at the top, which would be a real DomainBed if one is on the path."""
    import domainbed

    assert domainbed.STANDIN


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    """Results of functions of the real DomainBed (see `make_golden.py`)."""
    return json.loads((GOLDEN / "protocol.json").read_text())


@pytest.fixture
def sweep_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The results of `write_sweep` in the current folder, whose files are listed in a fixed order."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "listdir", lambda path, listdir=os.listdir: sorted(listdir(path)))
    write_sweep(Path("sweep"))
    return "sweep"


@pytest.fixture(scope="session")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A --data_dir with the files of `write_mnist`."""
    folder = tmp_path_factory.mktemp("data")
    write_mnist(folder)
    return str(folder)


@pytest.fixture
def photographs(tmp_path: Path) -> Callable[..., str]:
    """Makes a --data_dir with the image folder NAME: `size` images of 30x20 for each class and environment."""

    def make(name: str, environments: list[str], classes: tuple[str, ...] = ("cat", "dog"), size: int = 2) -> str:
        rng = np.random.RandomState(0)
        for environment in environments:
            for label in classes:
                folder = tmp_path / name / environment / label
                folder.mkdir(parents=True)
                for number in range(size):
                    pixels = rng.randint(256, size=(20, 30, 3)).astype(np.uint8)
                    Image.fromarray(pixels).save(folder / f"{number}.png")
        return str(tmp_path)

    return make
