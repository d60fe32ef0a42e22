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

    Views, allocations and what concerns the CPU's tensors alone are no kernels. The gradients of a convolution are a
    kernel each. An operation on lists of tensors (`torch._foreach_*`) is one kernel; a GPU takes several for lists of
    more than some 20 million numbers, such as an optimiser's. Each tensor counts once per operation, in a list once per
    place, without its expanded dimensions.
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
        on_device = any(tensor.device.type != "cpu" for tensor in _tensors([args, list(kwargs.values()), result]))
        if on_device and not func.is_view and name not in _NO_KERNEL:
            read = args[1:] if name in _WRITE_ONLY + _LIKE else args
            self.kernels += sum(args[-1]) if name == "aten::convolution_backward" else 1
            operands = [*read, *(value for key, value in kwargs.items() if key != "out")]
            if name.startswith("aten::_foreach"):
                places = zip(*(operand for operand in operands if _is_list_of_tensors(operand)), strict=True)
                written = operands[0] if name.endswith("_") else result
                self.bytes += sum(map(_bytes, places)) + _bytes(written)
            else:
                self.bytes += _bytes(operands) + _bytes(result)
        return result


def _is_list_of_tensors(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(each, torch.Tensor) for each in value)


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
