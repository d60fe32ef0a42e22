"""Times on a device: by CUDA events on a GPU, by the clock on a CPU."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping

import torch

WARM_UP = 2
"""Calls before the first that is timed: they make the optimiser's state, load kernels and grow the allocator."""
PRECISIONS = ("float32", "TF32", "bf16")


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """The time of one call, up to the end of what it gave the device to do."""
    if device.type != "cuda":
        began = time.perf_counter()
        run()
        return time.perf_counter() - began
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def by_turns(runs: Mapping[str, Callable[[], object]], device: torch.device, repeats: int) -> dict[str, float]:
    """The median seconds of each of `runs`, which take turns: a change of the clock rate slows all of them alike."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(WARM_UP + repeats):
        for name, run in runs.items():
            spent = seconds(run, device)
            if repeat >= WARM_UP:
                taken[name].append(spent)
    return {name: statistics.median(times) for name, times in taken.items()}


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or refuse TF32 in products and convolutions, as users do."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
