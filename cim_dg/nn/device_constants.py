"""Constants on a GPU that are neither copied to it nor made anew in each step."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def constants(values: tuple[float, ...], like: Tensor) -> Tensor:
    """The 1-d tensor of `values`, of the type and on the device of `like`; not to be written to.

    Each value is filled in by a kernel, since a copy to a GPU would wait for it. Later calls return the same tensor,
    except for tensors without data and while a CUDA graph is captured, when nothing is computed yet.
    """
    capturing = like.is_cuda and torch.cuda.is_current_stream_capturing()
    if capturing or type(like) is not Tensor or torch.compiler.is_compiling():
        return _fill(values, like.dtype, like.device)
    return _kept(values, like.dtype, like.device)


def _fill(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # so that it can take part in training, too
        tensor = torch.empty(len(values), dtype=dtype, device=device)
    for place, value in zip(tensor, values, strict=True):
        place.fill_(value)
    return tensor


_kept = functools.cache(_fill)
