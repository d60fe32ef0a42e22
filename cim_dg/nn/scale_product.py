"""MS-SSIM from its means at each scale, for a GPU: the same as `perceptual._power` and a product, in few kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cim_dg.nn.device_constants import constants, is_diagonal


def scale_product(means: Tensor, weights: Sequence[float], floor: float, simple: bool = False) -> tuple[Tensor, Tensor]:
    """The mean over channels of the product over scales j of means[j]^weights[j].

    Below `floor` the straight line through 0 that meets the power there replaces it, and 0 below 0.

    Args:
        means: (S, K, A, C).
        weights: S exponents in (0, 1].
        floor: above 0.
        simple: take (1 + m) / 2 in place of each mean m.

    Returns:
        (K, A), differentiable once; and the same of the means themselves, without a gradient.
    """
    shape = (len(weights), 1, 1, 1)
    exponents = constants(tuple(weights), means).view(shape)
    lines = constants(tuple(floor ** (weight - 1) for weight in weights), means).view(shape)
    # (1 + m) / 2 beside the means as they are, with an offset and a factor for each: both products in the same kernels.
    offset, factor = (constants(each, means).view(2, 1, 1, 1, 1) for each in ((0.5, 0.0), (0.5, 1.0)))
    values, published = _ScaleProduct.apply(means, exponents, lines, floor, (offset, factor) if simple else None)
    return values, published


class _ScaleProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, means: Tensor, exponents: Tensor, lines: Tensor, floor: float, both: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        bases = torch.addcmul(*both, means) if both else means.unsqueeze(0)
        above_0 = bases.relu()
        powers = torch.minimum(above_0**exponents, above_0 * lines)  # the line is below the power until they meet
        ctx.save_for_backward(bases[0], exponents, powers[0])
        ctx.floor, ctx.slope = floor, 0.5 if both else 1.0
        ctx.set_materialize_grads(False)
        products = powers.prod(dim=1).mean(dim=-1)
        values, published = products[0], products[-1]
        ctx.mark_non_differentiable(published)
        return values, published

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        """d of the product by means[j] is the product of the other powers times the slope of power j."""
        if grad is None:
            return (None,) * 5
        means, exponents, powers = ctx.saved_tensors
        itself = is_diagonal(len(powers), powers).view(*2 * powers.shape[:1], 1, 1, 1)
        others = powers.expand(len(powers), -1, -1, -1, -1).masked_fill(itself, 1.0)
        # The slope of the line is its quotient, and that of a power its exponent times the quotient.
        quotients = powers / means.clamp(min=torch.finfo(means.dtype).tiny)
        slopes = exponents.expand_as(means).masked_fill(means <= ctx.floor, 1.0).mul_(quotients)
        by_power = others.prod(dim=1).mul_(slopes)
        return by_power.mul_((grad / (means.shape[-1] / ctx.slope)).unsqueeze(-1)), None, None, None, None
