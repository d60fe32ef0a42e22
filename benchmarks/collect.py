"""The time of `cim-dg collect` on 3,000 jobs of 17 lines, compared with DomainBed's own collect_results on the same
folder.

Whole processes run in turn on the same machine; their ratio is the result. DOMAINBED_ROOT names a checkout of the real
DomainBed; without it only our own time is measured.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ALGORITHMS = ("ERM", "VIB", "SCL", "CIM", "CIM_VIB")
TRIALS, HPARAMS_SEEDS = 3, 20
TEST_ENVS = [[i] for i in range(4)] + [[i, j] for i in range(4) for j in range(i + 1, 4)]
STEPS = [*range(0, 4801, 300)]  # 17 checkpoints
ROUNDS = 3
LIMIT = 1 / 5


def main() -> int:
    """Print both times and their ratio; 1 if that of the processor's time is above a fifth."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = write_sweep(Path(folder))
        print(f"{jobs} jobs of {len(STEPS)} lines")
        ours = [sys.executable, "-m", "cim_dg.cli", "collect", folder]
        here = Path(__file__).resolve().parents[1]
        root = os.environ.get("DOMAINBED_ROOT")
        if not root:
            print(f"cim-dg collect: {min(seconds(ours, here) for _ in range(ROUNDS))[0]:.2f} s")
            print("DomainBed's collect_results: not measured (set DOMAINBED_ROOT to a checkout of it)")
            return 0
        theirs = [sys.executable, "-m", "domainbed.scripts.collect_results", "--input_dir", folder]
        rounds = [(seconds(ours, here), seconds(theirs, Path(root))) for _ in range(ROUNDS)]
        (mine, mine_cpu), (upstream, upstream_cpu) = (
            tuple(min(values) for values in zip(*times, strict=True)) for times in zip(*rounds, strict=True)
        )
        print(f"cim-dg collect: {mine:.2f} s ({mine_cpu:.2f} s of CPU)")
        print(f"DomainBed's collect_results: {upstream:.2f} s ({upstream_cpu:.2f} s of CPU)")
        print(f"ratio: {mine / upstream:.3f} ({mine_cpu / upstream_cpu:.3f} of CPU, at most {LIMIT:.3f} is wanted)")
        return int(mine_cpu > LIMIT * upstream_cpu)


def write_sweep(root: Path) -> int:
    """Write a VLCS sweep in DomainBed's form, with random accuracies; returns the number of jobs."""
    rng = random.Random(0)
    for algorithm in ALGORITHMS:
        for trial in range(TRIALS):
            for test_envs in TEST_ENVS:
                for seed in range(HPARAMS_SEEDS):
                    write_job(root, rng, algorithm, trial, test_envs, seed)
    return len(ALGORITHMS) * TRIALS * len(TEST_ENVS) * HPARAMS_SEEDS


def write_job(root: Path, rng: random.Random, algorithm: str, trial: int, test_envs: list[int], seed: int) -> None:
    """One job's folder, with the keys and the size of DomainBed's lines."""
    key = f"{algorithm} {trial} {test_envs} {seed}"
    folder = root / hashlib.md5(key.encode()).hexdigest()
    folder.mkdir()
    args = {
        **{"algorithm": algorithm, "checkpoint_freq": None, "data_dir": "/data/domainbed", "dataset": "VLCS"},
        **{"holdout_fraction": 0.2, "hparams": None, "hparams_seed": seed, "output_dir": str(folder)},
        **{"save_model_every_checkpoint": False, "seed": rng.randrange(2**31), "skip_model_save": False},
        **{"steps": None, "task": "domain_generalization", "test_envs": test_envs, "trial_seed": trial},
        "uda_holdout_fraction": 0,
    }
    hparams = {
        **{"batch_size": 32, "class_balanced": False, "data_augmentation": True, "dinov2": False, "freeze_bn": False},
        **{"lars": False, "linear_steps": 500, "lr": rng.random(), "nonlinear_classifier": False, "resnet18": False},
        **{"resnet50_augmix": True, "resnet_dropout": 0.0, "vit": False, "vit_attn_tune": False, "vit_dropout": 0.0},
        "weight_decay": rng.random(),
    }
    lines = []
    for step in STEPS:
        values = {f"env{env}_{split}_acc": rng.random() for env in range(4) for split in ("in", "out")}
        values |= {"epoch": step / 10, "loss": rng.random(), "mem_gb": 1.5, "step_time": rng.random()}
        lines.append(json.dumps({**values, "step": step, "args": args, "hparams": hparams}, sort_keys=True) + "\n")
    (folder / "results.jsonl").write_text("".join(lines))
    (folder / "done").write_text("done")


def seconds(command: list[str], folder: Path) -> tuple[float, float]:
    """Wall and CPU time of a command; its output is discarded."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    raise SystemExit(main())
