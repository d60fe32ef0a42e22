"""The code that a result came from: versions and commit."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import cim_dg


def version_of(package: str) -> str | None:
    """The installed version of a package, without importing it; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def versions(packages: Sequence[str]) -> dict[str, str | None]:
    """The versions of Python, of cim-dg as it is imported, and of `packages`."""
    own = {"python": platform.python_version(), "cim-dg": cim_dg.__version__}
    return {**own, **{package: version_of(package) for package in packages}}


def commit(root: Path | None = None) -> str | None:
    """The commit of the checkout `root` (default: cim-dg's); None if it is not a checkout, or without git."""
    root = Path(cim_dg.__file__).resolve().parents[1] if root is None else root
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
