"""What a large sweep asks of a cluster's shared disk, from the system calls of real jobs on this machine.

    python docs/cluster_load.py [--jobs 10000] [--gpus 64] [--hours 1] [--node 8]

Runs three short jobs of the stand-in, a sweep of three by submitit's local executor, and what looks at their folders,
all under strace(1), and counts the calls on files: on those of the sweep's folder, and on those of the Python
environment, which on most clusters is on a shared disk too. Of a call on a file that NFS has cached the server sees
nothing, so that these numbers are upper bounds. Writes a checkpoint of a ResNet-50 with Adam's state, too. Prints the
table of docs/clusters.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

import cim_dg
from cim_dg.runtime import checkpoint, settings

CALLS = "trace=%file,getdents64,flock,fsync,fchmod"
ENVIRONMENT = {Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve(), *map(Path, cim_dg.__path__)}
STEPS = 31
SHORT = ["--steps", str(STEPS), "--hparams", json.dumps({"batch_size": 8, "nuisance_digits": 30})]
RESNET_50 = 23_508_032
"""Weights of ResNet-50 without its classifier."""
RECORDS = 18
"""Of a job of 5001 steps on VLCS."""


@dataclass(frozen=True)
class Calls:
    """The calls of a command on files of a folder: each call's name and the files that it names."""

    of_folder: list[tuple[str, str]]
    of_environment: int
    seconds: float

    def on(self, pattern: str, call: str = "") -> int:
        """How many name a file of that pattern."""
        return sum(bool(re.search(pattern, files)) and call in name for name, files in self.of_folder)


