"""Pairs of images, and what a similarity makes of them, for the tests of the perceptual loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pair(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0, noise: float = 0.3) -> tuple[Tensor, Tensor]:
    """Two images that have something in common."""
    generator = torch.Generator().manual_seed(seed)
    x = F.avg_pool2d(torch.rand(shape, dtype=dtype, generator=generator), 3, 1, 1)
    y = (x + noise * torch.randn(shape, dtype=dtype, generator=generator)).clamp(0, 1)
    return x, y


def value_and_gradients(function, x: Tensor, y: Tensor, **options) -> list[Tensor]:
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    value = function(x, y, **options)
    weights = torch.arange(1, len(value) + 1, dtype=value.dtype)
    return [value.detach(), *torch.autograd.grad((value * weights).sum(), (x, y))]
