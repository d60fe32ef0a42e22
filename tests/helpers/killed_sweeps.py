"""Sweeps that are killed in the middle: `cim-dg sweep` in a process, with launchers that run one job at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from worker_jobs import until

from cim_dg.runtime import devices

ONE_AT_A_TIME = {
    "pool": {"CIM_DG_JOBS": "1"},
    "ray": {"RAY_ADDRESS": "local", "CIM_DG_CPUS_PER_JOB": str(devices.cores())},
    "multi_gpu": {"PYTHONPATH": str(Path(__file__).parent / "with_gpu")},
}
"""The variables of launchers. A sweep is killed when the first job of a stage has ended, before the last."""


def start(words: list[str], **environment: str) -> subprocess.Popen[bytes]:
    """Start `cim-dg` with one thread for each job."""
    variables = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    argv = [sys.executable, "-m", "cim_dg.cli", *words]
    return subprocess.Popen(argv, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_when(holds: Callable[[], bool], words: list[str], **environment: str) -> None:
    """Run `cim-dg`, one job at a time, and kill it, with everything that it started, when something holds."""
    process = start(words, **{"CIM_DG_JOBS": "1"} | environment)
    until(holds, seconds=240)
    assert process.poll() is None, "it ended before it was killed"
    process.kill()
    process.wait()
