"""How many images a second the loaders feed to the device, beside how many a training step takes."""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.section import Row, Section, Setup
from benchmarks.gpu.timing import by_turns
from benchmarks.images import OURS, TRAINED, write_images
from benchmarks.step import make, make_batch, step
from cim_dg.wilds.data import load_data
from cim_dg.wilds.run import LateParser, add_parser, config_of

BATCH = 32  # of each environment, and of WILDS


def rows(setup: Setup) -> Iterator[Row]:
    """The steps first, as the loaders are compared with the fastest: ERM's in bf16."""
    batch = make_batch(*setup.batch, setup.device)
    runs = {
        f"step of {name}, {'bf16' if bf16 else 'float32'}": step(
            make(name, setup.small).to(setup.device), batch, bf16=bf16
        )
        for name in ("ERM", "CIM")
        for bf16 in (False, True)
    }
    taken = by_turns(runs, setup.device, setup.repeats)
    fastest = len(batch.x) / min(taken.values())
    for name, seconds in taken.items():
        yield Row((name, f"{len(batch.x) / seconds:.0f}", ""))
    os.environ["CIM_DG_CACHE"] = str(setup.folder / "cache")
    write_images(setup.folder, 24 if setup.small else 400)
    OURS.begin()
    for name, rate in (*of_standin(setup), *of_wilds(setup)):
        yield Row((name, f"{rate:.0f}", f"{rate / fastest:.2f}"))


def of_standin(setup: Setup) -> Iterator[tuple[str, float]]:
    """Images per second of the stand-in's loaders, from its image cache: decoding is over before the clock starts."""
    environments = list(OURS.dataset(str(setup.folder), augment=True))
    steps = OURS.training(environments[1 : 1 + len(TRAINED)], 4 if setup.small else BATCH)
    batches = itertools.chain.from_iterable(itertools.islice(steps, 3 * (4 if setup.small else 40)))
    yield "stand-in, augmented training", rate(((x,) for x, _ in batches), setup, warm_up=6)
    evaluated = OURS.dataset(str(setup.folder), augment=False)[0]
    yield "stand-in, evaluation", rate(((x,) for x, _ in OURS.evaluation(evaluated)), setup)


def of_wilds(setup: Setup) -> Iterator[tuple[str, float]]:
    """Images per second of the loaders of `cim-dg wilds train`, from its image cache as in `of_standin`."""
    write_waterbirds(setup.folder)
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers(parser_class=LateParser))
    words = ["train", "--dataset", "waterbirds", "--algorithm", "ERM", "--root_dir", str(setup.folder)]
    config = config_of(parser.parse_args([*words, "--batch_size", "4" if setup.small else str(BATCH)]))
    data = load_data(config, pin_memory=setup.cuda)
    for split in ("train", "val"):
        deque(data.loaders[split], maxlen=0)
    yield "WILDS, training", rate(data.loaders["train"], setup, warm_up=2)
    yield "WILDS, evaluation", rate(data.loaders["val"], setup, warm_up=1)


def rate(batches: Iterable[Any], setup: Setup, warm_up: int = 0) -> float:
    """Images per second, from the loader to the device; the first `warm_up` batches start the processes."""
    images, start = 0, time.perf_counter()
    for number, (x, *_) in enumerate(batches):
        moved = x.to(setup.device)
        images += len(moved)
        if number + 1 == warm_up:
            wait(setup)
            images, start = 0, time.perf_counter()
    wait(setup)
    return images / (time.perf_counter() - start)


def wait(setup: Setup) -> None:
    """Until the device has done all that it was given."""
    if setup.cuda:
        torch.cuda.synchronize()


def write_waterbirds(root: Path) -> None:
    """The images of `write_images` as WILDS' Waterbirds: ROOT/waterbirds_v1.0, of which one in five is validation."""
    folder = root / "waterbirds_v1.0"
    folder.mkdir()
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["img_id", "img_filename", "y", "split", "place"])
        for number, path in enumerate(sorted((root / "VLCS").rglob("*.jpg"))):
            name = os.path.relpath(path, folder)
            table.writerow([number + 1, name, number % 2, (0, 0, 0, 1, 2)[number % 5], number // 2 % 2])
    (folder / "RELEASE_v1.0.txt").write_text("Noise, to time the loaders; not Waterbirds.\n", encoding="utf-8")


SECTION = Section(
    "loaders",
    "Images per second: training steps (ResNet-50, 96 x 3 x 224 x 224), and loaders of JPEGs of 227 to 500 pixels",
    ("", "images / s", "loader / fastest step"),
    50,
    rows,
)
