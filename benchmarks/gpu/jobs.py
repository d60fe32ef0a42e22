"""Jobs of the stand-in on NuisanceDigits, which needs no data: what `packing` and `resume` run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ALGORITHM, TEST_ENV = "CIM", "2"


def train_arguments(folder: Path, steps: int, checkpoint_freq: int, small: bool, seed: int = 0) -> list[str]:
    """The arguments of `domainbed.scripts.train` for a job in `folder`."""
    words = ["--algorithm", ALGORITHM, "--dataset", "NuisanceDigits", "--test_envs", TEST_ENV]
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
