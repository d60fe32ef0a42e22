"""GroupDRO: distributionally robust optimisation over domains, the baseline that uses domain labels."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cim_dg.algorithms.base import Algorithm, Batch, Output, matmul, register


@register("GroupDRO")
class GroupDRO(Algorithm):
    r"""Minimises the worst domain's risk (Sagawa et al. 2019, arXiv 1911.08731, algorithm 1).

    .. math:: L = \sum_g q_g L_g, \qquad q_g \leftarrow \frac{q_g e^{\eta L_g}}{\sum_h q_h e^{\eta L_h}}

    with :math:`L_g` the mean cross entropy of domain g in the batch (0 if the batch has no image of it). q is updated
    before it weights the losses. Only `after_step` stores the new q, so that evaluation does not change it. Domains
    without training images have the weight 0 (`see_domain_counts`): with any other the loss would be too small.
    """

    q: Tensor

    needs_domains = True

    def build(self, n_features: int, make_classifier: Callable[[int], nn.Module]) -> None:
        """Create the classifier and the domains' weights q, equal at the start."""
        super().build(n_features, make_classifier)
        self.register_buffer("q", torch.ones(self.num_domains))
        self._next_q: Tensor | None = None

    def see_domain_counts(self, counts: Tensor) -> None:
        """Start from equal weights of those domains that have training images.

        Raises:
            ValueError: `counts` is not a count for each domain, or all are 0.
        """
        if counts.shape != self.q.shape or not counts.any():
            raise ValueError(f"the counts {counts.tolist()} are not of {self.num_domains} domains, one with images")
        self.q.copy_(counts > 0)

    def objective(self, features: Tensor, batch: Batch) -> Output:
        """The domains' losses weighted by the updated q, which `after_step` stores."""
        domain = self.domains(batch)
        logits = self.classify(features)
        losses = F.cross_entropy(logits, batch.y, reduction="none")
        member = F.one_hot(domain, self.num_domains).to(losses.dtype)
        domain_losses = matmul(losses, member) / member.sum(dim=0).clamp_min(1.0)
        q = self.q * (self.hparams["groupdro_eta"] * domain_losses.detach()).exp()
        q = q / q.sum()
        if self.training:
            self._next_q = q
        return Output.of(logits, matmul(domain_losses, q), worst_domain=domain_losses.max())

    def after_step(self) -> None:
        """Store the q of the last training step."""
        super().after_step()
        if self._next_q is not None:
            self.q.copy_(self._next_q)
            self._next_q = None
