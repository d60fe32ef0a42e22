"""ERM: empirical risk minimisation (Vapnik 1998), the baseline."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from cim_dg.algorithms.base import Algorithm, Batch, Output, register


@register("ERM")
class ERM(Algorithm):
    r"""Minimises the mean cross entropy :math:`L_{sup}` of the batch."""

    def objective(self, features: Tensor, batch: Batch) -> Output:
        """The mean cross entropy."""
        logits = self.classify(features)
        return Output.of(logits, F.cross_entropy(logits, batch.y))
