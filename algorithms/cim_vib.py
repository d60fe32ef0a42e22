"""CIM + VIB: the morph before the featurizer, the bottleneck behind it."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from cim_dg.algorithms.base import Algorithm, Batch, Output, register
from cim_dg.algorithms.cim import InputMorphing, Morph
from cim_dg.algorithms.vib import BottleneckClassifier


@register("CIM_VIB")
class CIM_VIB(Algorithm):
    r"""Minimises :math:`\lambda L_{con} + L_{sup} + \beta\, D_{KL}(Q(Z|X) \,\|\, N(0, I))` (Taghanaki et al. 2021)."""

    classifier: BottleneckClassifier

    def build(self, n_features: int, make_classifier: Callable[[int], nn.Module]) -> None:
        self.classifier = BottleneckClassifier(n_features, make_classifier, self.hparams)
        self.morphing = InputMorphing(self.pixel_space, self.hparams)

    def forward(self, batch: Batch) -> Output:
        morph = self.morphing(batch.x)
        logits, kl = self.classifier(self.featurizer(morph.inputs))
        supervised, kl = F.cross_entropy(logits, batch.y), kl.mean()
        terms = self.morphing.contrast(morph, batch)
        loss = supervised + self.classifier.beta * kl + self.hparams["cim_lambda"] * terms["contrast"]
        return Output.of(logits, loss, supervised=supervised, kl=kl, **terms)

    def encode(self, x: Tensor) -> Tensor:
        return self.featurizer(self.morphing(x).inputs)

    def classify(self, features: Tensor) -> Tensor:
        return self.classifier(features)[0]

    def morph(self, x: Tensor) -> Morph:
        """What the classifier sees of `x`; see `Morph`."""
        return self.morphing(x)

    def after_step(self) -> None:
        self.classifier.after_step()
        self.morphing.after_step()
