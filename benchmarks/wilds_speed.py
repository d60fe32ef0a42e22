"""The speed of `cim-dg wilds train` compared with WILDS' own run_expt.py on the same folder of JPEGs, on 2 cores.

The folder has the format of Waterbirds, with its shares of the splits; its images are random parts of scikit-learn's
two photographs. First the loaders alone are timed, in images per second, with the transform, batch size and number of
processes that both have by default. Then whole runs, in seconds of an epoch with its evaluation: ResNet-18 on images of
16 pixels, a network so small that the data count, and with --full on images of 224. The first epoch is told apart,
because then nothing is in the cache.

Each side runs in processes of its own, in turn; the fastest of each counts. Processor time (Linux only) depends less on
what else the machine does. WILDS_ROOT names a clone of p-lambda/wilds, which also needs the package transformers;
without it only our own side is timed.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

HEIGHTS, WIDTHS = (280, 421), (350, 501)
SPLITS = (0, 2, 0, 2, 0, 2, 0, 2, 1, 2)  # as in Waterbirds, two fifths are for training and a tenth for validation
SIDES = ("ours", "theirs")
RESOLUTIONS = ("16", "224")


def main() -> int:
    """Print a table for the loaders and one for whole runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=3, help="of each side in a round (default 3)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--full", action="store_true", help="whole runs on images of 224 pixels too, which take long")
    parser.add_argument("--algorithms", nargs="+", default=["ERM", "CIM"])
    parser.add_argument("--parts", nargs="+", choices=["loaders", "runs"], default=["loaders", "runs"])
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    if args.side:
        loaders = our_loaders(args.root) if args.side == "ours" else their_loaders(args.root)
        print(json.dumps(rates(loaders, args.epochs)))
        return 0
    sides = SIDES if os.environ.get("WILDS_ROOT") else SIDES[:1]
    if len(sides) == 1:
        print("WILDS_ROOT is not set: run_expt.py is not timed", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        write_waterbirds(Path(folder), args.images)
        title = f"{args.images} JPEGs of {HEIGHTS[0]}-{WIDTHS[1] - 1} px, {args.cores} cores"
        if "loaders" in args.parts:
            compare(f"images / s, {title}", sides, args.rounds, lambda side: loader_rates(side, Path(folder), args))
        runs = product(RESOLUTIONS[: 1 + args.full], args.algorithms) if "runs" in args.parts else ()
        for side_length, algorithm in runs:
            options = ["--algorithm", algorithm, "--target_resolution", side_length, side_length]
            compare(
                f"seconds of an epoch, {algorithm}, ResNet-18, {side_length} px, {title}",
                sides,
                args.rounds,
                lambda side, options=options: epoch_seconds(side, Path(folder), options, args.epochs),  # type: ignore[misc]
                best=min,
            )
    return 0


def write_waterbirds(root: Path, count: int) -> None:
    """ROOT/waterbirds_v1.0 with `count` random parts of scikit-learn's two photographs as JPEGs."""
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    rng = np.random.RandomState(0)
    folder = root / "waterbirds_v1.0"
    (folder / "images").mkdir(parents=True)
    (folder / "RELEASE_v1.0.txt").write_text("Parts of two photographs, to time loaders; not Waterbirds.\n")
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["img_id", "img_filename", "y", "split", "place"])
        for number in range(count):
            y, split, place = number // 10 % 2, SPLITS[number % 10], number // 20 % 2
            height, width = rng.randint(*HEIGHTS), rng.randint(*WIDTHS)
            photograph = photographs[y]
            top, left = (rng.randint(side - part + 1) for side, part in zip(photograph.shape, (height, width)))  # noqa: B905
            name = f"images/{number:05d}.jpg"
            part = photograph[top : top + height, left : left + width]
            Image.fromarray(part).save(folder / name, quality=90)
            table.writerow([number + 1, name, y, split, place])


Loaders = tuple[Iterable[Any], list[Iterable[Any]]]  # of training, and of evaluation


def our_loaders(root: Path) -> Loaders:
    """Those of `cim-dg wilds train` at its defaults."""
    from cim_dg.runtime.allocator import keep_freed_memory
    from cim_dg.wilds.config import make_config
    from cim_dg.wilds.data import load_data

    keep_freed_memory()  # as the runner does
    loaders = load_data(make_config({"dataset": "waterbirds", "algorithm": "ERM", "root_dir": str(root)})).loaders
    return loaders["train"], [loader for split, loader in loaders.items() if split != "train"]


