"""Jobs of the stand-in that need no data: what `packing` and `resume` run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ALGORITHM, DATASET = "CIM", "NuisanceDigits"


def train_arguments(folder: Path, steps: int, checkpoint_freq: int, small: bool = False, seed: int = 0) -> list[str]:
    """The arguments of `domainbed.scripts.train` for a job in `folder`; `small` is of few images of noise."""
    words = ["--algorithm", ALGORITHM, "--dataset", "Debug28" if small else DATASET, "--test_envs", "2"]
    words += ["--steps", str(steps), "--checkpoint_freq", str(checkpoint_freq), "--seed", str(seed)]
    words += ["--output_dir", str(folder), "--data_dir", str(folder.parent), "--skip_model_save"]
    return [*words, "--hparams", json.dumps({"batch_size": 4 if small else 32})]


def records(folder: Path) -> list[Mapping[str, Any]]:
    """The records of a job's results.jsonl; none if there is no such file yet. A line that is being written is left
    out."""
    try:
        lines = (folder / "results.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]
