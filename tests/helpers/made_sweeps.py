"""Sweep folders as DomainBed leaves them, with made-up accuracies, and a reader of what its collect_results prints.

Accuracies are functions of the arguments alone, so that the golden files stay true: they are what DomainBed's own
collect_results printed for these folders (test_golden.py says how to make them again).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def uniform(*key: object) -> float:
    """A number in [0, 1) that depends on `key` alone, on any machine."""
    return int(hashlib.sha256(repr(key).encode()).hexdigest()[:12], 16) / 16**12


def write_job(
    folder: Path, args: dict[str, Any], records: Iterable[dict[str, Any]], done: bool = True, **more_hparams: Any
) -> Path:
    """A job folder: a line for each record, with `args` and hparams, as DomainBed's train writes them."""
    folder.mkdir(parents=True)
    hparams = {"lr": 1e-3 * (1 + args["hparams_seed"]), "batch_size": 32, "resnet18": True} | more_hparams
    lines = [json.dumps({**record, "args": args, "hparams": hparams}, sort_keys=True) + "\n" for record in records]
    (folder / "results.jsonl").write_text("".join(lines))
    if done:
        (folder / "done").write_text("done")
    return folder


def job_args(
    dataset: str, algorithm: str, test_envs: Sequence[int], trial: int, hparams_seed: int = 0
) -> dict[str, Any]:
    """The arguments that a job's records repeat."""
    return {
        "dataset": dataset,
        "algorithm": algorithm,
        "test_envs": list(test_envs),
        "trial_seed": trial,
        "hparams_seed": hparams_seed,
        "holdout_fraction": 0.2,
        "steps": None,
        "task": "domain_generalization",
        "hparams": None,
        "data_dir": "data",
        "output_dir": "out",
    }


def record(step: int, accuracies: Sequence[float], **values: float) -> dict[str, Any]:
    """One checkpoint: accuracies in the order env0_in, env0_out, env1_in, ..."""
    named = {f"env{place // 2}_{('in', 'out')[place % 2]}_acc": value for place, value in enumerate(accuracies)}
    return {"step": step, "epoch": step / 10, "loss": 1.0, "step_time": 0.1, "mem_gb": 0.0, **named, **values}


def write_sweep(
    root: Path,
    dataset: str,
    n_envs: int,
    algorithms: Sequence[str] = ("ERM", "CIM"),
    trials: int = 3,
    hparams_seeds: int = 3,
    steps: Sequence[int] = (0, 100, 200),
    pairs: bool = True,
    levels: int | None = None,
    keep: float = 1.0,
) -> None:
    """A sweep's folders. `levels` makes accuracies multiples of 1/levels: ties; `keep` below 1 drops jobs."""
    envs = [[one] for one in range(n_envs)]
    if pairs:
        envs += [[one, two] for one in range(n_envs) for two in range(one + 1, n_envs)]
    for algorithm in algorithms:
        for trial in range(trials):
            for test_envs in envs:
                for seed in range(hparams_seeds):
                    key = (dataset, algorithm, test_envs, trial, seed)
                    if uniform("keep", key) >= keep:
                        continue
                    records = [
                        record(step, [_accuracy(levels, key, step, place) for place in range(2 * n_envs)])
                        for step in steps
                    ]
                    name = hashlib.md5(repr(key).encode()).hexdigest()
                    write_job(root / name, job_args(dataset, algorithm, test_envs, trial, seed), records)


def _accuracy(levels: int | None, *key: object) -> float:
    value = 0.5 + uniform(key) / 2
    return value if levels is None else round(value * levels) / levels


def parse_tables(text: str) -> dict[tuple[str, str], dict[str, list[str]]]:
    """What collect_results printed: (data set or 'Averages', rule) -> algorithm -> its cells."""
    tables: dict[tuple[str, str], dict[str, list[str]]] = {}
    rows: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("-------- "):
            title, rule = line.removeprefix("-------- ").split(", model selection method: ")
            rows = tables.setdefault((title.removeprefix("Dataset: "), rule), {})
            width = 0
        elif line.startswith("Algorithm"):
            width = next(place for place in range(9, len(line)) if line[place] != " ")
        elif line.strip() and not line.startswith("Total"):
            # DomainBed pads each cell to one width and puts two spaces between them.
            cells = [line[place : place + width].strip() for place in range(0, len(line.rstrip()), width)]
            rows[cells[0]] = cells[1:]
    return tables
