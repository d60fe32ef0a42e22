"""Write golden/, the results of the real DomainBed, by running it as a user does.

    DOMAINBED_ROOT=/path/to/DomainBed python tests/domainbed/standin/make_golden.py [FOLDER]

The tests of the stand-in compare with the committed files; the test marked `harness` compares them with a fresh run.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "helpers"))

from precision import computing_in
from standin_samples import (
    GOLDEN,
    PAIRS,
    RUNS,
    SINGLE,
    SINGLE_HPARAMS,
    TOP,
    fingerprint,
    in_fixed_order,
    results_of,
    run_flags,
    shared_protocol,
    write_mnist,
    write_sweep,
)

# The file system decides in which order a folder lists its files; the tests need a fixed order.
SORTED = "import os, sys, runpy; listdir = os.listdir; os.listdir = lambda path: sorted(listdir(path)); "
SORTED += "sys.argv = sys.argv[1:]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"


def make(root: Path, folder: Path) -> None:
    """Write all golden files into `folder`, running the DomainBed in `root`."""
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        write_sweep(work / "sweep")
        write_mnist(work / "data")

        def run(*command: str, answer: str = "") -> str:
            settings = {"PYTHONPATH": str(root), "CIM_DG_AUTOLOAD": "0", "PYTHONDONTWRITEBYTECODE": "1"}
            environment = {**os.environ, **settings}
            process = subprocess.run(
                [sys.executable, *command], cwd=work, env=environment, input=answer, capture_output=True, text=True
            )
            if process.returncode:
                raise SystemExit(f"{' '.join(command)} failed:\n{process.stderr}")
            return process.stdout

        def collect(script: str, *flags: str) -> str:
            return run("-c", SORTED, f"domainbed.scripts.{script}", "--input_dir", "sweep", *flags)

        (folder / "collect.txt").write_text(collect("collect_results"))
        (folder / "collect.tex").write_text(collect("collect_results", "--latex"))
        (folder / "top_hparams.txt").write_text(collect("list_top_hparams", *TOP.split()))
        plan = ("-m", "domainbed.scripts.sweep")
        (folder / "plan_pairs.txt").write_text(run(*plan, *PAIRS.split(), answer="n"))
        launched = run(*plan, *SINGLE.split(), "--hparams", SINGLE_HPARAMS)
        (folder / "plan_single.txt").write_text(in_fixed_order(launched))

        inside = str(Path(__file__).resolve())
        protocol = json.loads(run(inside, "protocol"))
        protocol["runs"] = {}
        for name in RUNS:
            flags = [*run_flags(name), "--data_dir", "data", "--output_dir"]
            *_, smallest_margin = run(inside, "train", *flags, name).splitlines()
            run("-m", "domainbed.scripts.train", *flags, f"{name}-float32", "--steps", "1")
            protocol["runs"][name] = {
                "records": results_of(work / name),
                "smallest_margin": float(smallest_margin),
                "first_loss": results_of(work / f"{name}-float32")[0]["loss"],
            }
        sections = [f"{json.dumps(name)}: {json.dumps(protocol[name], sort_keys=True)}" for name in sorted(protocol)]
        (folder / "protocol.json").write_text("{\n" + ",\n".join(sections) + "\n}\n")


def protocol() -> dict[str, Any]:
    """Results of functions of `domainbed`; runs inside the real DomainBed, with MNIST-like files in ./data."""
    import torch
    from domainbed import datasets, networks
    from domainbed.lib.fast_data_loader import FastDataLoader, InfiniteDataLoader
    from domainbed.lib.misc import make_weights_for_balanced_classes, split_dataset

    data = shared_protocol("data")
    torch.manual_seed(5)
    coloured = datasets.ColoredMNIST("data", [2], {})
    (out, first), (_, second) = split_dataset(coloured[0], 16, 7), split_dataset(coloured[1], 16, 7)
    weights = make_weights_for_balanced_classes(second)
    train = [InfiniteDataLoader(first, None, 8, 8), InfiniteDataLoader(second, weights, 8, 8)]
    evaluation = FastDataLoader(out, 6, 8)
    networks.MNIST_CNN((2, 28, 28))  # draws, as an algorithm does between the loaders and the steps
    steps = zip(*train, strict=True)
    seen = [fingerprint(next(steps)) for _ in range(25)]
    seen += [fingerprint([batch]) for batch in evaluation]
    seen += [fingerprint(next(steps)) for _ in range(3)]
    return {**data, "batches": seen, "random_after": torch.rand(3).tolist()}


def train(flags: list[str]) -> None:
    """Train in float64, then print the smallest difference of an image's two largest logits in all evaluations.

    Runs inside the real DomainBed.
    """
    import torch
    from domainbed import algorithms

    get_algorithm_class, margins = algorithms.get_algorithm_class, []

    def watched(name: str) -> type:
        algorithm: Any = get_algorithm_class(name)

        class Watched(algorithm):
            def predict(self, x: torch.Tensor) -> torch.Tensor:
                logits = super().predict(x)
                if not self.training:
                    first, second = logits.topk(2).values.T
                    margins.append((first - second).min().item())
                return logits

        return Watched

    algorithms.get_algorithm_class = watched
    sys.argv[1:] = flags
    with computing_in(torch.float64):
        runpy.run_module("domainbed.scripts.train", run_name="__main__", alter_sys=True)
    print(min(margins))


if __name__ == "__main__":
    if sys.argv[1:] == ["protocol"]:
        print(json.dumps(protocol()))
    elif sys.argv[1:2] == ["train"]:
        train(sys.argv[2:])
    else:
        target = Path(sys.argv[1]) if len(sys.argv) > 1 else GOLDEN
        target.mkdir(parents=True, exist_ok=True)
        make(Path(os.environ["DOMAINBED_ROOT"]).resolve(), target)