def their_loaders(root: Path) -> Loaders:
    """Those of run_expt.py at its defaults, from its own transforms."""
    import wilds
    from wilds.common.data_loaders import get_eval_loader, get_train_loader

    sys.path.insert(0, str(Path(os.environ["WILDS_ROOT"], "examples")))
    defaults = import_module("configs.datasets").dataset_defaults["waterbirds"]
    kwargs = import_module("configs.data_loader").loader_defaults["loader_kwargs"]
    initialize_transform = import_module("transforms").initialize_transform
    config = SimpleNamespace(**defaults, algorithm="ERM", target_resolution=None)
    dataset = wilds.get_dataset("waterbirds", root_dir=str(root), download=False)

    def split(name: str) -> Any:
        transform = initialize_transform(config.transform, config, dataset, is_training=name == "train")
        return dataset.get_subset(name, transform=transform)

    train = get_train_loader("standard", split("train"), config.batch_size, **kwargs)
    return train, [get_eval_loader("standard", split(name), config.batch_size, **kwargs) for name in ("val", "test")]


def rates(loaders: Loaders, epochs: int) -> dict[str, float]:
    """Images per second, and per second of processor time, in the first epoch and in the later ones together."""
    result = {}
    for kind, several in (("training", [loaders[0]]), ("evaluation", loaders[1])):
        clocks, images = [clock()], 0
        for _ in range(epochs):
            images = sum(len(x) for loader in several for x, *_ in loader)
            clocks.append(clock())
        for when, part in (("first epoch", clocks[:2]), ("later epochs", clocks[1:])):
            for unit, end, start in zip(("", ", by processor time"), part[-1], part[0], strict=True):
                if end > start:
                    result[f"{kind}, {when}{unit}"] = images * (len(part) - 1) / (end - start)
    return result


def clock(pid: int | str = "self") -> tuple[float, float]:
    """Now, and the processor time of a process and of those of its children that have ended, in seconds."""
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]
    return time.perf_counter(), sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


def loader_rates(side: str, root: Path, args: argparse.Namespace) -> dict[str, float]:
    """What `rates` gives in a process of its own, with an empty cache."""
    command = [sys.executable, __file__, "--side", side, "--root", str(root)]
    command += [f"--{name}={getattr(args, name)}" for name in ("epochs", "cores")]
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(command, env=environment(cache), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def epoch_seconds(side: str, root: Path, options: list[str], epochs: int) -> dict[str, float]:
    """Seconds, and of processor time, of the first epoch of a run and the fastest later one, with their evaluation."""
    command = [sys.executable, "-m", "cim_dg.cli", "wilds"]
    command += ["train"] if side == "ours" else ["run-expt", os.environ["WILDS_ROOT"], "--"]
    with tempfile.TemporaryDirectory() as cache:
        command += ["--dataset", "waterbirds", "--root_dir", str(root), *options]
        command += ["--model", "resnet18", "--model_kwargs", "pretrained=False", "--log_dir", str(Path(cache, "log"))]
        command += ["--transform", "image_base", "--n_epochs", str(epochs + 1)]
        starts = []
        with subprocess.Popen(
            command, env=environment(cache), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as run:
            assert run.stdout is not None
            for line in run.stdout:
                if line.startswith("Epoch ["):
                    starts.append(clock(run.pid))
                if len(starts) > epochs:
                    run.kill()  # the last epoch only tells when the one before ended
                    break
    taken = np.diff(starts, axis=0)
    return {
        f"{when}{unit}": float(part[:, column].min())
        for when, part in (("first epoch", taken[:1]), ("later epochs", taken[1:]))
        for column, unit in enumerate(("", ", processor time"))
    }


def environment(cache: str) -> dict[str, str]:
    """The environment of a process that is timed."""
    kept = {"CIM_DG_CACHE": str(Path(cache, "images")), "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore"}
    return os.environ | kept


def compare(
    title: str,
    sides: Iterable[str],
    rounds: int,
    measure: Callable[[str], dict[str, float]],
    best: Callable[[Iterable[float]], float] = max,
) -> None:
    """Print the best of what `measure` gives for each side, and their ratio."""
    measured: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, results in measured.items():
            results.append(measure(side))
    table = Table("", "cim-dg", *["run_expt.py", "ratio"][: 2 * (len(measured) - 1)], title=title)
    for kind in measured["ours"][0]:
        values = [best(result[kind] for result in results) for results in measured.values()]
        ratio = [f"{values[0] / values[1]:.2f}"] if len(values) > 1 else []
        table.add_row(kind, *(f"{value:.4g}" for value in values), *ratio)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
