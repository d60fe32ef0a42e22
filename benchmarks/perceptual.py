"""The time of CIM's contrastive term, forward and backward, compared with two calls of pytorch-msssim in the same run.

Both compute the same similarities, and their gradient to the morphed images only, as in training. pytorch-msssim gets
our window for that size. If it does not accept the size, only our time is measured. The two run in turn, and the best
time of each counts, because it is the least disturbed one.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import pytorch_msssim
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from cim_dg.nn.perceptual import scales_and_window, triplet_ms_ssim

BATCHES = {24: 64, 32: 64, 36: 64, 48: 64, 64: 32, 96: 32, 128: 16, 161: 16, 224: 16, 320: 8, 448: 4}
LIMITS = {224: 3.0}  # times as fast as pytorch-msssim; elsewhere not slower
Similarities = tuple[Tensor, Tensor]


def main() -> int:
    """Print the table; 1 if a ratio is below its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default: 1)")
    parser.add_argument("--sizes", type=int, nargs="+", choices=BATCHES, default=list(BATCHES), help="sides in pixels")
    parser.add_argument("--rounds", type=int, default=7, help="at least so many, of which the best is shown (7)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    table = Table(title=f"forward and backward, {args.threads} thread(s), best of {args.rounds} or more, in ms")
    for heading in ("batch", "triplet_ms_ssim", "2 x pytorch_msssim.ms_ssim", "times as fast"):
        table.add_column(heading, justify="right")
    missed = False
    for size in args.sizes:
        ours, theirs = milliseconds(size, BATCHES[size], args.rounds)
        row = [f"{BATCHES[size]}x3x{size}x{size}", f"{ours:.1f}", "n/a", "n/a"]
        if theirs is not None:
            row[2:] = [f"{theirs:.1f}", f"{theirs / ours:.1f}"]
            missed |= theirs / ours < LIMITS.get(size, 1.0)
        table.add_row(*row)
    Console().print(table)
    return int(missed)


def milliseconds(size: int, batch: int, rounds: int) -> tuple[float, float | None]:
    """Best times of ours and of pytorch-msssim; None where the latter cannot run."""
    morphed, compared = contestants(batch, batch, size)
    times: list[list[float]] = [[] for _ in compared]
    while len(times[0]) <= rounds or sum(times[0]) < 1:  # at least a second, because small images take little time
        for contestant, spent in zip(compared, times, strict=True):
            spent.append(seconds(contestant, morphed))
    best = [1000 * min(spent[1:]) for spent in times]  # the first round warms up
    return best[0], best[1] if len(best) > 1 else None


def contestants(
    anchors: int, images: int, size: int, device: str | torch.device = "cpu"
) -> tuple[Tensor, list[Callable[[], Similarities]]]:
    """The morphed images, and what compares them: our function, and pytorch-msssim where it can run.

    The images are the same on every device.
    """
    generator = torch.Generator().manual_seed(0)
    candidates = torch.rand(images, 3, size, size, generator=generator)
    morphed = candidates[:anchors] * torch.rand(anchors, 1, size, size, generator=generator)
    positive, negative = (torch.randint(images, (anchors,), generator=generator).to(device) for _ in range(2))
    candidates, morphed = candidates.to(device), morphed.to(device).requires_grad_()
    window = scales_and_window(size, size)[1]

    def ours() -> Similarities:
        return triplet_ms_ssim(morphed, candidates, positive, negative)

    def theirs() -> Similarities:
        options = {"data_range": 1.0, "size_average": False, "win_size": window}
        return (
            pytorch_msssim.ms_ssim(morphed, candidates[positive], **options),
            pytorch_msssim.ms_ssim(morphed, candidates[negative], **options),
        )

    return morphed, [ours, theirs] if size > 16 * (window - 1) else [ours]


def seconds(similarities: Callable[[], Similarities], morphed: Tensor) -> float:
    """The time of one forward and backward pass of the triplet's loss, on a CPU."""
    start = time.perf_counter()
    forward_and_backward(similarities, morphed)
    return time.perf_counter() - start


def forward_and_backward(similarities: Callable[[], Similarities], morphed: Tensor) -> None:
    """The triplet's loss, and its gradient to the morphed images."""
    morphed.grad = None
    positives, negatives = similarities()
    (negatives - positives).mean().backward()


if __name__ == "__main__":
    sys.exit(main())
