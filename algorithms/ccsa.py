"""CCSA: classification and contrastive semantic alignment (Motiian et al., ICCV 2017, arXiv 1709.10190)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cim_dg.algorithms.base import Algorithm, Batch, Output, mean_over, register, share


def semantic_alignment(features: Tensor, y: Tensor, domain: Tensor, margin: float = 1.0) -> tuple[Tensor, Tensor]:
    r"""The distances between images of different domains: of the same class, and of different classes.

    .. math::
        L_{SA} = \frac{1}{|S|} \sum_{(i, j) \in S} \tfrac12 d_{ij}^2, \qquad
        L_S = \frac{1}{|D|} \sum_{(i, j) \in D} \tfrac12 \max(0, m - d_{ij})^2

    with d the Euclidean distance, and S (D) the pairs of the batch from different domains with the same class
    (different classes). The paper adds up the means of each class and of each pair of classes; here each term is one
    mean over all its pairs, so that its weight does not depend on the numbers of classes and domains.

    Args:
        features: (N, F).
        y: (N,) class indices.
        domain: (N,) domain indices.
        margin: m, at least 0.

    Returns:
        The two terms, scalars of at least 0; a term without pairs is 0.
    """
    distance = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    other_domain = domain[:, None] != domain[None, :]
    same_class = y[:, None] == y[None, :]
    alignment = mean_over(0.5 * distance.square(), same_class & other_domain)
    separation = mean_over(0.5 * F.relu(margin - distance).square(), ~same_class & other_domain)
    return alignment, separation


@register("CCSA")
class CCSA(Algorithm):
    r"""Minimises :math:`(1 - \gamma) L_{sup} + \gamma (L_{SA} + L_S)` on the features; see `semantic_alignment`."""

    needs_domains = True

    def objective(self, features: Tensor, batch: Batch) -> Output:
        """The weighted sum of cross entropy, alignment and separation; see `semantic_alignment`."""
        domain = self.domains(batch)
        logits = self.classify(features)
        supervised = F.cross_entropy(logits, batch.y)
        compared = features.float()
        if self.hparams["ccsa_normalize"]:
            compared = F.normalize(compared, dim=1)
        alignment, separation = semantic_alignment(compared, batch.y, domain, self.hparams["ccsa_margin"])
        weight = self.hparams["ccsa_weight"]
        loss = (1 - weight) * supervised + weight * (alignment + separation)
        partner = (batch.y[:, None] == batch.y[None, :]) & (domain[:, None] != domain[None, :])
        return Output.of(
            logits,
            loss,
            supervised=supervised,
            alignment=alignment,
            separation=separation,
            positives=share(partner.any(dim=1)),
        )
