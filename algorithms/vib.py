"""VIB: the variational information bottleneck (Alemi et al. 2016, arXiv 1612.00410)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cim_dg.algorithms.base import Algorithm, Batch, Output, register
from cim_dg.nn.networks import GaussianBottleneck


class BottleneckClassifier(nn.Module):
    r"""A classifier on a Gaussian code z of the features; it also holds the weight :math:`\beta` of the KL term.

    :math:`\beta` rises linearly from 0 to `vib_beta` over the first `vib_warmup` optimising steps.

    Args:
        n_features: F.
        make_classifier: length of the code -> a module that maps codes to logits (N, K).
        hparams: the vib_* values.

    Shape:
        (N, F) -> logits (N, K), and KL(q(z|x) || N(0, I)) of each row (N,), in nats.
    """

    step: Tensor

    def __init__(
        self, n_features: int, make_classifier: Callable[[int], nn.Module], hparams: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.bottleneck = GaussianBottleneck(n_features, hparams["vib_dim"])
        self.classifier = make_classifier(hparams["vib_dim"])
        self.final_beta = hparams["vib_beta"]
        self.warmup = hparams["vib_warmup"]
        self.register_buffer("step", torch.zeros(()))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(N, F) -> logits (N, K) and the KL divergence of each row (N,)."""
        z, kl = self.bottleneck(features)
        return self.classifier(z), kl

    @property
    def beta(self) -> Tensor:
        """The weight of the KL term at the current step, a scalar in [0, vib_beta]."""
        return self.final_beta * ((self.step + 1) / max(self.warmup, 1)).clamp(max=1.0)

    def after_step(self) -> None:
        """Count an optimising step."""
        self.step += 1


@register("VIB")
class VIB(Algorithm):
    r"""Minimises :math:`L_{sup} + \beta\, D_{KL}(Q(Z|X) \,\|\, N(0, I))`, the code sampled once per image.

    It predicts from the mean of the code.
    """

    classifier: BottleneckClassifier

    def build(self, n_features: int, make_classifier: Callable[[int], nn.Module]) -> None:
        """Create the bottleneck and the classifier of its code."""
        self.classifier = BottleneckClassifier(n_features, make_classifier, self.hparams)

    def objective(self, features: Tensor, batch: Batch) -> Output:
        """The cross entropy of sampled codes plus beta times the KL divergence."""
        logits, kl = self.classifier(features)
        supervised, kl = F.cross_entropy(logits, batch.y), kl.mean()
        return Output.of(logits, supervised + self.classifier.beta * kl, supervised=supervised, kl=kl)

    def classify(self, features: Tensor) -> Tensor:
        """Features (N, F) -> logits (N, K) of the code's mean in evaluation, of a sample in training."""
        return self.classifier(features)[0]

    def after_step(self) -> None:
        """Advance the warm-up of beta."""
        super().after_step()
        self.classifier.after_step()
