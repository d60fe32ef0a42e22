"""SCL: supervised contrastive learning, trained end to end with the classifier (the paper's SCL_E2E)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cim_dg.algorithms.base import Algorithm, Batch, Output, matmul, mean_over, register, share
from cim_dg.nn.networks import ProjectionHead


def supervised_contrastive_loss(z: Tensor, y: Tensor, temperature: float = 0.1) -> tuple[Tensor, Tensor]:
    r"""The loss :math:`L_{out}` of Khosla et al. 2020 (arXiv 2004.11362, equation 2), averaged over anchors.

    .. math::
        L_i = \frac{-1}{|P(i)|} \sum_{p \in P(i)} \log
              \frac{\exp(z_i \cdot z_p / \tau)}{\sum_{a \neq i} \exp(z_i \cdot z_a / \tau)}

    with P(i) the other images of i's class in the batch. The mean leaves out anchors without such an image.

    Args:
        z: (N, D) rows of length 1.
        y: (N,) class indices.
        temperature: :math:`\tau` > 0.

    Returns:
        The loss, a scalar of at least 0 (0 if no anchor has a positive), and whether each anchor has one, (N,) bool.
    """
    itself = torch.eye(len(y), dtype=torch.bool, device=y.device)
    similarity = (matmul(z, z.T) / temperature).masked_fill(itself, float("-inf"))
    log_probability = similarity - torch.logsumexp(similarity, dim=1, keepdim=True)
    positive = (y[:, None] == y[None, :]) & ~itself
    count = positive.sum(dim=1)
    # where() rather than a product: the diagonal is -inf, and 0 * -inf is not a number.
    per_anchor = -torch.where(positive, log_probability, 0.0).sum(dim=1) / count.clamp_min(1)
    return mean_over(per_anchor, count > 0), count > 0


@register("SCL")
class SCL(Algorithm):
    r"""Minimises :math:`L_{sup} + w L_{out}` in one step, the contrast on a projection of the features."""

    def build(self, n_features: int, make_classifier: Callable[[int], nn.Module]) -> None:
        """Create the classifier and the projection head."""
        super().build(n_features, make_classifier)
        self.projection = ProjectionHead(n_features, self.hparams["scl_dim"])

    def objective(self, features: Tensor, batch: Batch) -> Output:
        """Cross entropy plus the weighted contrast of the projected features."""
        logits = self.classify(features)
        supervised = F.cross_entropy(logits, batch.y)
        z = self.projection(features).float()  # exponents of z / temperature: too coarse in half precision
        contrast, has_positive = supervised_contrastive_loss(z, batch.y, self.hparams["scl_temperature"])
        loss = supervised + self.hparams["scl_weight"] * contrast
        return Output.of(logits, loss, supervised=supervised, contrast=contrast, positives=share(has_positive))
