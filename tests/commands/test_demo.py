from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_demo_shows_its_tables_and_pictures_and_does_nothing_twice(tmp_path):
    """Through the real commands, with two steps a job: 15 jobs of DomainBed's sweep, two short runs of WILDS."""
    code = "import sys; from cim_dg import autoload, cli; autoload.install(); sys.exit(cli.main(sys.argv[1:]))"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def demo():
        command = [sys.executable, "-c", code, "demo", "--output_dir", "demo", "--n_trials", "1", "--steps", "2"]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    first = demo()
    assert first.returncode == 0, first.stderr
    for word in ("ERM", "VIB", "SCL", "CIM", "CIM_VIB", "+90%", "new", "stand-in", "worst"):
        assert word in first.stdout, word
    picture = tmp_path / "demo" / "morph.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"demo{os.sep}report.html" in first.stdout
    assert "<!doctype html>" in (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert "Folders" not in first.stderr
    audit = [sys.executable, "-c", code, "audit", "demo", "--strict"]
    done = subprocess.run(audit, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    clean, note = done.stdout.split("\n\n")
    assert (done.returncode, clean) == (0, "Nothing unfair was found.") and "trials 0 of CIM, CIM_VIB" in note
    jobs = {path: path.stat().st_mtime for path in (tmp_path / "demo").rglob("done")}
    assert len(jobs) == 15
    again = demo()
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout
    assert {path: path.stat().st_mtime for path in (tmp_path / "demo").rglob("done")} == jobs
