"""The GPU memory that a training needs, estimated from a few images on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

FEW = (2, 4)
RESERVE_GIB = 1.5
"""CUDA's context, and the overhead of cuDNN and the allocator."""
SLACK = 1.2
COPIES = 4
"""The copies of every parameter: its value, its gradient, and Adam's two moments."""


def training_gib(module: nn.Module, step: Callable[[int], object], images: int) -> float:
    """The GiB of a training step on `images` images; see `gib_line`."""
    base, per_image = gib_line(module, step)
    return base + images * per_image


def gib_line(module: nn.Module, step: Callable[[int], object]) -> tuple[float, float]:
    """The GiB of a training step without images, and per image, from two small steps.

    The memory that autograd keeps is assumed to be linear in the number of images. Activations are most of it.

    Args:
        module: the trained module, on the CPU.
        step: does one training step, or its forward pass, on the given number of images, a multiple of 2.
    """
    few, more = (_saved_bytes(module, functools.partial(step, n)) for n in FEW)
    per_image = max(0.0, (more - few) / (FEW[1] - FEW[0]))
    parameters = sum(p.numel() * p.element_size() for p in module.parameters())
    fixed = COPIES * parameters + SLACK * max(0.0, few - FEW[0] * per_image)
    return RESERVE_GIB + fixed / 2**30, SLACK * per_image / 2**30


def _saved_bytes(module: nn.Module, act: Callable[[], object]) -> int:
    """The bytes of the tensors, except parameters, that autograd saves for the backward pass, each storage once."""
    parameters = {p.untyped_storage().data_ptr() for p in module.parameters()}
    saved: dict[int, Tensor] = {}  # the tensors themselves, so that no storage is freed and its address reused

    def pack(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in parameters:
            saved[address] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        act()
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
