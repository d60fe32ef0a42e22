"""Clones of forks of DomainBed and of its old commits, in which the tests and docs/forks.py run commands."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HELPERS = Path(__file__).parent
METHODS = ["CIM", "CIM_VIB", "SCL", "VIB"]
SWAD_NEEDS = ["sconf", "prettytable", "tensorboardX"]
DIGITS = {"batch_size": 8, "nuisance_digits": 50}
OLD_COMMITS = {"2020": "8be09ef", "2021": "4f4e6a7", "2022": "51810e6", "2023": "0447aff"}
"""A commit of DomainBed of each year."""


def python_without_gpu(
    folder: Path, *command: str, on_path: str = "", answer: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run this Python in a folder as on a machine whose tensors on a GPU stay on the CPU, with `on_path` to import."""
    shim = str(HELPERS / "without_gpu")
    ours = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # a sweep's jobs look there
        "PYTHONPATH": os.pathsep.join([shim, on_path] if on_path else [shim]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | ours | environment,
        input=answer,
        capture_output=True,
        text=True,
        check=False,
    )


@dataclass(frozen=True)
class Clone:
    """A clone of our own of somebody's clone, at a commit."""

    root: Path

    @classmethod
    def of(cls, source: str | Path, target: Path, commit: str | None = None) -> Clone:
        """Clone SOURCE, of which nothing changes, into the new folder TARGET."""
        git = ["git", "-c", "advice.detachedHead=false"]
        subprocess.run([*git, "clone", "-q", "--no-checkout", str(source), str(target)], check=True)
        subprocess.run([*git, "-C", str(target), "checkout", "-q", commit or "HEAD"], check=True)
        return cls(target)

    @property
    def swad_family(self) -> bool:
        """Whether it is of SWAD's form."""
        return (self.root / "train_all.py").exists()

    def missing(self) -> list[str]:
        """Requirements of the clone's own that are not installed."""
        if not self.swad_family:
            return []
        clip = "CLIP" in (self.root / "requirements.txt").read_text()
        return [name for name in [*SWAD_NEEDS, *["clip"] * clip] if importlib.util.find_spec(name) is None]

    def git(self, *command: str) -> str:
        """What git says about the clone."""
        done = subprocess.run(["git", "-C", str(self.root), *command], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def python(self, *command: str, answer: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """Run this Python in the clone, without a GPU; the caller looks at the exit code."""
        # SWAD asserts that there is a GPU.
        return python_without_gpu(self.root, *command, answer=answer, PYTHONOPTIMIZE="1", **environment)

    def facts(self, *runs: list[str], **environment: str) -> list[dict[str, Any]]:
        """What became of each of several runs in one interpreter; see `run_fork.py`."""
        done = self.python(str(HELPERS / "run_fork.py"), json.dumps(runs), **environment)
        facts = [json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("fact ")]
        if len(facts) < len(runs):
            raise RuntimeError(done.stderr[-3000:])
        return facts

    def runs(self, *runs: list[str], **environment: str) -> list[dict[str, Any]]:
        """The same for runs that must all succeed."""
        facts = self.facts(*runs, **environment)
        assert not [fact for fact in facts if "error" in fact], facts
        return facts


def swad_flags(algorithm: str, dataset: str, data: Path, *more: str) -> list[str]:
    """Flags of `train_all.py` for four steps with an evaluation after each, as an average needs."""
    fixed = "--steps 3 --checkpoint_freq 1 --batch_size 8 --model_save 1 --swad LossValley"
    return ["short", "--algorithm", algorithm, "--dataset", dataset, "--data_dir", str(data), *fixed.split(), *more]


def train_flags(algorithm: str, out: Path, dataset: str = "Debug28", *more: str, **hparams: Any) -> list[str]:
    """Flags of `domainbed.scripts.train` for two steps with an evaluation after each."""
    flags = (
        f"--algorithm {algorithm} --dataset {dataset} --steps 2 --checkpoint_freq 1 --data_dir data --output_dir {out}"
    )
    return [*flags.split(), "--hparams", json.dumps(hparams or {"batch_size": 8}), *more]


def records(path: Path) -> list[dict[str, Any]]:
    """The lines of a results.jsonl, without what depends on the machine and on the folder."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if not k.endswith("_time") and k not in ("args", "mem_gb")} for line in lines
    ]
