"""The time of the loss, forward and backward, beside two calls of pytorch-msssim, and whether they agree."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.gpu.agreement import difference
from benchmarks.gpu.section import Row, Section, Setup
from benchmarks.gpu.timing import by_turns, tf32
from benchmarks.perceptual import contestants, forward_and_backward

CASES = ((32, 96, 224), (64, 64, 36))
SMALL_CASES = ((2, 3, 176), (2, 3, 20))
LIMIT = 1e-4  # of a similarity in [0, 1], and of a gradient relative to the largest


def rows(setup: Setup) -> Iterator[Row]:
    """Each case without and with TF32; ours is then compared with the CPU's, with its gradient."""
    for case in SMALL_CASES if setup.small else CASES:
        for allowed in (False, True) if setup.cuda else (False,):
            with tf32(allowed):
                yield compare(setup, *case, precision="TF32" if allowed else "float32")


def compare(setup: Setup, anchors: int, images: int, side: int, precision: str) -> Row:
    """One row: the times, their ratio and the differences."""
    morphed, compared = contestants(anchors, images, side, setup.device)
    names = ("ours", "theirs")[: len(compared)]
    runs = {
        name: partial(forward_and_backward, contestant, morphed)
        for name, contestant in zip(names, compared, strict=True)
    }
    taken = {name: 1000 * value for name, value in by_turns(runs, setup.device, 5 * setup.repeats).items()}
    on_cpu, (reference, *_) = contestants(anchors, images, side)
    forward_and_backward(compared[0], morphed)
    forward_and_backward(reference, on_cpu)
    assert morphed.grad is not None and on_cpu.grad is not None
    with torch.no_grad():
        expected = torch.stack(reference())
        values = [torch.stack(contestant()).cpu() for contestant in compared]
    differences = [difference([morphed.grad.cpu()], [on_cpu.grad])]
    differences += [(value - expected).abs().max().item() for value in values[:1]]
    right = max(differences) <= LIMIT
    theirs = ["cannot run", ""]
    if "theirs" in taken:
        theirs = [f"{taken['theirs']:.2f}", f"{taken['theirs'] / taken['ours']:.2f}"]
    apart = f"{(values[0] - values[1]).abs().max().item():.1e}" if len(values) > 1 else ""
    cells = (f"{anchors} anchors, {images} x 3 x {side} x {side}", precision, f"{taken['ours']:.2f}", *theirs)
    return Row((*cells, *(f"{value:.1e}" for value in reversed(differences)), apart, "yes" if right else "NO"), right)


SECTION = Section(
    "loss",
    "Forward and backward of triplet_ms_ssim beside two calls of pytorch-msssim (ms, and the largest differences; "
    f"{LIMIT:g} from the CPU's is accepted, with TF32 allowed too)",
    (
        *("case", "precision", "triplet_ms_ssim", "2 x pytorch-msssim", "times as fast"),
        *("from the CPU's", "gradient from the CPU's", "from pytorch-msssim's", "agree"),
    ),
    30,
    rows,
)
