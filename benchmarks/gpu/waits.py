"""How often Python waits for the GPU in a training step: once, to read the terms."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.gpu.section import NEEDS_CUDA, Row, Section, Setup, each
from benchmarks.step import make, make_batch, step

WAIT = "called a synchronizing CUDA operation"


def rows(setup: Setup) -> Iterator[Row]:
    """Each method, in its third step."""
    batch = make_batch(12, setup.batch[1], setup.device)

    def count(name: str) -> Row:
        run = step(make(name, small=True).to(setup.device), batch)
        run()
        run()
        if not setup.cuda:
            return Row((name, NEEDS_CUDA))
        places = waits(run)
        return Row(
            (name, str(sum(places.values())), ", ".join(f"{place} ({number})" for place, number in places.items()))
        )

    yield from each(setup.algorithms, count)


def waits(run: Callable[[], object]) -> Counter[str]:
    """The lines of Python at which `run` waits for the GPU, and how often at each."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return Counter(f"{Path(w.filename).name}:{w.lineno}" for w in caught if WAIT in str(w.message))


SECTION = Section(
    "waits",
    "Waits for the GPU in a step, by torch.cuda.set_sync_debug_mode (1 is expected: the reading of the terms)",
    ("method", "waits", "where"),
    20,
    rows,
)
