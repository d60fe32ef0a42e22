"""Fixtures of the tests that run a real DomainBed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# pytest's importlib mode leaves what stands beside the tests unimportable.
sys.path.insert(0, str(Path(__file__).parent / "standin"))
sys.path.insert(0, str(Path(__file__).parent))

from real_domainbed import RealDomainBed


@pytest.fixture(scope="module")
def real(domainbed_root: Path) -> Iterator[RealDomainBed]:
    """The clone, to run commands in; a module's tests leave its `git status` as it was."""

    def status() -> str:
        command = ["git", "-C", str(domainbed_root), "status", "--porcelain"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    real = RealDomainBed(domainbed_root)
    asked = real.python("-c", "import sys; print('cim_dg.autoload' in sys.modules)", cwd="/")
    if asked.stdout.strip() != "True":
        pytest.fail("cim-dg is not installed in this environment, and jobs of a real sweep start with nothing else")
    before = status()
    yield real
    assert status() == before
