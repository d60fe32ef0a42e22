"""Keeps the memory that PyTorch frees on the CPU, instead of requesting it from the system again in every step."""

from __future__ import annotations

import ctypes
import sys

# <malloc.h>
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Make malloc reuse large blocks; call it before training on a CPU. Returns whether the C library supports it
    (glibc).

    By default glibc maps every large block again and unmaps it when it is freed. The activations of a step on images of
    224 pixels then cause page faults in each step, which can take longer than computing them. Results do not change.
    The process keeps the largest amount of memory that it has needed at once.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl, for example, has none
        return False
    # Trim the heap's end only above 2 GiB - 1 byte, the largest possible value; grow it by 64 MiB at a time.
    return all([mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, 2**31 - 1), mallopt(_M_TOP_PAD, 64 * 2**20)])
