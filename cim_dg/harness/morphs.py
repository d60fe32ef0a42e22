"""What a method with a mask makes of images, to be drawn or kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cim_dg.algorithms import Algorithm
from cim_dg.results.morph_picture import Morphs


def morphs_of(method: Algorithm, images: Tensor, names: Sequence[str] = ()) -> Morphs:
    """The morphs of images (N, C, H, W), in the method's normalisation, by a method with `morph(x)`.

    It is used in evaluation mode, and left in its own.
    """
    training, device = method.training, next(method.parameters()).device
    drawing: Any = method.eval()
    try:
        with torch.no_grad():
            morph = drawing.morph(images.to(device))
    finally:
        method.train(training)
    pixels, masks = (values.float().cpu().numpy() for values in (morph.pixels, morph.mask))
    return Morphs(method.name, pixels, masks, names)
