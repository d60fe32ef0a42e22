"""The time of a training step of each method as a ratio to ERM's, in three precisions."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.gpu.section import Row, Section, Setup, each
from benchmarks.gpu.timing import PRECISIONS, by_turns, tf32
from benchmarks.step import make, make_batch, step


def rows(setup: Setup) -> Iterator[Row]:
    """Each method by turns with ERM: two networks at a time, so that a GPU of 16 GB holds them."""
    batch = make_batch(*setup.batch, setup.device)
    erm = make("ERM", setup.small).to(setup.device)

    def compare(name: str) -> Row:
        method = make(name, setup.small).to(setup.device)
        cells = [name]
        for precision in PRECISIONS:
            bf16 = precision == "bf16"
            runs = {"ERM": step(erm, batch, bf16), "method": step(method, batch, bf16)}
            with tf32(precision == "TF32"):
                taken = by_turns(runs, setup.device, setup.repeats)
            cells += [f"{1000 * taken['method']:.1f}", f"{taken['method'] / taken['ERM']:.3f}"]
        return Row(tuple(cells))

    yield from each(setup.algorithms, compare)


SECTION = Section(
    "steps",
    "A training step: ms, and the ratio to ERM's by turns with it (ResNet-50, 3 x 32 x 3 x 224 x 224, Adam)",
    ("method", *(heading for precision in PRECISIONS for heading in (f"{precision}, ms", "to ERM"))),
    110,
    rows,
)
