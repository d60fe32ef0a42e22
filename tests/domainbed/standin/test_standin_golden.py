"""golden/ holds the results of the real DomainBed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from golden_checks import check_batches, check_first_loss, check_hparams, check_network, check_run
from standin_samples import GOLDEN, RUNS


@pytest.mark.harness
@pytest.mark.slow
def test_golden_files_are_what_the_real_one_gives(domainbed_root: Path, tmp_path: Path, golden: dict[str, Any]) -> None:
    script = Path(__file__).with_name("make_golden.py")
    subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env={**os.environ, "DOMAINBED_ROOT": str(domainbed_root)},
        check=True,
    )
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(file.name for file in GOLDEN.iterdir())
    for file in GOLDEN.iterdir():
        if file.suffix != ".json":
            assert (tmp_path / file.name).read_text() == file.read_text(), file.name
    fresh = json.loads((tmp_path / "protocol.json").read_text())
    assert fresh.keys() == golden.keys()
    assert fresh["splits"] == golden["splits"]
    assert fresh["random_after"] == golden["random_after"]
    check_hparams(fresh["hparams"], golden["hparams"])
    check_network(fresh, golden)
    check_batches([fresh["images"], fresh["batches"]], [golden["images"], golden["batches"]])
    for name in RUNS:
        run = fresh["runs"][name]
        check_run(run["records"], golden["runs"][name])
        check_first_loss([{"loss": run["first_loss"]}], golden["runs"][name])
