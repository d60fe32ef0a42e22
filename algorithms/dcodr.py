"""DCoDR: domain-wise contrastive representations (Kahana & Hoshen, ECCV 2022, arXiv 2203.11284), with a classifier."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cim_dg.algorithms.base import Algorithm, Batch, Output, matmul, mean_over, register, share
from cim_dg.images.operations import adjust_contrast, adjust_saturation, gaussian_blur, resized_crop
from cim_dg.nn.networks import DomainGenerator


def domain_contrastive_loss(
    z: Tensor, positives: Tensor, domain: Tensor, temperature: float = 0.1
) -> tuple[Tensor, Tensor]:
    r"""The contrastive loss with negatives from the anchor's own domain only, averaged over anchors.

    .. math::
        L_i = -\log \frac{\exp(z_i \cdot z_i^+ / \tau)}
              {\exp(z_i \cdot z_i^+ / \tau) + \sum_{j \neq i,\, d_j = d_i} \exp(z_i \cdot z_j / \tau)}

    Information that tells domains apart does not lower it, so the code need not hold any. The mean leaves out anchors
    that are alone in their domain.

    Args:
        z: (N, D) rows of length 1, codes of the images.
        positives: (N, D) rows of length 1, codes of the augmented images.
        domain: (N,) domain indices.
        temperature: :math:`\tau` > 0.

    Returns:
        The loss, a scalar of at least 0 (0 if no anchor has a negative), and whether each anchor has one, (N,) bool.
    """
    negative = (domain[:, None] == domain[None, :]) & ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    to_positive = (z * positives).sum(dim=1, keepdim=True) / temperature
    to_negatives = (matmul(z, z.T) / temperature).masked_fill(~negative, float("-inf"))
    per_anchor = torch.logsumexp(torch.cat([to_positive, to_negatives], dim=1), dim=1) - to_positive[:, 0]
    has_negative = negative.any(dim=1)
    return mean_over(per_anchor, has_negative), has_negative


def augment(pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Apply one of the paper's four augmentations to each image, each to a quarter of the batch.

    They are: a Gaussian blur of 5 pixels with sigma 1; contrast by a factor from U(1.8, 3); saturation likewise; and a
    crop of U(0.5, 1) of the area with an aspect ratio in [3/4, 4/3], resized to full size.

    Args:
        pixels: (N, C, H, W) in [0, 1], H and W at least 3.
        generator: a CPU generator; None for the global one.

    Returns:
        (N, C, H, W) in [0, 1].
    """

    height, width = pixels.shape[2:]

    def strong(images: Tensor) -> Tensor:
        return (1.8 + 1.2 * torch.rand(len(images), generator=generator)).to(images, non_blocking=True)

    def crop(images: Tensor) -> Tensor:
        boxes = random_boxes(len(images), height, width, generator).to(images, non_blocking=True)
        return resized_crop(images, boxes, (height, width))

    kinds: list[Callable[[Tensor], Tensor]] = [
        lambda images: gaussian_blur(images, images.new_ones(len(images)), kernel_size=5),
        lambda images: adjust_contrast(images, strong(images)),
        lambda images: adjust_saturation(images, strong(images)),
        crop,
    ]
    # Parts of fixed sizes, so that nothing waits for a GPU. The sizes differ by one, so their order is random too.
    order = torch.randperm(len(pixels), generator=generator)
    parts = order.to(pixels.device, non_blocking=True).tensor_split(4)
    kind_of_part = torch.randperm(4, generator=generator).tolist()
    augmented = torch.empty_like(pixels)
    for part, kind in zip(parts, kind_of_part, strict=True):
        if len(part):
            augmented[part] = kinds[kind](pixels[part])
    return augmented


def random_boxes(n: int, height: int, width: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw n boxes of U(0.5, 1) of an image's area with an aspect ratio in [3/4, 4/3].

    A side longer than the image's is cut to it.

    Returns:
        (n, 4) top, left, height and width in pixels, on the CPU.
    """
    area, ratio, down, right = torch.rand(4, n, generator=generator)
    side, stretch = (0.5 + 0.5 * area).sqrt(), (4 / 3) ** (ratio - 0.5)
    heights, widths = (side / stretch).clamp(max=1) * height, (side * stretch).clamp(max=1) * width
    return torch.stack([down * (height - heights), right * (width - widths), heights, widths], dim=1)


@register("DCoDR")
class DCoDR(Algorithm):
    r"""Minimises :math:`L_{sup} + w L + v L_{rec}` in one step, on the classifier's features.

    The codes are the features, scaled to length 1. :math:`L_{rec}` is the mean absolute difference, in pixels, between
    the image at 64 x 64 and a generator's reconstruction from its code and a learnt embedding of its domain; `v` is 0
    by default, the paper's variant "norec". The paper also compares VGG features of the two images, which this omits.
    """

    needs_domains = True

    def build(self, n_features: int, make_classifier: Callable[[int], nn.Module]) -> None:
        """Create the classifier and, if the images are reconstructed, the generator."""
        super().build(n_features, make_classifier)
        self.generator = (
            DomainGenerator(n_features, self.num_domains, self.pixel_space.channels)
            if self.hparams["dcodr_reconstruction"]
            else None
        )

    def forward(self, batch: Batch) -> Output:
        """Cross entropy, the contrast with augmented images, and the reconstruction if there is one."""
        domain = self.domains(batch)
        pixels = self.pixel_space.to_pixels(batch.x)
        # Not in half precision, which would round the pixels.
        with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
            augmented = augment(pixels, None if self.training else torch.Generator().manual_seed(0))
        features = self.encode(batch.x)
        z = F.normalize(features.float(), dim=1)
        positives = F.normalize(self.encode(self.pixel_space.from_pixels(augmented)).float(), dim=1)
        contrast, has_negative = domain_contrastive_loss(z, positives, domain, self.hparams["dcodr_temperature"])
        logits = self.classify(features)
        supervised = F.cross_entropy(logits, batch.y)
        loss = supervised + self.hparams["dcodr_weight"] * contrast
        terms = {"supervised": supervised, "contrast": contrast, "negatives": share(has_negative)}
        if self.generator is not None:
            reconstructed = self.generator(z, domain)
            target = F.interpolate(pixels, size=reconstructed.shape[-2:], mode="bilinear", antialias=True)
            reconstruction = F.l1_loss(reconstructed.float(), target)
            loss = loss + self.hparams["dcodr_reconstruction"] * reconstruction
            terms["reconstruction"] = reconstruction
        return Output.of(logits, loss, **terms)
