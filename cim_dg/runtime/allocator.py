"""Keeps the memory that PyTorch frees on the CPU, instead of asking the system for it again in every step."""

from __future__ import annotations

import ctypes
import sys

# <malloc.h>
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Make malloc reuse large blocks; call it before training on a CPU. Gives whether this C library can (glibc).

    By default glibc maps every large block anew and unmaps it when it is freed: the activations of a step on images of
    224 pixels are then page-faulted in again in each step, which can take longer than computing them. No result
    changes. The process keeps the most memory that it has ever needed at once.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl, for one, has none
        return False
    # 2 GiB less a byte, the largest value there is, before the end of the heap is given back; 64 MiB more at a time.
    return all([mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, 2**31 - 1), mallopt(_M_TOP_PAD, 64 * 2**20)])
