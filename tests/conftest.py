"""What all tests share."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from cim_dg import autoload

# As an installation does it at start-up: so that tests see the same thing from a bare checkout.
autoload.install()
torch.set_num_threads(1)

pytest_plugins = ["harness_fixtures", "method_fixtures"]


@pytest.fixture(scope="session", autouse=True)
def own_image_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep tests away from the cache of who runs them."""
    os.environ["CIM_DG_CACHE"] = str(tmp_path_factory.mktemp("cache"))


def _root(variable: str, inside: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: it names a checkout of the real harness")
    root = Path(value)
    if not (root / inside).exists():
        pytest.fail(f"{variable}={value} has no {inside}")
    return root


@pytest.fixture(scope="session")
def domainbed_root() -> Path:
    """A checkout of facebookresearch/DomainBed."""
    return _root("DOMAINBED_ROOT", "domainbed/scripts/train.py")


@pytest.fixture(scope="session")
def wilds_root() -> Path:
    """A checkout of p-lambda/wilds."""
    return _root("WILDS_ROOT", "examples/run_expt.py")


@pytest.fixture(scope="session")
def subpopbench_root() -> Path:
    """A checkout of YyzHarry/SubpopBench, with what it imports."""
    root = _root("SUBPOPBENCH_ROOT", "subpopbench/train.py")
    for module in ("tensorboard_logger", "netcal", "transformers"):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed, which SubpopBench imports")
    return root
