"""CIM: Contrastive Input Morphing (Taghanaki et al., ICML 2021, arXiv 2106.06620)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cim_dg.algorithms.base import Algorithm, Batch, Output, mean_over, register, share
from cim_dg.nn.networks import TransformationNetwork
from cim_dg.nn.pairing import choose_pairs
from cim_dg.nn.perceptual import triplet_ms_ssim
from cim_dg.nn.pixels import PixelSpace
from cim_dg.nn.recent_images import RecentImages


@dataclass(frozen=True)
class Morph:
    """A batch and what the transformation network made of it, in pixels of [0, 1].

    Attributes:
        pixels: (N, C, H, W), the images x.
        mask: (N, 1 or C, H, W), the weights m in (0, 1).
        morphed: (N, C, H, W), psi(x) = m * x.
        inputs: (N, C, H, W), psi(x) normalised as the featurizer expects it.
    """

    pixels: Tensor
    mask: Tensor
    morphed: Tensor
    inputs: Tensor


class InputMorphing(nn.Module):
    r"""The morph :math:`\psi(x) = m \odot x` and the contrast that trains its network.

    .. math:: L_{con} = MS(\psi(x), x^+) - w\, MS(\psi(x), x^-)

    MS is a distance, 1 - MS-SSIM, by default: only so does minimising pull psi(x) to its class, as a triplet loss that
    keeps task-relevant information must. `cim_contrast: similarity` is the literal reading, MS-SSIM itself. Anchors
    without a positive are left out of the mean; an anchor without a negative has no second term.

    Args:
        pixel_space: of the images that come in, and of those that go out to the featurizer.
        hparams: the cim_* values.
    """

    def __init__(self, pixel_space: PixelSpace, hparams: Mapping[str, Any]) -> None:
        super().__init__()
        self.pixel_space = pixel_space
        self.hparams = hparams
        self.network = TransformationNetwork(
            pixel_space.channels,
            mask_channels=pixel_space.channels if hparams["cim_mask_channels"] == "each" else 1,
            width=hparams["cim_width"],
            initial=hparams["cim_mask_initial"],
        )
        self.recent = RecentImages(hparams["cim_queue"]) if hparams["cim_queue"] else None
        self._latest: tuple[Tensor, Tensor, Tensor | None] | None = None

    def forward(self, x: Tensor) -> Morph:
        """(N, C, H, W) as the harness feeds it -> the morph."""
        pixels = self.pixel_space.to_pixels(x)
        mask = self.network(pixels)
        morphed = mask * pixels
        # Without its gradient here, the transformation network learns from the contrast alone.
        seen = morphed if self.hparams["cim_supervise_mask"] else morphed.detach()
        return Morph(pixels, mask, morphed, self.pixel_space.from_pixels(seen))

    def contrast(self, morph: Morph, batch: Batch) -> dict[str, Tensor]:
        """The contrastive term and what shows whether it does anything, as scalars.

        Returns:
            `contrast` (carries the gradient), `similarity_positive` and `similarity_negative` (mean MS-SSIM of the
            pairs there are, in [0, 1]), `positives` (share of the anchors that have one), `mask_mean`, and
            `mask_spread` (standard deviation within an image, averaged).
        """
        hparams = self.hparams
        anchors = self._anchors(len(batch.y), batch.y.device)
        candidates, y, domain = morph.pixels, batch.y, batch.domain
        if self.recent is not None and self.training:
            self._latest = candidates, y, domain
            candidates, y, domain = self.recent.extend(candidates, y, domain)
        if hparams["cim_shuffle_labels"]:
            y = y[torch.randperm(len(y), device=y.device)] if self.training else y.roll(1)
        positive, negative = choose_pairs(
            y,
            anchors,
            domain,
            positives=hparams["cim_positives"],
            negatives=hparams["cim_negatives"],
            generator_free=not self.training,
        )
        with torch.set_grad_enabled(torch.is_grad_enabled() and hparams["cim_lambda"] > 0):
            s_positive, s_negative = triplet_ms_ssim(
                morph.morphed[anchors],
                candidates,
                positive,
                negative,
                window=hparams["cim_window"],
                scales=hparams["cim_scales"],
                backend=hparams["cim_backend"],
            )
        has_positive, has_negative = positive >= 0, negative >= 0
        to_positive, to_negative = s_positive, s_negative
        if hparams["cim_contrast"] == "distance":
            to_positive, to_negative = 1.0 - s_positive, 1.0 - s_negative
        term = to_positive - hparams["cim_negative_weight"] * has_negative * to_negative
        if hparams["cim_margin"] is not None:
            term = F.relu(term + hparams["cim_margin"])
        return {
            "contrast": mean_over(term, has_positive),
            "similarity_positive": mean_over(s_positive, has_positive),
            "similarity_negative": mean_over(s_negative, has_negative),
            "positives": share(has_positive),
            "mask_mean": morph.mask.mean(),
            "mask_spread": morph.mask.std(dim=(1, 2, 3)).mean(),
        }

    def after_step(self) -> None:
        """Keep the batch just learnt from among the recent images, if any are kept."""
        if self.recent is not None and self._latest is not None:
            self.recent.push(*self._latest)
            self._latest = None

    def _anchors(self, n: int, device: torch.device) -> Tensor:
        """At most `cim_anchors` positions of the batch: random in training, evenly spread in evaluation."""
        limit = self.hparams["cim_anchors"] or n
        if limit >= n:
            return torch.arange(n, device=device)
        if self.training:
            return torch.randperm(n, device=device)[:limit]
        return torch.arange(limit, device=device) * n // limit


@register("CIM")
class CIM(Algorithm):
    r"""Minimises :math:`L_{CIM} = \lambda L_{con}(\phi) + L_{sup}(\theta)`; predicts from the morphed image.

    See `InputMorphing` for the contrast and hparams/CIM.yaml for every choice that the paper leaves open.
    """

    def build(self, n_features: int, make_classifier: Callable[[int], nn.Module]) -> None:
        self.classifier = make_classifier(n_features)
        self.morphing = InputMorphing(self.pixel_space, self.hparams)

    def forward(self, batch: Batch) -> Output:
        morph = self.morphing(batch.x)
        logits = self.classifier(self.featurizer(morph.inputs))
        supervised = F.cross_entropy(logits, batch.y)
        terms = self.morphing.contrast(morph, batch)
        loss = supervised + self.hparams["cim_lambda"] * terms["contrast"]
        return Output.of(logits, loss, supervised=supervised, **terms)

    def encode(self, x: Tensor) -> Tensor:
        return self.featurizer(self.morphing(x).inputs)

    def morph(self, x: Tensor) -> Morph:
        """What the classifier sees of `x`; see `Morph`."""
        return self.morphing(x)

    def after_step(self) -> None:
        self.morphing.after_step()
