"""Prints pip constraints that pin every dependency of pyproject.toml, extras included, to its lower bound.

`make test-lowest` installs these versions and runs the everyday tests with them. torch and torchvision are left out:
their wheels are large, and which one fits depends on the machine.
"""

from __future__ import annotations

import re
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
APART = ("torch", "torchvision")


def lower_bounds(text: str) -> dict[str, str]:
    """Name -> version of each `"name>=version"` in the text of a pyproject.toml, but for torch's."""
    bounds = dict(re.findall(r'"([A-Za-z0-9._-]+)>=([0-9.]+)', text))
    return {name: version for name, version in bounds.items() if name not in APART}


if __name__ == "__main__":
    for name, version in lower_bounds(PYPROJECT.read_text(encoding="utf-8")).items():
        print(f"{name}=={version}")
