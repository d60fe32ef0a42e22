"""Compute in another precision than float32, so that figures do not belong to one processor.

Processors add and multiply in different orders (SSE, AVX2, AVX-512, Neon), so the last digit of a result differs, and
training magnifies it: in float32 up to 2e-4 of a loss was seen after 12 steps. The last digit of float64 is 2^29 times
smaller, and so is what training makes of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch


@contextmanager
def computing_in(dtype: torch.dtype) -> Iterator[None]:
    """Make `dtype` (float32 or float64) the precision of new tensors, and of `Tensor.float()`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with mock.patch.object(torch.Tensor, "float", lambda self: self.to(dtype)):
            yield
    finally:
        torch.set_default_dtype(before)
