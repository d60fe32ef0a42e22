"""Images per second from a folder of JPEGs on 2 cores, compared with DomainBed's own pipeline on the same folder.

Evaluation is of one environment, resized, in minibatches of 64; its first pass starts with building the data set, which
with the cache decodes all environments. Training uses augmented minibatches of 32 from each of three other
environments. Nothing is computed on the images, so this is an upper limit for training. Each side runs in its own
process, in turn; medians are compared.

DOMAINBED_ROOT names a checkout of the real DomainBed; without it, its transforms and loaders are rebuilt here from
torchvision and torch. `--profile` shows the cost of each operation on an augmented image, `--memory` the memory of 4
workers over many steps (`--memory --steps 1000`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torchvision import transforms
from torchvision.transforms import functional

from cim_dg.data import image_environment
from cim_dg.domainbed.decoded_folders import use_cache
from cim_dg.domainbed.shared_loaders import share_loaders
from cim_dg.domainbed.standin import datasets
from cim_dg.domainbed.standin.lib import fast_data_loader
from cim_dg.domainbed.standin.lib.misc import Split
from cim_dg.images import augmentation
from cim_dg.images import operations as image_ops
from cim_dg.runtime.allocator import keep_freed_memory

EVALUATED, TRAINED, CLASSES = "C", ("L", "S", "V"), ("bird", "car")
WORKERS = 8  # DomainBed's N_WORKERS
LEAST_EVALUATION = 4
MEMORY_WORKERS = 4
SIDES = {
    "ours": "stand-in",
    "theirs": "DomainBed",
    "cached": "DomainBed, CIM_DG_CACHE_DOMAINBED=1",
    "shared": "the same with the loaders of `pool`",
}

Batches = Iterator[list[tuple[Any, torch.Tensor]]]


def main() -> int:
    """Print the table; 1 if evaluation from the second pass on is less than four times as fast as DomainBed's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400, help="how many JPEGs, of 227 to 500 pixels (default 400)")
    parser.add_argument("--passes", type=int, default=8, help="evaluation passes after the first (default 8)")
    parser.add_argument("--steps", type=int, default=30, help="training steps (default 30)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="what an augmented image costs, instead")
    parser.add_argument("--memory", action="store_true", help="what 4 workers hold while they load, instead")
    parser.add_argument("--json", action="store_true", help="with --memory: the samples as JSON")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    if args.side:
        print(json.dumps(measure(OURS if args.side == "ours" else theirs(args.side), args)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CIM_DG_CACHE"] = str(Path(folder, "cache"))
        args.root = Path(folder)
        write_images(args.root, args.images)
        if args.profile:
            profile(args.root)
        elif args.memory:
            samples = memory(args.root, args.steps)
            if args.json:
                print(json.dumps(samples))
            else:
                show_memory(samples)
        else:
            return compare(args)
    return 0


def write_images(root: Path, count: int, sides: tuple[int, int] = (227, 500)) -> None:
    """ROOT/VLCS with `count` JPEGs in the environment to evaluate and a quarter of that in each of the others: smooth
    colours with fine noise, some 20 to 90 kB each, which is as large as photographs of that size are.
    """
    rng = np.random.RandomState(0)
    environments = [EVALUATED] * count + [name for name in TRAINED for _ in range(count // 4)]
    for number, environment in enumerate(environments):
        folder = root / "VLCS" / environment / CLASSES[number % len(CLASSES)]
        folder.mkdir(parents=True, exist_ok=True)
        width, height = rng.randint(*sides, size=2).tolist()
        smooth = Image.fromarray(rng.randint(256, size=(12, 12, 3)).astype(np.uint8)).resize((width, height))
        noise = rng.randint(-12, 13, size=(height, width, 1))
        pixels = (np.asarray(smooth) + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=90)


class OURS:
    """The stand-in's data set and loaders."""

    @staticmethod
    def begin() -> None:
        keep_freed_memory()  # as `domainbed.scripts.train` of the stand-in does

    @staticmethod
    def dataset(root: str, augment: bool) -> Any:
        return datasets.VLCS(root, [], {"data_augmentation": augment})

    @staticmethod
    def evaluation(environment: Any) -> Iterable[tuple[Any, torch.Tensor]]:
        return fast_data_loader.FastDataLoader(Split(environment, range(len(environment))), 64, WORKERS)

    @staticmethod
    def training(environments: list[Any], batch_size: int = 32) -> Batches:
        splits = [Split(environment, range(len(environment))) for environment in environments]
        return iter(fast_data_loader.InfiniteDataLoader(splits, [None] * len(splits), batch_size, WORKERS))


def theirs(side: str) -> Any:
    """DomainBed's data set and loaders: its own, or the same made of torchvision and torch.

    With CIM_DG_CACHE_DOMAINBED=1 its folders have the cache; "shared" has the loaders that `pool` gives its jobs, too.
    """
    if root := os.environ.get("DOMAINBED_ROOT"):
        sys.path.insert(0, root)
        from domainbed import datasets as real
        from domainbed.lib.fast_data_loader import FastDataLoader, InfiniteDataLoader
    else:
        real, FastDataLoader, InfiniteDataLoader = _Remade, _Remade.FastDataLoader, _Remade.InfiniteDataLoader

    class Theirs:
        @staticmethod
        def begin() -> None:
            if side == "shared":
                share_loaders()
                keep_freed_memory()

        @staticmethod
        def dataset(root: str, augment: bool) -> Any:
            return real.VLCS(root, [], {"data_augmentation": augment})

        @staticmethod
        def evaluation(environment: Any) -> Any:
            return FastDataLoader(environment, 64, WORKERS)

        @staticmethod
        def training(environments: list[Any]) -> Batches:
            return zip(*(InfiniteDataLoader(one, None, 32, WORKERS) for one in environments), strict=True)  # type: ignore[return-value]

    return Theirs


class _Remade:
    """The parts of DomainBed that are measured, made of torchvision and torch as it makes them."""

    PLAIN = (transforms.Resize((224, 224)),)
    AUGMENTED = (
        transforms.RandomResizedCrop(224, scale=(0.7, 1.0)),
        transforms.RandomHorizontalFlip(),
        transforms.ColorJitter(0.3, 0.3, 0.3, 0.3),
        transforms.RandomGrayscale(),
    )
    TO_NETWORK = (transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))

    @staticmethod
    def VLCS(root: str, test_envs: list[int], hparams: dict[str, bool]) -> list[Any]:
        from torchvision.datasets import ImageFolder

        first = _Remade.AUGMENTED if hparams["data_augmentation"] else _Remade.PLAIN
        transform = transforms.Compose([*first, *_Remade.TO_NETWORK])
        return [ImageFolder(str(Path(root, "VLCS", name)), transform=transform) for name in (EVALUATED, *TRAINED)]

    class Endless:
        def __init__(self, batches: Iterable[list[int]]) -> None:
            self.batches = batches

        def __iter__(self) -> Iterator[list[int]]:
            while True:
                yield from self.batches

    class InfiniteDataLoader:
        def __init__(self, dataset: Any, weights: None, batch_size: int, num_workers: int) -> None:
            sampler = torch.utils.data.RandomSampler(dataset, replacement=True)
            batches = torch.utils.data.BatchSampler(sampler, batch_size, drop_last=True)
            endless: Any = _Remade.Endless(batches)
            self.loaded = iter(torch.utils.data.DataLoader(dataset, num_workers=num_workers, batch_sampler=endless))

        def __iter__(self) -> Any:
            return self.loaded

    class FastDataLoader:
        def __init__(self, dataset: Any, batch_size: int, num_workers: int) -> None:
            batches = torch.utils.data.BatchSampler(
                torch.utils.data.RandomSampler(dataset), batch_size, drop_last=False
            )
            endless: Any = _Remade.Endless(batches)
            self.length = len(batches)
            self.loaded = iter(torch.utils.data.DataLoader(dataset, num_workers=num_workers, batch_sampler=endless))

        def __iter__(self) -> Any:
            return itertools.islice(self.loaded, self.length)


def measure(side: Any, args: argparse.Namespace) -> dict[str, float]:
    """Images per second of each kind."""
    side.begin()
    start = time.perf_counter()
    loader = side.evaluation(side.dataset(str(args.root), False)[0])
    per_pass = []
    for _ in range(1 + args.passes):
        images = sum(len(x.to("cpu")) for x, _ in loader)
        per_pass.append((time.perf_counter(), images))
    first, last = per_pass[0], per_pass[-1]
    result = {
        "evaluation, first pass": first[1] / (first[0] - start),
        "evaluation, later passes": sum(images for _, images in per_pass[1:]) / (last[0] - first[0]),
    }
    del loader
    steps = side.training([side.dataset(str(args.root), True)[env] for env in (1, 2, 3)])
    for _ in range(3):
        next(steps)
    start = time.perf_counter()
    images = sum(len(x.to("cpu")) for minibatches in itertools.islice(steps, args.steps) for x, _ in minibatches)
    return {**result, "augmented training": images / (time.perf_counter() - start)}


def compare(args: argparse.Namespace) -> int:
    real = "DOMAINBED_ROOT" in os.environ
    timings: dict[str, list[dict[str, float]]] = {side: [] for side in (SIDES if real else ["ours", "theirs"])}
    for number in range(args.rounds):
        for side, results in timings.items():
            command = [sys.executable, __file__, "--side", side, "--root", str(args.root)]
            command += [f"--{name}={getattr(args, name)}" for name in ("passes", "steps", "cores")]
            # A new cache for each, so that each has a first pass.
            environment = os.environ | {"CIM_DG_CACHE": str(args.root / f"cache-{side}-{number}")}
            environment["CIM_DG_CACHE_DOMAINBED"] = str(int(side in ("cached", "shared")))
            finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            results.append(json.loads(finished.stdout.splitlines()[-1]))
    table = Table("images / s", title=f"{args.images} JPEGs of 227-500 px, {args.cores} cores; in brackets: the ratio")
    for side in timings:
        table.add_column(SIDES[side] if real or side == "ours" else "DomainBed's pipeline, remade")
    ratios = {}
    for kind in timings["ours"][0]:
        rates = {side: statistics.median(result[kind] for result in results) for side, results in timings.items()}
        ratios[kind] = rates["ours"] / rates["theirs"]
        table.add_row(kind, *(f"{rate:.0f} ({rate / rates['theirs']:.1f})" for rate in rates.values()))
    Console().print(table)
    print(f"evaluation from the second pass on: at least {LEAST_EVALUATION} times DomainBed's is wanted")
    return int(ratios["evaluation, later passes"] < LEAST_EVALUATION)


def profile(root: Path) -> None:
    """Print the milliseconds of each operation on an augmented image, in one thread."""
    torch.set_num_threads(1)
    keep_freed_memory()
    environment = datasets.VLCS(str(root), [], {"data_augmentation": True})[1]
    paths = [environment._folder / name for name in environment._files]
    crops, jitter = transforms.RandomResizedCrop(224, scale=(0.7, 1.0)), transforms.ColorJitter(0.3, 0.3, 0.3, 0.3)
    normalise = transforms.Normalize(image_environment.IMAGENET_MEAN, image_environment.IMAGENET_STD)
    upstream = Stopwatch()
    for path in paths:
        x: Any = upstream("decode", lambda path: Image.open(path).convert("RGB"), path)  # or read from the cache
        upstream("(resize, for evaluation)", transforms.Resize((224, 224)), x)
        x = upstream("crop and resize", crops, x)
        x = upstream("flip", transforms.RandomHorizontalFlip(), x)
        order, *factors = jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        for which in order.tolist():
            name = augmentation.JITTER[which].__name__
            x = upstream(name, getattr(functional, name), x, factors[which])
        x = upstream("grey", transforms.RandomGrayscale(), x)
        x = upstream("to a tensor", transforms.ToTensor(), x)
        upstream("normalise", normalise, x)
    ours = Stopwatch()
    images = [ours("decode", environment.image, key) for key in range(len(environment))]
    drawn = ours("draw", augmentation.draw, np.array([image.shape[:2] for image in images]), 0)
    for place, image in enumerate(images):
        cut = ours("crop and resize", augmentation.crop, image, drawn.boxes[place], drawn.flips[place])[None]
        x = ours("to a tensor", lambda cut: cut.float() / 255, cut)
        colours = drawn.colours[place : place + 1]
        for which in colours.order[0].tolist():
            operation = augmentation.JITTER[which]
            x = ours(operation.__name__, operation, x, colours.factors[:, which])
        if colours.grey:
            x = ours("grey", image_ops.to_grayscale, x)
        pixels = ours("to 8 bits", lambda x: x.mul(255).round_().to(torch.uint8), x)
        ours("normalise", image_environment.ImageBatch(pixels).to, "cpu")
    table = Table("ms / image", "cim-dg", "DomainBed's transforms")
    for name in dict.fromkeys([*upstream.seconds, *ours.seconds]):
        table.add_row(name, *(f"{1000 * side.seconds.get(name, 0) / len(paths):.3f}" for side in (ours, upstream)))
    augmented = [
        1000 * sum(seconds for name, seconds in side.seconds.items() if "(" not in name) / len(paths)
        for side in (ours, upstream)
    ]
    table.add_section()
    table.add_row("an augmented image", *(f"{total:.3f}" for total in augmented))
    Console().print(table)
    profile_items(root)


def profile_items(root: Path) -> None:
    """Print the milliseconds of an item of DomainBed's image folders, without and with CIM_DG_CACHE_DOMAINBED=1."""
    table = Table("ms / item", "ImageFolder", "from the cache", "the same in a minibatch, as `pool` loads it")
    for augment in (False, True):
        (folder, *_), cached = (_Remade.VLCS(str(root), [], {"data_augmentation": augment}) for _ in range(2))
        use_cache(cached)
        watch = Stopwatch()
        for index in range(len(folder)):
            watch("ImageFolder", folder.__getitem__, index)
            watch("cache", cached[0].__getitem__, index)
        for start in range(0, len(folder), 64) if not augment else ():
            watch("minibatch", cached[0].minibatch, range(start, min(start + 64, len(folder))))
        row = [f"{1000 * seconds / len(folder):.2f}" for seconds in watch.seconds.values()]
        table.add_row("augmented" if augment else "resized, for evaluation", *row)
    Console().print(table)


class Stopwatch:
    """Adds up the processor time of calls, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        start = time.process_time()
        result = function(*args)
        self.seconds[name] = self.seconds.get(name, 0) + time.process_time() - start
        return result


def memory(root: Path, steps: int) -> list[dict[str, float]]:
    """MB held by this process and 4 workers, at 12 times of `steps` training steps with an evaluation each time: their
    own (anonymous) memory, what they share with each other, and what is mapped of files, the cache's too, which the
    system takes back when it needs room. Linux only.
    """
    keep_freed_memory()
    fast_data_loader.cores = lambda: MEMORY_WORKERS
    dataset = datasets.VLCS(str(root), [0], {"data_augmentation": True})
    evaluation = OURS.evaluation(dataset[0])
    training = OURS.training([dataset[env] for env in (1, 2, 3)], batch_size=8)
    samples = []
    for step, minibatches in enumerate(itertools.islice(training, steps)):
        for x, _ in minibatches:
            x.to("cpu")
        if step % max(1, steps // 12) == 0:
            for x, _ in evaluation:
                x.to("cpu")
            workers = [process.pid for process in multiprocessing.active_children()]
            assert len(workers) == MEMORY_WORKERS
            samples.append({"step": step, **resident([os.getpid()]), **resident(workers, "workers' ")})
    return samples


def resident(pids: Iterable[int | None], prefix: str = "") -> dict[str, float]:
    kinds = {"RssAnon": "own", "RssShmem": "shared", "RssFile": "of files"}
    held = dict.fromkeys((prefix + kind for kind in kinds.values()), 0.0)
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in kinds:
                held[prefix + kinds[name]] += int(value.split()[0]) / 1000
    return held


def show_memory(samples: list[dict[str, float]]) -> None:
    table = Table(*samples[0], title=f"MB of the training process and its {MEMORY_WORKERS} workers together")
    for sample in samples:
        table.add_row(*(f"{value:.0f}" for value in sample.values()))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
