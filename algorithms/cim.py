"""CIM: Contrastive Input Morphing (Taghanaki et al., ICML 2021, arXiv 2106.06620)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cim_dg.algorithms.base import Algorithm, Batch, Output, register
from cim_dg.algorithms.erm import ERM
from cim_dg.nn.alignment import align_pairs
from cim_dg.nn.device_constants import constants
from cim_dg.nn.gradient_signal import RunningSignal
from cim_dg.nn.networks import LARGEST_SMALL_SIDE, TransformationNetwork
from cim_dg.nn.pairing import choose_pairs
from cim_dg.nn.perceptual import pair_similarities
from cim_dg.nn.pixels import PixelSpace
from cim_dg.nn.recent_images import RecentImages
from cim_dg.nn.working_size import average_to


@dataclass(frozen=True)
class Morph:
    """Images, their masks and their morphs.

    Attributes:
        pixels: (N, C, H, W), the images x, in [0, 1].
        mask: (N, 1 or C, H, W), the weights m, in (0, 1).
        morphed: (N, C, H, W), psi(x) = m * x, in [0, 1].
        inputs: (N, C, H, W), psi(x) in the harness' normalisation, for the featurizer.
    """

    pixels: Tensor
    mask: Tensor
    morphed: Tensor
    inputs: Tensor


class InputMorphing(nn.Module):
    r"""The morph :math:`\psi(x) = m \odot x` and the contrast that trains its network.

    .. math:: L_{con} = MS(\psi(x), x^+) - w\, MS(\psi(x), x^-)

    MS is a distance by default, 1 - MS-SSIM, because minimising :math:`L_{con}` pulls psi(x) to its class only if MS
    is a distance. `cim_contrast: similarity` is the literal reading, MS-SSIM itself. The mean over anchors leaves out
    those without a positive; an anchor without a negative has no second term. (Taghanaki et al. 2021, section 3.)
    With `cim_pairs` above 1, MS is the mean over an anchor's positives, and over its negatives. With `cim_align`, which
    is not in the paper, :math:`x^+` and :math:`x^-` are first moved to where they fit psi(x) best.

    Args:
        pixel_space: the normalisation of the images x and of the featurizer's inputs.
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
            side=hparams["cim_mask_side"],
        )
        self.recent = RecentImages(hparams["cim_queue"]) if hparams["cim_queue"] else None
        every = hparams["cim_signal_every"]
        self.signal = RunningSignal(self.network, every) if every else None

    def forward(self, x: Tensor) -> Morph:
        """(N, C, H, W) in the harness' normalisation -> the morph."""
        pixels = self.pixel_space.to_pixels(x)
        mask = self.network(pixels)
        morphed = mask * pixels
        # Without this gradient, the transformation network learns from the contrast alone.
        classified = morphed if self.hparams["cim_supervise_mask"] else morphed.detach()
        return Morph(pixels, mask, morphed, self.pixel_space.from_pixels(classified))

    def contrast(self, morph: Morph, batch: Batch) -> dict[str, Tensor]:
        """The contrastive term and its diagnostics, as scalars.

        Returns:
            `contrast` (carries the gradient), `similarity_positive` and `similarity_negative` (mean MS-SSIM of the
            positive and of the negative pairs, as published, in [0, 1]), `active_positive` and `active_negative` (the
            share of these pairs that give a gradient: at a similarity of 0 there is none), `positives` (the share of
            anchors that have one),
            `mask_mean`, and `mask_spread` (the mask's standard deviation within an image, averaged). With
            `cim_signal_every`, `signal` too: the running signal-to-noise ratio of the gradient of `contrast` in the
            mask network (`cim_dg.nn.gradient_signal`).
        """
        hparams = self.hparams
        anchors = self._anchors(len(batch.y), batch.y.device)
        candidates, y, domain = morph.pixels, batch.y, batch.domain
        if self.recent is not None and self.training:
            self.recent.see(candidates, y, domain)
            candidates, y, domain = self.recent.extend(candidates, y, domain)
        if hparams["cim_shuffle_labels"]:
            y = y[torch.randperm(len(y), device=y.device)] if self.training else y.roll(1)
        pairs = choose_pairs(
            y,
            anchors,
            domain,
            positives=hparams["cim_positives"],
            negatives=hparams["cim_negatives"],
            generator_free=not self.training,
            count=hparams["cim_pairs"],
        )
        with torch.set_grad_enabled(torch.is_grad_enabled() and hparams["cim_lambda"] > 0):
            similarities, published = self.similarities(morph.morphed[anchors], candidates, pairs.flatten(0, 1))
        # Few operations, since each is a kernel on a GPU. The similarity of a pair that does not exist is 0.
        exists = pairs >= 0
        counts = exists.flatten(1).sum(dim=1)
        divisors = counts.clamp_min(1)
        logged = torch.stack([published.detach(), similarities.detach().sign()]).view(2, 2, -1)
        means, active = logged.sum(dim=2) / divisors
        if exists.shape[1] > 1:
            similarities = similarities.view(exists.shape).sum(dim=1) / exists.sum(dim=1).clamp_min(1)
            counts = exists[:, 0].sum(dim=1)
            divisors = counts.clamp_min(1)
        exists = exists[:, 0]  # an anchor has none if it has no first one
        measured = 1.0 - similarities if hparams["cim_contrast"] == "distance" else similarities
        signs = constants((1.0, -hparams["cim_negative_weight"]), measured).unsqueeze(1)
        term = (measured * (exists * signs)).sum(dim=0)
        if hparams["cim_margin"] is not None:
            term = F.relu(term + hparams["cim_margin"])
        terms = {
            "contrast": (term * exists[0]).sum() / divisors[0],
            "similarity_positive": means[0],
            "similarity_negative": means[1],
            "active_positive": active[0],
            "active_negative": active[1],
            "positives": counts[0] / len(anchors),
            "mask_mean": morph.mask.mean(),
            "mask_spread": morph.mask.std(dim=(1, 2, 3)).mean(),
        }
        if self.signal is not None:
            if self.training:
                self.signal.see(terms["contrast"])
            terms["signal"] = self.signal.value()
        return terms

    def similarities(self, morphed: Tensor, images: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """The similarities of morphs (A, C, H, W) to images (N, C, H, W), as `cim_dg.nn.perceptual.pair_similarities`.

        With `cim_contrast_side` at that size, and with `cim_align` each image where it fits the morph best.
        """
        hparams, normalize = self.hparams, self._normalize(images)
        morphed, images = (average_to(each, hparams["cim_contrast_side"]) for each in (morphed, images))
        if hparams["cim_align"]:
            images, index = align_pairs(morphed, images, index, hparams["cim_align"])
        return pair_similarities(
            morphed,
            images,
            index,
            window=hparams["cim_window"],
            scales=hparams["cim_scales"],
            backend=hparams["cim_backend"],
            normalize=normalize,
        )

    def after_step(self) -> None:
        """Add the batches of this step to the recent images, and its gradient to the signal, if they are kept."""
        if self.recent is not None:
            self.recent.push_seen()
        if self.signal is not None:
            self.signal.after_step()

    def _normalize(self, images: Tensor) -> str:
        """What MS-SSIM makes of means below 0, if not chosen: photographs often get no gradient by definition."""
        chosen: str | None = self.hparams["cim_normalize"]
        if chosen is None:
            small = min(images.shape[-2:]) <= LARGEST_SMALL_SIDE or self.hparams["cim_backend"] != "native"
            chosen = "relu" if small else "simple"
        return chosen

    def _anchors(self, n: int, device: torch.device) -> Tensor:
        """The positions in the batch of at most `cim_anchors` anchors: random in training, evenly spaced otherwise."""
        limit = self.hparams["cim_anchors"] or n
        if limit >= n:
            return torch.arange(n, device=device)
        if self.training:
            return torch.randperm(n, device=device)[:limit]
        return torch.arange(limit, device=device) * n // limit


class Morphing(Algorithm):
    r"""CIM before another method: the morph before its featurizer, and :math:`\lambda L_{con}` added to its loss.

    A class combines the two by inheriting from both, this one first::

        @register("CIM_SCL", hparams="CIM_SCL.yaml")  # whose content is: include: [CIM, SCL]
        class CIM_SCL(Morphing, SCL):
            pass

    The other method must implement `objective`. Its terms are logged under their own names; a term whose name CIM uses
    is logged as `head_NAME`. `supervised` is the other method's whole loss if it has no term of that name.
    """

    def build(self, n_features: int, make_classifier: Callable[[int], nn.Module]) -> None:
        """Create the other method's modules, then the transformation network."""
        super().build(n_features, make_classifier)
        self.morphing = InputMorphing(self.pixel_space, self.hparams)

    def forward(self, batch: Batch) -> Output:
        """The other method's objective on the morphed images, plus the weighted contrast."""
        morph = self.morphing(batch.x)
        output = self.objective(super().encode(morph.inputs), batch)
        contrast = self.morphing.contrast(morph, batch)
        head = dict(output.terms)
        head_loss = head.pop("loss")
        head.setdefault("supervised", head_loss)
        head = {f"head_{name}" if name in contrast else name: term for name, term in head.items()}
        return Output.of(
            output.logits, head_loss + self.hparams["cim_lambda"] * contrast["contrast"], **head, **contrast
        )

    def encode(self, x: Tensor) -> Tensor:
        """The features (N, F) of the morphs of `x` (N, C, H, W)."""
        return super().encode(self.morphing(x).inputs)

    def morph(self, x: Tensor) -> Morph:
        """The images, masks and morphs of `x` (N, C, H, W); see `Morph`."""
        return self.morphing(x)

    def after_step(self) -> None:
        """Advance the other method's state and the morphing's."""
        super().after_step()
        self.morphing.after_step()


@register("CIM")
class CIM(Morphing, ERM):
    r"""Minimises :math:`L_{CIM} = \lambda L_{con}(\phi) + L_{sup}(\theta)`; predicts from the morphed image.

    See `InputMorphing` for the contrast and hparams/CIM.yaml for our choices.
    """
