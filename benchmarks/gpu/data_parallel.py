"""Whether a method of WILDS' examples harness gives on several GPUs what each part of the batch gives alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks.gpu.section import NEEDS_CUDA, Row, Section, Setup, each
from benchmarks.gpu.timing import by_turns, tf32
from benchmarks.step import make, make_batch
from cim_dg.wilds.examples import Model

LIMIT = 1e-4


def rows(setup: Setup) -> Iterator[Row]:
    """Each method; DataParallel on a CPU calls the model itself."""
    devices = torch.cuda.device_count() if setup.cuda else 0
    if devices == 1:
        yield Row(("it takes two GPUs, and there is one",))
        return
    with tf32(allowed=False):
        yield from each(setup.algorithms, lambda name: compare(setup, name, devices))


def compare(setup: Setup, name: str, devices: int) -> Row:
    """One method: evaluation of a batch by parts, and the time of a forward and backward pass in training."""
    batch = make_batch(*setup.batch, setup.device)
    model = Model(make(name, setup.small), bf16=False).to(setup.device)
    parallel = nn.DataParallel(model)
    model.eval()
    with torch.no_grad():
        logits, terms = parallel(batch.x, batch.y, batch.domain)
        assert batch.domain is not None
        parts = [field.chunk(max(1, devices)) for field in (batch.x, batch.y, batch.domain)]
        alone = [model(*part) for part in zip(*parts, strict=True)]
    expected = {term: torch.cat([terms_[term] for _, terms_ in alone]) for term in terms}
    apart = max(
        relative(logits, torch.cat([logits_ for logits_, _ in alone])),
        *map(relative, terms.values(), expected.values()),
    )
    model.train()

    def run(module: nn.Module) -> None:
        module(batch.x, batch.y, batch.domain)[1]["loss"].mean().backward()

    cells = [name, f"{apart:.1e}", "yes" if apart <= LIMIT else "NO"]
    if not setup.cuda:
        return Row((*cells, NEEDS_CUDA), apart <= LIMIT)
    runs = {"one": lambda: run(model), "all": lambda: run(parallel)}
    taken = by_turns(runs, setup.device, setup.repeats)
    return Row((*cells, f"{taken['one'] / taken['all']:.2f}"), apart <= LIMIT)


def relative(actual: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest value expected or to 1."""
    return ((actual - expected).abs().max() / expected.abs().max().clamp(min=1)).item()


SECTION = Section(
    "data-parallel",
    "DataParallel of run_expt.py (--device 0 1): evaluation against each GPU's part alone "
    f"(at most {LIMIT:g} apart), and speed",
    ("method", "largest difference", "agree", "times as fast as one GPU"),
    20,
    rows,
)
