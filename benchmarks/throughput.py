"""Jobs per hour of a sweep of short jobs: DomainBed with `local`, its own launcher, and with `pool`; the stand-in.

The jobs are those of ColoredMNIST: three test environments, ERM and CIM, 100 steps. MNIST is replaced by
scikit-learn's digits, enlarged and written in its format; both harnesses read the same files. DOMAINBED_ROOT names the
clone of the real one; without it only the stand-in is timed. Both run from the command to the end, imports included.
The last line is a limit for every harness: only the floating-point operations of the jobs' network, at this machine's
rate for matrix products. Small batches and few digits, --batch_size 8 --digits 700, show the overhead.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import timeit
from pathlib import Path

import numpy as np
import torch
from domainbed.datasets import ColoredMNIST
from domainbed.networks import MNIST_CNN
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from cim_dg.data.digits import enlarge, load_digits

TEST_SHARE = 7  # of MNIST's images one in seven is of the file t10k
ALGORITHMS = ["ERM", "CIM"]
JOBS = 3 * len(ALGORITHMS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch_size", type=int, default=64, help="of each domain; DomainBed draws 8 to 512")
    parser.add_argument("--digits", type=int, default=3500, help="all evaluated at each checkpoint; MNIST has 70,000")
    parser.add_argument("--repeats", type=int, default=2, help="the harnesses take turns; the best of each counts")
    arguments = parser.parse_args()
    root = os.environ.get("DOMAINBED_ROOT")
    kinds: dict[str, str | None] = {"DomainBed, local": root, "DomainBed, pool": root}
    if root is None:
        print("DOMAINBED_ROOT is not set: the real DomainBed is not timed.", file=sys.stderr)
        kinds.clear()
    kinds["stand-in, pool"] = None
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        write_mnist(Path(folder, "data"), arguments.digits)
        for repeat in range(arguments.repeats):
            for kind, where in kinds.items():
                launcher = ["--command_launcher", kind.split()[-1]]
                words = ["--steps", str(arguments.steps), "--hparams", json.dumps({"batch_size": arguments.batch_size})]
                seconds[kind].append(sweep(Path(folder), f"{kind}{repeat}", where, [*words, *launcher]))
    seconds["the operations alone"] = [arithmetic(arguments.steps, arguments.batch_size, arguments.digits)]
    title = f"{JOBS} jobs: {arguments.steps} steps of 2 x {arguments.batch_size} images, {arguments.digits} digits"
    table = Table("harness, launcher", "s", "jobs / hour", "ratio", title=title)
    first = min(next(iter(seconds.values())))
    for kind, durations in seconds.items():
        best = min(durations)
        table.add_row(kind, f"{best:.1f}", f"{JOBS * 3600 / best:.0f}", f"{first / best:.2f}")
    Console().print(table)


def arithmetic(steps: int, batch_size: int, digits: int) -> float:
    """Seconds that the jobs' operations would take on all cores, if they were products of large matrices.

    They are the convolutions' operations for training and for evaluating all images, without CIM's own.
    """
    network, image = MNIST_CNN((2, 28, 28)), torch.zeros(1, 2, 28, 28)
    with FlopCounterMode(display=False) as training:
        network(image).sum().backward()
    with FlopCounterMode(display=False) as evaluation, torch.no_grad():
        network(image)
    checkpoints = len({*range(0, steps, ColoredMNIST.CHECKPOINT_FREQ), steps - 1})
    operations = steps * 2 * batch_size * training.get_total_flops()
    operations += checkpoints * digits * evaluation.get_total_flops()
    durations = timeit.repeat("a @ a", globals={"a": torch.randn(2048, 2048)}, number=1, repeat=50)
    return JOBS * operations * min(durations) / (2 * 2048**3)


def sweep(folder: Path, name: str, root: str | None, words: list[str]) -> float:
    """The seconds of a sweep with these flags, in the clone `root`, or outside any."""
    output = folder / name.replace(", ", "-").replace(" ", "-")
    words = [*words, "--datasets", "ColoredMNIST", "--algorithms", *ALGORITHMS, "--n_hparams", "1", "--n_trials", "1"]
    words += ["--single_test_envs", "--data_dir", str(folder / "data")]
    words += ["--output_dir", str(output)]
    # DomainBed starts its jobs as `python`. PATH makes that the interpreter that runs this.
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
    elapsed = time.perf_counter() - start
    done = len(list(output.glob("*/done")))
    if done != JOBS:
        raise SystemExit(f"{done} of {JOBS} jobs of {name} are done; see {output}")
    return elapsed


def write_mnist(folder: Path, digits: int) -> None:
    """Write the given number of digits in MNIST's files in FOLDER/MNIST/raw."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    small, labels = load_digits()
    images = (255 * enlarge(small, side=28)).astype(np.uint8)
    rng = np.random.RandomState(0)
    for part, count in (("train", digits - digits // TEST_SHARE), ("t10k", digits // TEST_SHARE)):
        chosen = rng.randint(len(images), size=count)
        head = np.array([2051, count, 28, 28], dtype=">i4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + images[chosen].tobytes())
        head = np.array([2049, count], dtype=">i4").tobytes()
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(head + labels[chosen].astype(np.uint8).tobytes())


if __name__ == "__main__":
    main()
