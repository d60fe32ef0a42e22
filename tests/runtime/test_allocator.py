"""That freed memory is kept where the C library can: a large block, asked for again, is not faulted in anew."""

from __future__ import annotations

import subprocess
import sys

import pytest

COUNT_FAULTS = """
import ctypes, resource
from cim_dg.runtime.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        block = libc.malloc(SIZE)
        ctypes.memset(block, 1, SIZE)
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
SIZE = 100 * 2**20
without = faults()
print(keep_freed_memory(), without, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux'")
def test_a_freed_block_is_used_again() -> None:
    done = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True, check=True)
    kept, without, with_it = done.stdout.split()
    if kept == "False":
        pytest.skip("this C library has no mallopt")
    if int(without) == 0:
        pytest.skip("this kernel counts no page faults")
    # The first of the five still has to fault its block in.
    assert int(with_it) < int(without) / 2


def test_elsewhere_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from cim_dg.runtime import allocator

    monkeypatch.setattr(sys, "platform", "darwin")
    assert allocator.keep_freed_memory() is False
