"""MS-SSIM from its means at each scale, for a GPU: the same as `perceptual._power` and a product, in few kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cim_dg.nn.device_constants import constants, is_diagonal


def scale_product(means: Tensor, weights: Sequence[float], floor: float) -> Tensor:
    """The mean over channels of the product over scales j of means[j]^weights[j].

    Below `floor` the straight line through 0 that meets the power there replaces it, and 0 below 0.

    Args:
        means: (S, K, A, C).
        weights: S exponents in (0, 1].
        floor: above 0.

    Returns:
        (K, A). Differentiable once.
    """
    shape = (len(weights), 1, 1, 1)
    exponents = constants(tuple(weights), means).view(shape)
    lines = constants(tuple(floor ** (weight - 1) for weight in weights), means).view(shape)
    return _ScaleProduct.apply(means, exponents, lines, floor)


class _ScaleProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, means: Tensor, exponents: Tensor, lines: Tensor, floor: float) -> Tensor:
        above_0 = means.relu()
        powers = torch.minimum(above_0**exponents, above_0 * lines)  # the line is below the power until they meet
        ctx.save_for_backward(means, exponents, powers)
        ctx.floor = floor
        return powers.prod(dim=0).mean(dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """d of the product by means[j] is the product of the other powers times the slope of power j."""
        means, exponents, powers = ctx.saved_tensors
        itself = is_diagonal(len(powers), powers).view(*2 * powers.shape[:1], 1, 1, 1)
        others = powers.expand(len(powers), -1, -1, -1, -1).masked_fill(itself, 1.0)
        # The slope of the line is its quotient, and that of a power its exponent times the quotient.
        quotients = powers / means.clamp(min=torch.finfo(means.dtype).tiny)
        slopes = exponents.expand_as(means).masked_fill(means <= ctx.floor, 1.0).mul_(quotients)
        by_power = others.prod(dim=1).mul_(slopes)
        return by_power.mul_((grad / means.shape[-1]).unsqueeze(-1)), None, None, None
