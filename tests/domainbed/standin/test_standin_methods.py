"""Methods that no published comparison has yet, through a sweep of NuisanceDigits and its table."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from domainbed import command_launchers
from domainbed.scripts import sweep, train

from cim_dg.results import build, render_text

METHODS = ["CCSA", "DCoDR", "TransformInvariance"]
JOBS = "--datasets NuisanceDigits --n_trials 1 --n_hparams 1 --steps 2 --single_test_envs --skip_confirmation"
HPARAMS = {"batch_size": 8, "nuisance_digits": 20, "average_copies": 2}


@pytest.mark.slow
def test_sweep_and_collect_with_feature_averaging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def here(commands: list[str]) -> None:
        """Run the jobs in this process, one after the other."""
        for words in map(shlex.split, commands):
            assert words[:3] == ["python", "-m", "domainbed.scripts.train"]
            assert train.main(words[3:]) == 0

    monkeypatch.setitem(command_launchers.REGISTRY, "here", here)
    flags = [*JOBS.split(), "--algorithms", *METHODS, "--hparams", json.dumps(HPARAMS)]
    flags += ["--output_dir", str(tmp_path), "--data_dir", "none", "--command_launcher", "here"]
    assert sweep.main(["launch", *flags]) == 0

    report = build.report([tmp_path], rules=["iid"])
    (table,) = report.tables
    assert table.columns == ["+90%", "+80%", "new", "Average"]
    rows = {row.method: row for row in table.rows if not row.published}
    assert list(rows) == METHODS
    assert all(0 <= cell.mean <= 100 for row in rows.values() for cell in row.cells.values())
    assert all(method in render_text.render(report.grids(), colour=False) for method in METHODS)

    jobs = list(tmp_path.glob("*/provenance.json"))
    assert len(jobs) == 9
    assert all(json.loads(job.read_text())["hparams"]["average_copies"] == 2 for job in jobs)
    result = json.loads((jobs[0].parent / "results.jsonl").read_text().splitlines()[0])
    assert (result["hparams"]["average_copies"], result["hparams"]["average_strength"]) == (2, 0.5)