def traced(command: list[str], folder: Path, **variables: str) -> Calls:
    """Run a command, which must succeed, and count."""
    with tempfile.TemporaryDirectory() as place:
        trace = Path(place, "trace")
        words = ["strace", "-f", "-qq", "-y", "-s", "4096", "-e", CALLS, "-o", str(trace), *command]
        start = time.monotonic()
        done = subprocess.run(words, env=os.environ | variables, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{command} failed:\n{done.stderr}")
        of_folder, environment = [], 0
        for line in trace.read_text(errors="replace").splitlines():
            if (found := re.match(r"\d+ +(\w+)\((.*)", line)) is None:  # a signal, or the end of a call
                continue
            if str(folder) in found[2]:
                of_folder.append((found[1], found[2]))
            elif any(str(path) in found[2] for path in ENVIRONMENT):
                environment += 1
        return Calls(of_folder, environment, time.monotonic() - start)


def seconds_of(run: Callable[[], None]) -> float:
    """How long a call takes."""
    start = time.monotonic()
    run()
    return time.monotonic() - start


def files_of(folder: Path) -> list[Path]:
    """The files in a folder and below."""
    return [path for path in folder.rglob("*") if path.is_file()]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--hours", type=float, default=1.0, help="of a job")
    parser.add_argument("--node", type=int, default=8, help="GPUs of a node")
    given = parser.parse_args()
    if shutil.which("strace") is None:
        raise SystemExit("this needs strace: apt-get install strace")
    python = [sys.executable, "-m"]
    cim_dg_command = [*python, "cim_dg.cli"]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place).resolve()
        train = [*python, "domainbed.scripts.train", "--dataset", "NuisanceDigits", "--algorithm", "ERM", *SHORT]

        def trained(name: str, *words: str, checkpoints: str = "3600") -> Calls:
            output = [*words, "--output_dir", str(folder / name)]
            return traced([*train, *output], folder / name, CIM_DG_CHECKPOINT_SECONDS=checkpoints)

        # The differences to a job with two records and no checkpoint are what each costs.
        job = trained("job")
        more, resumable = trained("more", "--checkpoint_freq", "3"), trained("resumable", checkpoints="0")
        kept = len(files_of(folder / "job"))
        small = sum(path.stat().st_size for path in files_of(folder / "job") if path.name != "model.pkl")
        lines = (folder / "job" / "results.jsonl").read_text().splitlines()
        small += (RECORDS - len(lines)) * len(lines[-1])
        records = len((folder / "more" / "results.jsonl").read_text().splitlines()) - len(lines)
        per_record = (len(more.of_folder) - len(job.of_folder)) / records
        checkpoints = resumable.on(r"checkpoint\.pt\.\w+", "rename")
        per_checkpoint = (len(resumable.of_folder) - len(job.of_folder)) / checkpoints
        others = round(len(job.of_folder) - len(lines) * per_record)

        (folder / "sweep.yaml").write_text(
            "{title: three jobs, harness: domainbed, datasets: [NuisanceDigits], algorithms: [ERM], n_trials: 1, "
            f"selection: iid, data: [], table: digits, steps: {STEPS}, "
            "hparams: {batch_size: 8, nuisance_digits: 30}, command_launcher: slurm}"
        )
        sweep = [*cim_dg_command, "sweep", str(folder / "sweep.yaml"), "--output_dir", str(folder / "jobs")]
        traced([*sweep, "--skip_confirmation"], folder / "jobs", CIM_DG_SLURM_CLUSTER="local")
        deadline = time.monotonic() + 600
        while len(list((folder / "jobs").glob("*/done"))) < 3 and time.monotonic() < deadline:
            time.sleep(1)
        time.sleep(5)  # submitit writes the result of a task after its job is done
        per_task = len(files_of(folder / "jobs" / "submitit")) / 3
        again = traced([*sweep, "--dry_run"], folder / "jobs")
        status = traced([*cim_dg_command, "status", str(folder / "jobs")], folder / "jobs")

        state = {name: torch.rand(RESNET_50) for name in ("weights", "mean", "square")}
        writing = min(seconds_of(lambda: checkpoint.save(folder / "large.pt", state)) for _ in range(3))
        large = (folder / "large.pt").stat().st_size

    jobs, gpus, seconds = given.jobs, given.gpus, given.hours * 3600
    interval = max(settings.get("CIM_DG_CHECKPOINT_SECONDS"), 20 * writing)
    rows = [
        ("files that a job leaves, in a folder of its own", f"{kept}", f"{jobs * kept:,} and {jobs:,} folders"),
        ("the same without the model", f"{small / 1e3:.0f} kB", f"{jobs * small / 1e9:.2f} GB"),
        (
            "models of a ResNet-50 (none with `--skip_model_save`)",
            f"{large / 3e6:.0f} MB",
            f"{jobs * large / 3e9:,.0f} GB",
        ),
        ("checkpoint of a running one, with Adam's state", f"{large / 1e6:.0f} MB", f"{gpus * large / 1e9:.1f} GB"),
        ("submitit's files of a task, for a week", f"{per_task:.0f}", f"{jobs * per_task:,.0f}"),
        ("the same with `CIM_DG_SLURM_JOBS=16`", "", f"{jobs / 16 * per_task:,.0f}"),
        ("locks held, while it runs", "1", f"{gpus} (with Ray one more, of the launcher)"),
        ("calls on the job's folder, start to end", f"{others}", f"{gpus * others / seconds:.2f} a second"),
        (
            f"calls on it for a record with its logits, of which it has {RECORDS}",
            f"{per_record:.0f}",
            f"{gpus * RECORDS * per_record / seconds:.2f} a second",
        ),
        (
            f"calls on it for a checkpoint, every {interval:.0f} s",
            f"{per_checkpoint:.0f}",
            f"{gpus * per_checkpoint / interval:.1f} a second",
        ),
        ("bytes for it", "", f"{gpus * large / interval / 1e6:.0f} MB a second"),
        (
            "calls on the environment when a process starts",
            f"{job.of_environment:,}",
            f"{gpus * job.of_environment:,} when {gpus} start at once, then "
            f"{gpus * job.of_environment / seconds:.0f} a second",
        ),
        (
            "the same, warm processes of `CIM_DG_SLURM_JOBS=16`",
            f"{job.of_environment / 16:,.0f}",
            f"{gpus * job.of_environment / 16 / seconds:.1f} a second",
        ),
        (
            "calls of `cim-dg sweep`, planning",
            f"{len(again.of_folder) / 3:.0f}",
            f"{jobs * len(again.of_folder) // 3:,}",
        ),
        ("calls of `cim-dg status`", f"{len(status.of_folder) / 3:.0f}", f"{jobs * len(status.of_folder) // 3:,}"),
    ]
    table = [f"| | a job | {jobs:,} jobs of {given.hours:g} h on {gpus} GPUs |", "|---|---|---|"]
    table += [f"| {what} | {each} | {all_} |" for what, each, all_ in rows]
    lost = interval / 2 * given.node
    table += [
        f"| a dead node of {given.node} GPUs, GPU seconds computed twice: the stand-in, WILDS | {interval / 2:.0f} on "
        f"average | {lost:.0f} |",
        f"| the same, a real DomainBed | {seconds / 2:.0f} on average | {seconds / 2 * given.node:.0f} |",
    ]
    Console(width=200, highlight=False).print("\n".join(table), markup=False)
    took = f"{writing:.1f} s here, at best; under strace the job took {job.seconds:.0f} s"
    print(f"(a checkpoint of {large / 1e6:.0f} MB took {took})")


if __name__ == "__main__":
    main()
