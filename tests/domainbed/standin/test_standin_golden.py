"""golden/ is what a real DomainBed gives today."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from standin_samples import GOLDEN


@pytest.mark.harness
@pytest.mark.slow
def test_golden_files_are_what_the_real_one_gives(domainbed_root: Path, tmp_path: Path) -> None:
    script = Path(__file__).with_name("make_golden.py")
    subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env={**os.environ, "DOMAINBED_ROOT": str(domainbed_root)},
        check=True,
    )
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(file.name for file in GOLDEN.iterdir())
    for file in GOLDEN.iterdir():
        fresh = (tmp_path / file.name).read_text()
        if file.suffix != ".json":
            assert fresh == file.read_text(), file.name
        else:
            assert dict(_leaves(json.loads(fresh))) == pytest.approx(
                dict(_leaves(json.loads(file.read_text()))), abs=1e-5
            )


def _leaves(nested: Any, place: str = "") -> list[tuple[str, Any]]:
    if not isinstance(nested, (dict, list)):
        return [(place, nested)]
    parts = nested.items() if isinstance(nested, dict) else enumerate(nested)
    return [leaf for name, part in parts for leaf in _leaves(part, f"{place}/{name}")]
