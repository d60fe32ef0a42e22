"""Measure on a GPU what can be measured only there, and print it as Markdown tables for the docs.

From the root of the checkout: python -m benchmarks.gpu > gpu.md. The time limits of the sections add up to less than 8
minutes. The exit code is 1 if a result is not the CPU's, or if a section failed, and 2 without a GPU.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.gpu import (
    agreement,
    data_parallel,
    loaders,
    loss,
    machine,
    memory,
    packing,
    resume,
    steps,
    waits,
)
from benchmarks.gpu.section import Setup, measure
from cim_dg.algorithms import REGISTRY
from cim_dg.errors import UserError, exit_code

MODULES = (machine, agreement, loss, steps, waits, memory, packing, loaders, resume, data_parallel)
SECTIONS = {module.SECTION.name: module.SECTION for module in MODULES}
FIRST = ("CIM", "CIM_VIB", "ERM")
"""The methods in the order of interest, as a slow card may not come to the last."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*FIRST, *(name for name in REGISTRY if name not in FIRST)]
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu only with --small")
    parser.add_argument("--small", action="store_true", help="a tiny network, to try the script itself")
    parser.add_argument("--sections", nargs="+", default=list(SECTIONS), choices=list(SECTIONS), metavar="NAME")
    parser.add_argument("--algorithms", nargs="+", default=names, choices=names, metavar="NAME")
    parser.add_argument("--repeats", type=int, default=5, help="of each time, of which the median counts (default 5)")
    arguments = parser.parse_args()
    check(arguments)
    begun, right = time.monotonic(), True
    if arguments.small:
        print("A trial of the script on a tiny network, whatever the titles say: its figures mean nothing.\n")
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        for name in arguments.sections:
            own = Path(folder, name)
            own.mkdir()
            setup = Setup(
                torch.device(arguments.device), arguments.small, tuple(arguments.algorithms), arguments.repeats, own
            )
            text, passed = measure(SECTIONS[name], setup)
            print(text, flush=True)
            right &= passed
    print(f"{time.monotonic() - begun:.0f} s, {'nothing is wrong' if right else 'SOMETHING IS WRONG'}", file=sys.stderr)
    return int(not right)


def check(arguments: argparse.Namespace) -> None:
    """Check the arguments.

    Raises:
        UserError: there is no GPU, or an option is not accepted.
    """
    if arguments.repeats < 1:
        raise UserError(f"--repeats is {arguments.repeats}; it must be at least 1")
    if arguments.device == "cpu" and not arguments.small:
        raise UserError("--device cpu is accepted only with --small: it tries the script, and measures nothing")
    if arguments.device == "cuda":
        # Asked in another process: one that has asked may not start processes that use the GPU.
        with multiprocessing.get_context("fork").Pool(1) as pool:
            available = pool.apply(torch.cuda.is_available)
        if not available:
            raise UserError(
                "PyTorch can use no GPU here, and this measures one; --device cpu --small tries the script without"
            )


if __name__ == "__main__":
    sys.exit(exit_code(main))
