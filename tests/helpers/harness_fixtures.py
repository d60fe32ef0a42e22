"""Fixtures that several folders of tests share, a plugin of pytest's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from real_domainbed import RealDomainBed
from small_datasets import MAKERS, QUICK

from cim_dg import cli


@pytest.fixture
def two_cores() -> Iterator[None]:
    """At most two cores for this process and those it starts: two jobs side by side then have a thread each."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:2])
    yield
    os.sched_setaffinity(0, cores)


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
    monkeypatch.setattr(cli, "COMMANDS", {"wilds": "cim_dg.wilds.cli", "submission": "cim_dg.wilds.submission"})
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


@pytest.fixture
def two_machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, list[Any]]]:
    """A cluster of Ray for the launcher: a head without room for jobs, and two machines for a job each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        machines = [cluster.add_node(num_cpus=1) for _ in range(2)]
        cluster.wait_for_nodes()
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster, machines
    finally:
        cluster.shutdown()
