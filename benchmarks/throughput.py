"""Jobs per hour of a sweep of short jobs: DomainBed with its launcher `local` against the stand-in with `pool`.

The jobs are those of ColoredMNIST: three test environments, ERM and CIM, 100 steps. MNIST's place is taken by
scikit-learn's digits, enlarged and written in its format; both harnesses read the same files. DOMAINBED_ROOT names the
clone of the real one; without it only the stand-in is timed. Both run from the command to the end, imports included.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from cim_dg.digits import enlarge, load_digits

COUNTS = {"train": 3000, "t10k": 500}
ALGORITHMS = ["ERM", "CIM"]
JOBS = 3 * len(ALGORITHMS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=2, help="the harnesses take turns; the best of each counts")
    arguments = parser.parse_args()
    root = os.environ.get("DOMAINBED_ROOT")
    kinds = {"DomainBed, local": root, "stand-in, pool": None}
    if root is None:
        print("DOMAINBED_ROOT is not set: the real DomainBed is not timed.", file=sys.stderr)
        del kinds["DomainBed, local"]
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        write_mnist(Path(folder, "data"))
        for repeat in range(arguments.repeats):
            for kind, where in kinds.items():
                seconds[kind].append(sweep(Path(folder), f"{kind}{repeat}", where, arguments.steps))
    table = Table("harness, launcher", "s", "jobs / hour", "ratio", title=f"{JOBS} jobs of {arguments.steps} steps")
    first = min(next(iter(seconds.values())))
    for kind, taken in seconds.items():
        best = min(taken)
        table.add_row(kind, f"{best:.1f}", f"{JOBS * 3600 / best:.0f}", f"{first / best:.2f}")
    Console().print(table)


def sweep(folder: Path, name: str, root: str | None, steps: int) -> float:
    """Seconds that a sweep takes, in the clone `root`, or outside any."""
    output = folder / name.replace(", ", "-").replace(" ", "-")
    words = ["--datasets", "ColoredMNIST", "--algorithms", *ALGORITHMS, "--n_hparams", "1", "--n_trials", "1"]
    words += ["--single_test_envs", "--steps", str(steps), "--data_dir", str(folder / "data")]
    words += ["--output_dir", str(output), "--command_launcher", "pool" if root is None else "local"]
    # DomainBed starts its jobs as `python`: that is to be the one that runs this.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "domainbed.scripts.sweep", "launch", *words, "--skip_confirmation"],
        cwd=root or folder,
        env=os.environ | {"PATH": path, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    taken = time.perf_counter() - start
    done = len(list(output.glob("*/done")))
    if done != JOBS:
        raise SystemExit(f"{done} of {JOBS} jobs of {name} are done; see {output}")
    return taken


def write_mnist(folder: Path) -> None:
    """Digits in the files of MNIST: FOLDER/MNIST/raw."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    small, labels = load_digits()
    images = (255 * enlarge(small, side=28)).astype(np.uint8)
    rng = np.random.RandomState(0)
    for part, count in COUNTS.items():
        chosen = rng.randint(len(images), size=count)
        head = np.array([2051, count, 28, 28], dtype=">i4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + images[chosen].tobytes())
        head = np.array([2049, count], dtype=">i4").tobytes()
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(head + labels[chosen].astype(np.uint8).tobytes())


if __name__ == "__main__":
    main()
