"""docs/cluster_load.py counts what a job asks of the file system."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "docs" / "cluster_load.py"


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_calls_on_files_are_counted_by_where_they_are(tmp_path):
    specification = importlib.util.spec_from_file_location("cluster_load", SCRIPT)
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
