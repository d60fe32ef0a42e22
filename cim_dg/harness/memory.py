"""How much of a GPU's memory a training needs, estimated from a few images on the CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

FEW = (2, 4)
RESERVE_GIB = 1.5
"""CUDA's context, and what cuDNN and the allocator take besides."""
SLACK = 1.2
COPIES = 4
"""Of every parameter: its value, its gradient, and the two moments of Adam."""


def training_gib(module: nn.Module, step: Callable[[int], object], images: int) -> float:
    """The GiB of a training step on `images` images; see `gib_line`."""
    base, per_image = gib_line(module, step)
    return base + images * per_image


def gib_line(module: nn.Module, step: Callable[[int], object]) -> tuple[float, float]:
    """The GiB of a training step without images, and those of each image, from two small steps.

    What autograd keeps is taken as linear in the number of images; the activations are by far the most of it.

    Args:
        module: what is trained, on the CPU.
        step: does one training step, or its forward pass, on so many images, a multiple of 2.
    """
    few, more = (_kept_bytes(module, functools.partial(step, n)) for n in FEW)
    per_image = max(0.0, (more - few) / (FEW[1] - FEW[0]))
    parameters = sum(p.numel() * p.element_size() for p in module.parameters())
    fixed = COPIES * parameters + SLACK * max(0.0, few - FEW[0] * per_image)
    return RESERVE_GIB + fixed / 2**30, SLACK * per_image / 2**30


def _kept_bytes(module: nn.Module, act: Callable[[], object]) -> int:
    """The bytes of the tensors that autograd keeps for the backward pass, other than parameters, each storage once."""
    parameters = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, Tensor] = {}  # the tensors themselves, so that no storage is freed and its address used again

    def pack(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in parameters:
            kept[address] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        act()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
