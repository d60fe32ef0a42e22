"""Counting what a GPU would do, on tensors of the device `meta`, which need none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_WRITE_ONLY = ("aten::copy_", "aten::fill_", "aten::zero_")  # operations that do not read their first argument
_LIKE = ("aten::new_zeros", "aten::new_full", "aten::zeros_like", "aten::ones_like")  # nor any of its values
_NO_KERNEL = ("aten::empty", "aten::new_empty", "aten::empty_like", "aten::detach", "aten::_unsafe_view")


class KernelCount(TorchDispatchMode):
    """Counts the operations within this context that are kernels on a GPU, and the bytes that they read and write.

    Views and allocations are no kernels. Each tensor counts once per operation, without its expanded dimensions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels = 0
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func._schema.name
        if not func.is_view and name not in _NO_KERNEL:
            read = args[1:] if name in _WRITE_ONLY + _LIKE else args
            self.kernels += 1
            self.bytes += _bytes([read, [value for key, value in kwargs.items() if key != "out"]]) + _bytes(result)
        return result


def _bytes(value: Any) -> int:
    tensors = {id(tensor): tensor for tensor in _tensors(value)}
    return sum(_size(tensor) for tensor in tensors.values())


def _size(tensor: torch.Tensor) -> int:
    size = tensor.element_size()
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        size *= length if stride else 1
    return size


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _tensors(inner)
