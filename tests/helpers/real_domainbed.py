"""How the tests run commands in a clone of DomainBed, and the small data that they run on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

OURS = ["CIM", "CIM_VIB", "SCL", "VIB", "CCSA", "DCoDR", "TransformInvariance"]
CLASSES = ("bird", "car")
ENVIRONMENTS = {
    "VLCS": ["Caltech101", "LabelMe", "SUN09", "VOC2007"],
    "PACS": ["art_painting", "cartoon", "photo", "sketch"],
    "VLCSMini": ["C", "L", "S"],
}


@dataclass(frozen=True)
class RealDomainBed:
    """A clone of DomainBed, in which commands run as its users type them: in it, with `python` on PATH."""

    root: Path

    def python(
        self, *command: str, cwd: Path | str | None = None, answer: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run this Python; the caller looks at the exit code."""
        ours = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # sweep's jobs look there
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONWARNINGS": "ignore",
        }
        return subprocess.run(
            [sys.executable, *command],
            cwd=cwd or self.root,
            env=os.environ | ours | environment,
            input=answer,
            capture_output=True,
            text=True,
            check=False,
        )

    def script(self, name: str, *flags: str, **options: Any) -> str:
        """What `python -m domainbed.scripts.NAME` prints, which must succeed."""
        done = self.python("-m", f"domainbed.scripts.{name}", *flags, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def trains(self, *runs: list[str]) -> None:
        """Several runs of `train` in one interpreter, which saves start-ups (see `run_trains.py`)."""
        done = self.python(str(Path(__file__).with_name("run_trains.py")), json.dumps(runs), PYTHONPATH=str(self.root))
        assert done.returncode == 0, done.stderr


def train_flags(algorithm: str, dataset: str, out: Path, data: Path, steps: int = 2, **hparams: Any) -> list[str]:
    """Flags of `train`, with a batch of 8 images per environment unless `hparams` say otherwise."""
    flags = f"--algorithm {algorithm} --dataset {dataset} --steps {steps} --data_dir {data} --output_dir {out}"
    return [*flags.split(), "--hparams", json.dumps({"batch_size": 8} | hparams)]


def results_of(folder: Path) -> list[dict[str, Any]]:
    """The checkpoints of a finished run."""
    assert (folder / "done").exists()
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def write_photographs(folder: Path, dataset: str, classes: tuple[str, ...] = CLASSES, count: int = 4) -> None:
    """DATASET as DomainBed's image folders: `count` JPEGs of noise per environment and class, of 48x40."""
    rng = np.random.RandomState(0)
    for environment in ENVIRONMENTS[dataset]:
        for name in classes:
            place = folder / dataset / environment / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = rng.randint(256, size=(5, 6, 3)).astype(np.uint8)
                Image.fromarray(pixels).resize((48, 40)).save(place / f"{number}.jpg")
