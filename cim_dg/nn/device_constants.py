"""Constants on a GPU that are neither copied to it nor made anew in each step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import TypeVar

import torch
from torch import Tensor

_Argument = TypeVar("_Argument", bound=Hashable)


def kept(
    make: Callable[[_Argument, torch.dtype, torch.device], Tensor],
) -> Callable[[_Argument, Tensor], Tensor]:
    """Decorates a function that makes a constant; it is then called with its argument and a tensor that the constant
    is to be like, in type and device.

    Later calls return the same tensor, not to be written to, except for tensors without data and while a CUDA graph is
    captured, when nothing is computed yet.
    """

    def make_for_training_too(argument: _Argument, dtype: torch.dtype, device: torch.device) -> Tensor:
        with torch.inference_mode(False):
            return make(argument, dtype, device)

    keep = functools.cache(make_for_training_too)

    def get(argument: _Argument, like: Tensor) -> Tensor:
        capturing = like.is_cuda and torch.cuda.is_current_stream_capturing()
        if capturing or type(like) is not Tensor or torch.compiler.is_compiling():
            return make_for_training_too(argument, like.dtype, like.device)
        return keep(argument, like.dtype, like.device)

    get.__name__, get.__qualname__, get.__doc__ = make.__name__, make.__qualname__, make.__doc__
    return get


@kept
def constants(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The 1-d tensor of `values`. Each is filled in by a kernel, since a copy to a GPU would wait for it."""
    tensor = torch.empty(len(values), dtype=dtype, device=device)
    for place, value in zip(tensor, values, strict=True):
        place.fill_(value)
    return tensor


@kept
def is_diagonal(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(size, size) booleans, true on the diagonal, whatever the type."""
    return torch.eye(size, dtype=torch.bool, device=device)
