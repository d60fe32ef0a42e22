"""provenance.json, next to a run's results: it traces a figure to the code, versions, seeds and device."""

from __future__ import annotations

import datetime
import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from cim_dg.data import fingerprint
from cim_dg.runtime.files import write_atomically
from cim_dg.runtime.provenance import commit, versions

from .results import identity

NAME = "provenance.json"
HARNESS = "domainbed-standin"


def write(
    folder: str | Path, args: Namespace, hparams: dict[str, Any], algorithm: torch.nn.Module, device: str
) -> None:
    """Write FOLDER/provenance.json."""
    record = {
        "harness": HARNESS,
        "command": sys.orig_argv,
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(("torch", "torchvision", "numpy")),
        "git_commit": commit(),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "threads": torch.get_num_threads(),
        "seeds": {name: vars(args)[name] for name in ("seed", "trial_seed", "hparams_seed")},
        "args": vars(args),
        "data": fingerprint.record("domainbed", args.dataset, args.data_dir),
        "hparams": hparams,
        "weights": _weights(algorithm, hparams),
    }
    write_atomically(Path(folder, NAME), json.dumps(record, indent=2, sort_keys=True) + "\n")


def args_of(folder: str | Path) -> dict[str, Any] | None:
    """The `identity` of the job that FOLDER/provenance.json describes; None if it cannot be read."""
    try:
        return identity(Namespace(**json.loads(Path(folder, NAME).read_text(encoding="utf-8"))["args"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _weights(algorithm: torch.nn.Module, hparams: dict[str, Any]) -> str | None:
    """The featurizer's initial weights. A ResNet names them in `weights`; hparams name them if given."""
    names = (vars(module).get("weights") for module in algorithm.modules())
    return next((name for name in names if isinstance(name, str)), hparams.get("weights"))
