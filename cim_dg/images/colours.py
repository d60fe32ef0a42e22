"""Random changes of an image's colours as a differentiable function of four parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from cim_dg.images.operations import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation

CENTRE = (1.0, 1.0, 1.0, 0.0)
"""The parameters that change nothing: the factors of brightness, contrast and saturation, and the shift of the hue."""
REACH = (0.8, 0.8, 0.8, 0.2)
"""The largest distances from the centre at strength 1 (Chen et al. 2020, arXiv 2002.05709, appendix A)."""


def draw_colours(
    *shape: int, strength: float, generator: torch.Generator | None = None, device: torch.device | None = None
) -> Tensor:
    """Draw parameters, each uniformly from its centre plus or minus `strength` times its reach.

    Args:
        shape: of the result, without its last dimension.
        strength: in [0, 1]; 0 for no change.
        generator: a generator of `device`; None for the global one.
        device: of the result.

    Returns:
        `(*shape, 4)`: brightness, contrast, saturation, hue.
    """
    spread = 2.0 * torch.rand(*shape, 4, generator=generator, device=device) - 1.0
    reach, centre = (torch.tensor(values, dtype=spread.dtype, device="cpu") for values in (REACH, CENTRE))
    reach = strength * reach
    # Non-blocking copies, which do not wait for the device.
    reach, centre = (values.to(spread.device, non_blocking=True) for values in (reach, centre))
    return spread * reach + centre


def change_colours(pixels: Tensor, parameters: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue, in this order; without RGB the first two (see `operations`).

    Args:
        pixels: (N, C, H, W) in [0, 1].
        parameters: (N, 4), as `draw_colours` gives them; the result is differentiable in them.

    Returns:
        (N, C, H, W) in [0, 1].
    """
    brightness, contrast, saturation, hue = parameters.unbind(dim=1)
    pixels = adjust_contrast(adjust_brightness(pixels, brightness), contrast)
    return adjust_hue(adjust_saturation(pixels, saturation), hue)
