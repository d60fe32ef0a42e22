"""The peak of a GPU's memory in a training step, beside the estimate that decides how many jobs share a GPU."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import torch

from benchmarks.gpu.section import NEEDS_CUDA, Row, Section, Setup, each
from benchmarks.step import make, make_batch, step
from cim_dg.harness.memory import training_gib


def rows(setup: Setup) -> Iterator[Row]:
    """Each method alone, in float32; the estimate is made on the CPU, as the launchers make it."""
    images, side = setup.batch

    def compare(name: str) -> Row:
        measured = peak(setup, name) if setup.cuda else None
        method = make(name, setup.small)
        estimate = training_gib(method, lambda n: method(make_batch(n, side)).terms["loss"], images)
        cells = [name, *([NEEDS_CUDA] * 3 if measured is None else (f"{gib:.2f}" for gib in measured))]
        return Row((*cells, f"{estimate:.2f}", "" if measured is None else f"{estimate / measured[-1]:.2f}"))

    yield from each(setup.algorithms, compare)


def peak(setup: Setup, name: str) -> tuple[float, float, float]:
    """The GiB of three steps: allocated to tensors, reserved by PyTorch, and taken from the GPU with CUDA's context."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    run = step(make(name, setup.small).to(setup.device), make_batch(*setup.batch, setup.device))
    for _ in range(3):
        run()
    free, total = torch.cuda.mem_get_info()
    taken = (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved(), total - free)
    allocated, reserved, used = (value / 2**30 for value in taken)
    return allocated, reserved, used


SECTION = Section(
    "memory",
    "Peak memory of a training step in GiB (ResNet-50, 96 x 3 x 224 x 224, float32, Adam)",
    (
        *("method", "allocated", "reserved by PyTorch", "taken from the GPU, by whatever runs on it"),
        *("estimate for packing", "estimate / taken"),
    ),
    45,
    rows,
)
