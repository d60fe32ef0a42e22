"""Random changes of an image's colours as a differentiable function of four parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from cim_dg.images.operations import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation

CENTRE = (1.0, 1.0, 1.0, 0.0)
"""The parameters that change nothing: the factors of brightness, contrast and saturation, and the shift of the hue."""
REACH = (0.8, 0.8, 0.8, 0.2)
"""How far from the centre they go at strength 1 (Chen et al. 2020, arXiv 2002.05709, appendix A)."""


def draw_colours(
    *shape: int, strength: float, generator: torch.Generator | None = None, device: torch.device | None = None
) -> Tensor:
    """Parameters (*shape, 4), each uniform within `strength` times its reach of its centre.

    Args:
        shape: of the result, but for the last dimension.
        strength: in [0, 1]; 0 for no change.
        generator: of `device`; the global one if None.
        device: where the result is to lie.
    """
    spread = 2.0 * torch.rand(*shape, 4, generator=generator, device=device) - 1.0
    return spread * (strength * spread.new_tensor(REACH)) + spread.new_tensor(CENTRE)


def change_colours(pixels: Tensor, parameters: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue, in this order; without RGB the first two (see `operations`).

    Args:
        pixels: (N, C, H, W) in [0, 1].
        parameters: (N, 4); has a gradient.

    Returns:
        (N, C, H, W) in [0, 1].
    """
    brightness, contrast, saturation, hue = parameters.unbind(dim=1)
    pixels = adjust_contrast(adjust_brightness(pixels, brightness), contrast)
    return adjust_hue(adjust_saturation(pixels, saturation), hue)
