"""Whether a step of each method gives on the device what it gives on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.draws import CpuDraws
from benchmarks.gpu.section import Row, Section, Setup, each
from benchmarks.gpu.timing import tf32
from benchmarks.step import make, make_batch, step

sys.path.append(str(Path(__file__).parents[2] / "tests" / "helpers"))
from precision import computing_in

# The devices add in other orders. That costs some digits of the 16 or 7 that there are: gradients are sums of many
# values of both signs, and a ReLU may see a value near 0 on its other side.
LIMITS = {torch.float64: 1e-9, torch.float32: 1e-3}


def rows(setup: Setup) -> Iterator[Row]:
    """Each method on a small network, in float32 without TF32 and in float64."""
    yield from each(setup.algorithms, partial(compare, setup))


def compare(setup: Setup, name: str) -> Row:
    """One method; the images have the size from which on MS-SSIM has its full window, or a small one."""
    images, side = (12, 20) if setup.small else (24, 176)
    cells, right = [name], True
    for dtype, limit in LIMITS.items():
        expected = loss_and_gradients(name, torch.device("cpu"), dtype, images, side)
        actual = loss_and_gradients(name, setup.device, dtype, images, side)
        differences = [difference(a, e) for a, e in zip(actual, expected, strict=True)]
        cells += [f"{value:.1e}" for value in differences]
        right &= max(differences) <= limit
    return Row((*cells, "yes" if right else "NO"), right)


def loss_and_gradients(
    name: str, device: torch.device, dtype: torch.dtype, images: int, side: int
) -> tuple[list[Tensor], list[Tensor]]:
    """The loss, and the gradients of all parameters, of a first step; on the CPU."""
    with computing_in(dtype), tf32(allowed=False):
        torch.manual_seed(0)
        method = make(name, small=True).to(device)
        run = step(method, make_batch(images, side, device))
        torch.manual_seed(1)
        with CpuDraws():
            terms = run()
    gradients = [parameter.grad.cpu() for parameter in method.parameters() if parameter.grad is not None]
    return [torch.tensor(terms["loss"], dtype=torch.float64)], gradients


def difference(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference of any two values, relative to the largest value expected; infinite if one is NaN."""
    largest = max(tensor.abs().max().item() for tensor in expected)
    apart = [(a - e).abs().max().item() for a, e in zip(actual, expected, strict=True)]
    return max(value if value == value else float("inf") for value in apart) / largest


SECTION = Section(
    "agreement",
    f"A step against the CPU's: the largest difference, relative to the largest value (at most "
    f"{LIMITS[torch.float64]:g} in float64, {LIMITS[torch.float32]:g} in float32)",
    ("method", "loss, float64", "gradients, float64", "loss, float32", "gradients, float32", "agree"),
    45,
    rows,
)
