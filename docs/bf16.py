"""Accuracy and speed in float32 and in bfloat16 (the hyper-parameter bf16), paired by trial, as a Markdown table.

    python docs/bf16.py runs/bf16 [--datasets ...] [--data_dir DATA] [--trials 401 ...] [--float32_products]

Jobs of the stand-in, with the default hyper-parameters of each method. The two jobs of a pair differ in bf16 alone:
they have the same seed, images and batches. The checkpoint is chosen by training-domain validation. Jobs that are done
are not run again. A step is timed by itself, the precisions in turn.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from domainbed import algorithms, hparams_registry
from domainbed.scripts import train
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from cim_dg.results.read import read
from cim_dg.results.selection import select
from cim_dg.results.statistics import paired, summarise

METHODS = ("ERM", "CIM")
PRECISIONS = {"float32": False, "bf16": True}
TIMED = 5  # steps


@dataclass(frozen=True)
class Setting:
    """The jobs of a dataset: the test environment, its images, and what differs from the defaults."""

    test_env: int
    shape: tuple[int, ...]
    classes: int
    batch_size: int
    steps: int


SETTINGS = {
    "NuisanceDigits": Setting(test_env=2, shape=(3, 36, 36), classes=10, batch_size=32, steps=200),
    "ColoredMNIST": Setting(test_env=2, shape=(2, 28, 28), classes=2, batch_size=16, steps=100),
}


class Float32Products(TorchDispatchMode):
    """Products of bf16 matrices are computed in float32 and rounded to bf16, as units for bf16 compute them.

    For processors that have no such unit, on which PyTorch's own products of bf16 take many times as long.
    """

    PRODUCTS = tuple(
        getattr(torch.ops.aten, name).default for name in ("convolution", "convolution_backward", "mm", "addmm", "bmm")
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation."""
        first = next((arg for arg in args if isinstance(arg, torch.Tensor)), None)
        if func not in self.PRODUCTS or first is None or first.dtype != torch.bfloat16:
            return func(*args, **(kwargs or {}))
        wide = tree_map_only(torch.Tensor, lambda tensor: tensor.float(), args)
        return tree_map_only(torch.Tensor, lambda tensor: tensor.bfloat16(), func(*wide, **(kwargs or {})))


def main() -> None:
    """Run the jobs that are not done yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--datasets", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--data_dir", default="none")
    parser.add_argument("--trials", nargs="+", type=int, default=[401, 402, 403, 404, 405])
    parser.add_argument("--float32_products", action="store_true", help=Float32Products.__doc__)
    arguments = parser.parse_args()
    products = Float32Products() if arguments.float32_products else contextlib.nullcontext()
    accuracies: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for dataset in arguments.datasets:
        for trial in arguments.trials:
            for method in METHODS:
                for precision in PRECISIONS:
                    with products:
                        pair = accuracies_of(arguments, dataset, method, precision, trial)
                    accuracies.setdefault((dataset, method, precision), []).append(pair)
    print("| dataset, method, accuracy | float32 | bf16 | bf16 less float32 | s / step, float32 | bf16 |")
    print("|---|---|---|---|---|---|")
    for dataset in arguments.datasets:
        for method in METHODS:
            times = [f"{seconds:.3f}" for seconds in step_times(dataset, method)]
            for place, name in enumerate(("test", "validation")):
                full, half = ([pair[place] for pair in accuracies[dataset, method, key]] for key in PRECISIONS)
                cells = [f"{dataset}, {method}, {name}", plus_minus(full), plus_minus(half), difference(half, full)]
                print(f"| {' | '.join([*cells, *times])} |")


def accuracies_of(
    arguments: argparse.Namespace, dataset: str, method: str, precision: str, trial: int
) -> tuple[float, float]:
    """The accuracies, of test and validation, of a job, which runs if it is not done."""
    setting = SETTINGS[dataset]
    folder = arguments.output / f"{dataset}-{method}-{precision}-{trial}"
    hparams = {"batch_size": setting.batch_size, **({"bf16": True} if PRECISIONS[precision] else {})}
    words = ["--dataset", dataset, "--algorithm", method, "--data_dir", arguments.data_dir, "--output_dir", str(folder)]
    words += ["--test_envs", str(setting.test_env), "--steps", str(setting.steps), "--checkpoint_freq", "50"]
    words += ["--trial_seed", str(trial), "--seed", str(trial), "--hparams", json.dumps(hparams), "--skip_model_save"]
    with contextlib.redirect_stdout(io.StringIO()):
        if train.main(words):
            raise SystemExit(f"{folder} failed")
    chosen = select(read([folder]), "iid")
    return float(chosen["value"].item()), float(chosen["validation"].item())


def plus_minus(values: list[float]) -> str:
    """Mean and standard error of accuracies, in %."""
    summary = summarise(values, scale=100)
    return f"{summary.mean:.1f} ± {summary.stderr:.1f}"


def difference(values: list[float], baseline: list[float]) -> str:
    """The paired difference in points, with its 95% interval and p."""
    result = paired(values, baseline, scale=100)
    test = (
        ""
        if result.interval is None
        else f" [{result.interval[0]:+.1f}, {result.interval[1]:+.1f}], p = {result.p:.2f}"
    )
    return f"{result.mean:+.1f}{test}"


def step_times(dataset: str, method: str) -> list[float]:
    """Seconds of a training step in each precision: medians, after one step to warm up."""
    setting = SETTINGS[dataset]
    generator = torch.Generator().manual_seed(0)
    minibatches = [
        (
            torch.rand(setting.batch_size, *setting.shape, generator=generator),
            torch.randint(setting.classes, (setting.batch_size,), generator=generator),
        )
        for _ in range(2)
    ]
    updates = []
    for bf16 in PRECISIONS.values():
        hparams = hparams_registry.default_hparams(method, dataset) | {"bf16": bf16}
        updates.append(algorithms.get_algorithm_class(method)(setting.shape, setting.classes, 2, hparams).update)
    times: list[list[float]] = [[] for _ in updates]
    for _ in range(1 + TIMED):
        for update, taken in zip(updates, times, strict=True):
            start = time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()
            update(minibatches)
            end = time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()
            taken.append(end - start)
    return [statistics.median(taken[1:]) for taken in times]


if __name__ == "__main__":
    main()
