"""DomainBed's own unit tests, with the plugin active and our methods among those that they try."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from real_domainbed import OURS, RealDomainBed

pytestmark = [pytest.mark.harness, pytest.mark.slow]

MODULES = [
    "lib.test_misc",
    "lib.test_query",
    "test_hparams_registry",
    "test_model_selection",
    "test_models",
    "test_networks",
    "scripts.test_collect_results",
    "scripts.test_sweep",
]


def outcomes(
    real: RealDomainBed, folder: Path, added: list[str], only: set[str] | None = None, **environment: str
) -> dict[str, str]:
    """What became of each test, or of those in `only`; `added` are more algorithms for those that try each."""
    folder.mkdir()
    file, script = folder / "outcomes.json", Path(__file__).with_name("run_unit_tests.py")
    options = json.dumps({"algorithms": added, "only": sorted(only) if only is not None else None})
    modules = [f"domainbed.test.{name}" for name in MODULES]
    done = real.python(str(script), str(file), options, *modules, PYTHONPATH=str(real.root), **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text())


def failed(tests: dict[str, str]) -> set[str]:
    return {test for test, outcome in tests.items() if outcome == "failed"}


def test_they_fail_nowhere_that_they_did_not_fail_without_us(real: RealDomainBed, tmp_path: Path) -> None:
    # DATA_DIR has the test of sweep's command run, which reads no data.
    active = outcomes(real, tmp_path / "active", OURS, DATA_DIR=os.devnull)
    for name in OURS:
        ours = {test: outcome for test, outcome in active.items() if f"algorithm_name='{name}'" in test}
        for module in ("test_hparams_registry", "test_models"):
            assert any(module in test for test in ours), module
        assert set(ours.values()) == {"ok"}
    if failed(active):
        without = outcomes(real, tmp_path / "without", [], only=failed(active), CIM_DG_AUTOLOAD="0")
        assert failed(without) == failed(active)
