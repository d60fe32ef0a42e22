"""A training step of each method as a ratio to one of ERM: ResNet-50 (random weights) on 224-pixel images, CPU or GPU.

The methods run in turn, so that other work on the machine slows all of them equally. Medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from rich.console import Console
from rich.table import Table
from torch import nn

from cim_dg.algorithms import REGISTRY, Algorithm, Batch
from cim_dg.harness.step import TrainingStep
from cim_dg.nn.networks import SmallCNN
from cim_dg.nn.pixels import PixelSpace

CLASSES, DOMAINS = 5, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=15, help="images of a step, from three domains (default 15)")
    parser.add_argument("--algorithms", nargs="+", default=list(REGISTRY), choices=list(REGISTRY))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = make_batch(arguments.batch, 224, device)
    steps = {name: step(make(name).to(device), batch) for name in dict.fromkeys(["ERM", *arguments.algorithms])}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(arguments.repeats + 1):
        for name, run in steps.items():
            start = time.perf_counter()
            run()
            if repeat:  # the first is a warm-up
                times[name].append(time.perf_counter() - start)
    erm = statistics.median(times["ERM"])
    table = Table(
        "method",
        "s / step",
        "ratio to ERM",
        title=f"ResNet-50, {arguments.batch} x 3 x 224 x 224, {device}, {arguments.threads} threads",
    )
    for name, durations in times.items():
        median = statistics.median(durations)
        table.add_row(name, f"{median:.3f}", f"{median / erm:.3f}")
    Console().print(table)


def make(name: str, small: bool = False) -> Algorithm:
    """The method on a ResNet-50 of random weights, or on a tiny network."""
    network: Any = SmallCNN(3, width=8) if small else torchvision.models.resnet50(weights=None)
    if not small:
        n_outputs, network.fc = network.fc.in_features, nn.Identity()
        network.n_outputs = n_outputs
    return REGISTRY[name](network, lambda n: nn.Linear(n, CLASSES), PixelSpace.of("imagenet", 3), CLASSES, DOMAINS)


def make_batch(images: int, side: int, device: str | torch.device = "cpu") -> Batch:
    """Images of noise, of all classes and domains by turns; the same for every device."""
    numbers = torch.arange(images, device=device)
    noise = torch.randn(images, 3, side, side, generator=torch.Generator().manual_seed(0))
    return Batch(noise.to(device), numbers % CLASSES, numbers % DOMAINS)


def step(method: Algorithm, batch: Batch, bf16: bool = False) -> Callable[[], dict[str, float]]:
    """An optimising step as a function that returns the terms; it ends when the device has finished."""
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-5)
    training = TrainingStep(method, bf16)
    return lambda: training(batch, optimizer)[1]


if __name__ == "__main__":
    main()
