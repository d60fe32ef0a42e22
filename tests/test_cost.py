"""docs/cost.py reckons from a pilot what a comparison costs."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "docs" / "cost.py"


def write_pilot(folder: Path, algorithm: str, step_time: float, seconds: float) -> None:
    """A job of 21 steps with three checkpoints that took `seconds` in all and wrote a model of 1 MB."""
    folder.mkdir(parents=True)
    (folder / "err.txt").touch()
    (folder / "model.pkl").write_bytes(bytes(1_000_000))
    with open(folder / "results.jsonl", "w") as file:
        for step in (0, 10, 20):
            record = {"step": step, "step_time": step_time if step else 1.0, "args": {"algorithm": algorithm}}
            file.write(json.dumps(record) + "\n")
    (folder / "done").touch()
    for path in folder.iterdir():
        os.utime(path, (1000, 1000 + (seconds if path.name == "done" else 0)))


def cost(pilot: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, pilot], capture_output=True, text=True, check=False)


def test_the_full_comparison_on_vlcs(tmp_path):
    for algorithm in ("ERM", "VIB", "SCL", "CIM", "CIM_VIB"):
        # 20 steps of 0.5 s, the first of 1 s, and three checkpoints of 3 s.
        write_pilot(tmp_path / algorithm, algorithm, 0.5, seconds=20 * 0.5 + 1 + 3 * 3)
    printed = cost(tmp_path).stdout
    hours = 1200 * (5001 * 0.5 + 18 * 3) / 3600
    assert f"1200 jobs, {hours:.0f} GPU hours, 1.2 GB" in printed
    for gpus in (1, 8):
        assert f"\n{gpus} side by side: {hours / 24 / gpus:.2f} days" in printed
    # 64 take 19 rounds for what would fill 18.75.
    assert f"\n64 side by side: {hours / 24 / 1200 * 19:.2f} days" in printed


def test_a_method_without_a_pilot_is_named(tmp_path):
    write_pilot(tmp_path / "job", "ERM", 0.5, seconds=20)
    run = cost(tmp_path)
    assert run.returncode == 1 and "has no finished job of CIM, CIM_VIB, SCL, VIB" in run.stderr


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_calls_on_files_are_counted_by_where_they_are(tmp_path):
    specification = importlib.util.spec_from_file_location("cluster_load", SCRIPT.with_name("cluster_load.py"))
    assert specification is not None and specification.loader is not None
    cluster_load = importlib.util.module_from_spec(specification)
    sys.modules["cluster_load"] = cluster_load  # where dataclasses look
    specification.loader.exec_module(cluster_load)
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "a.txt").touch()
    script = f"cat {folder}/a.txt {folder}/a.txt; mv {folder}/a.txt {folder}/b.txt; stat {Path(sys.prefix).resolve()}"
    calls = cluster_load.traced(["sh", "-c", script], folder)
    assert calls.on(r"a\.txt", "open") == 2
    assert calls.on(r"b\.txt", "rename") == 1
    assert calls.of_environment >= 1
    with pytest.raises(SystemExit, match="failed"):
        cluster_load.traced(["sh", "-c", "exit 3"], folder)
