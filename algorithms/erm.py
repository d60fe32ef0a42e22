"""ERM: empirical risk minimisation (Vapnik 1998), the baseline."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import nn

from cim_dg.algorithms.base import Algorithm, Batch, Output, register


@register("ERM")
class ERM(Algorithm):
    r"""Minimises the mean cross entropy :math:`L_{sup}` of the batch."""

    def build(self, n_features: int, make_classifier: Callable[[int], nn.Module]) -> None:
        self.classifier = make_classifier(n_features)

    def forward(self, batch: Batch) -> Output:
        logits = self.classify(self.encode(batch.x))
        return Output.of(logits, F.cross_entropy(logits, batch.y))
