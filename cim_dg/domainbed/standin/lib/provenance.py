"""What made a run: written beside its results, so that a figure can be traced to code, versions, seeds and device."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

import cim_dg
from cim_dg.files import write_atomically

HARNESS = "domainbed-standin"


def write(
    folder: str | Path, args: Namespace, hparams: dict[str, Any], algorithm: torch.nn.Module, device: str
) -> None:
    """Write FOLDER/provenance.json."""
    record = {
        "harness": HARNESS,
        "command": sys.orig_argv,
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": {
            "cim_dg": cim_dg.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{name: version_of(name) for name in ("torchvision", "numpy")},
        },
        "git_commit": git_commit(),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "threads": torch.get_num_threads(),
        "seeds": {name: vars(args)[name] for name in ("seed", "trial_seed", "hparams_seed")},
        "args": vars(args),
        "hparams": hparams,
        "weights": _weights(algorithm, hparams),
    }
    write_atomically(Path(folder, "provenance.json"), json.dumps(record, indent=2, sort_keys=True) + "\n")


def _weights(algorithm: torch.nn.Module, hparams: dict[str, Any]) -> str | None:
    """What the featurizer started from, which a ResNet has in `weights` (its default is none of the hparams)."""
    names = (vars(module).get("weights") for module in algorithm.modules())
    return next((name for name in names if isinstance(name, str)), hparams.get("weights"))


def version_of(package: str) -> str | None:
    """The installed version of a package, without importing it; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """The commit of the checkout that cim_dg is imported from; None if it is no checkout, or git is not there."""
    root = Path(cim_dg.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        return subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
