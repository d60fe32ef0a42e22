"""Transformation invariance by a gradient penalty (Foster, Pukdee & Rainforth, ICLR 2021, arXiv 2010.09515)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cim_dg.algorithms.base import Algorithm, Batch, Output, register, share
from cim_dg.algorithms.scl import supervised_contrastive_loss
from cim_dg.images.colours import change_colours, draw_colours
from cim_dg.nn.networks import ProjectionHead

FRESH = 100
"""Draws of alpha' per image in the penalty, as in the authors' code; they need no pass of the network."""


def gradient_penalty(h: Tensor, parameters: Tensor, signs: Tensor, fresh: Tensor, limit: float = 1.0) -> Tensor:
    r"""The change of the encoding, to first order, under other parameters of the transformation.

    .. math::
        g_i = \nabla_{\alpha_i} \sum_k \epsilon_k \cdot h_k, \qquad
        L = \min\left(U, \frac{1}{N L} \sum_{i, l} \left(g_i \cdot (\alpha'_{il} - \alpha_i)\right)^2\right)

    In expectation over the random signs :math:`\epsilon`, the square is the sum of the squared changes of h's entries.

    Args:
        h: (N, D), the encodings, computed from `parameters` with gradients enabled.
        parameters: (N, P), alpha; requires a gradient.
        signs: (N, D) of -1 and 1, epsilon.
        fresh: (L, N, P), alpha', other draws of the same distribution.
        limit: U; a mean above it has no gradient.

    Returns:
        A scalar in [0, limit]; it carries a gradient if gradients are enabled.
    """
    (gradient,) = torch.autograd.grad(h, parameters, signs, create_graph=torch.is_grad_enabled())
    change = (gradient * (fresh - parameters.detach())).sum(dim=-1)
    return change.square().mean().clamp(max=limit)


@register("TransformInvariance")
class TransformInvariance(Algorithm):
    r"""Minimises :math:`L_{sup} + \lambda L` on images in random colours, L being `gradient_penalty`.

    The parameters are those of `cim_dg.images.colours`; h are the classifier's features, scaled to length 1 as in the
    authors' code. `ti_objective: contrastive` adds SCL's contrast to the loss.
    """

    def build(self, n_features: int, make_classifier: Callable[[int], nn.Module]) -> None:
        """Create the classifier and, for the contrastive objective, the projection head."""
        super().build(n_features, make_classifier)
        contrastive = self.hparams["ti_objective"] == "contrastive"
        self.projection = ProjectionHead(n_features, self.hparams["scl_dim"]) if contrastive else None

    def forward(self, batch: Batch) -> Output:
        """Cross entropy plus the weighted gradient penalty, on images in random colours."""
        device, strength = batch.x.device, self.hparams["ti_strength"]
        generator = None if self.training else torch.Generator(device).manual_seed(0)
        parameters = draw_colours(len(batch.x), strength=strength, generator=generator, device=device)
        fresh = draw_colours(FRESH, len(batch.x), strength=strength, generator=generator, device=device)
        with torch.enable_grad():  # in evaluation too, under a harness' no_grad
            parameters.requires_grad_()
            pixels = change_colours(self.pixel_space.to_pixels(batch.x), parameters)
            features = self.encode(self.pixel_space.from_pixels(pixels))
            h = F.normalize(features.float(), dim=1)
        signs = 2 * torch.randint(2, h.shape, generator=generator, device=device).to(h) - 1
        penalty = gradient_penalty(h, parameters, signs, fresh.to(h), self.hparams["ti_limit"])
        # Training classifies the images in the colours drawn, evaluation the images themselves.
        logits = self.classify(features if self.training else self.encode(batch.x))
        supervised = F.cross_entropy(logits, batch.y)
        loss = supervised + self.hparams["ti_weight"] * penalty
        terms = {"supervised": supervised, "penalty": penalty}
        if self.projection is not None:
            z = self.projection(features).float()
            contrast, has_positive = supervised_contrastive_loss(z, batch.y, self.hparams["scl_temperature"])
            loss = loss + self.hparams["scl_weight"] * contrast
            terms |= {"contrast": contrast, "positives": share(has_positive)}
        return Output.of(logits, loss, **terms)
