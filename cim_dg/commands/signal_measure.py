"""What `cim-dg signal` measures: similarities within and across classes, and the signal in the contrast's gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cim_dg.algorithms import Batch
from cim_dg.algorithms.cim import InputMorphing
from cim_dg.commands.signal_images import Images
from cim_dg.errors import UserError
from cim_dg.nn.gradient_signal import Estimate, directions, flat_gradient, signal_to_noise

PARTNERS = 16
"""Images of its class, and of others, that an image is compared with."""
SHUFFLES = 5
"""Random permutations of the labels."""
RESAMPLES = 2000
_ANCHORS = 16  # images compared at a time
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    """Similarities (P,) of pairs, and the rows (P,) of their two images."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    similarity: Floats


@dataclass(frozen=True)
class Similarities:
    """MS-SSIM of pairs within and across classes, their means and the difference of these."""

    within_pairs: Pairs
    across_pairs: Pairs
    within: Estimate
    across: Estimate
    gap: Estimate


@dataclass(frozen=True)
class Ratios:
    """Signal-to-noise ratios.

    Attributes:
        true: with the true labels.
        shuffles: with each permutation of the labels.
        shuffled: the mean of these.
        difference: of `true` to what a permutation gives.
    """

    true: Estimate
    shuffles: list[Estimate]
    shuffled: Estimate
    difference: Estimate


@dataclass(frozen=True)
class GradientSignal:
    """The signal-to-noise ratio of the contrast's gradient, and the share of pairs and anchors that have one.

    Attributes:
        gradient: of the gradients.
        direction: of the gradients, each scaled to length 1.
        largest: the share of the squared norms of all gradients (true labels) that the largest has.
        without_gradient: the shares of same-class and of other-class pairs without a gradient.
        positives: the share of anchors that have a positive.
    """

    gradient: Ratios
    direction: Ratios
    largest: float
    without_gradient: tuple[float, float]
    positives: float


def check(images: Images, batch_size: int) -> None:
    """Check that the images and a batch can show anything.

    Raises:
        UserError: there is one class, no class with two images, or the batch is larger than the number of images.
    """
    counts = torch.bincount(images.y)
    if (counts > 0).sum() < 2:
        raise UserError(f"the {len(images.y)} images of {images.name} are of one class; at least two are needed")
    if counts.max() < 2:
        raise UserError(f"no class has two of the {len(images.y)} images of {images.name}; take a larger --max_images")
    if not 2 <= batch_size <= len(images.y):
        raise UserError(f"--batch_size is {batch_size}; accepted are 2 to {len(images.y)}, the number of images")


@torch.no_grad()
def similarities(images: Images, seed: int, device: torch.device) -> Similarities:
    """The published MS-SSIM of psi(x) at the start of training to x', for random pairs within and across classes.

    Each image is compared with at most 16 others of its class and 16 of other classes. The intervals resample images,
    not pairs, which share images: see `mean_over_pairs`.
    """
    rng = np.random.default_rng(seed)
    within, across = choose_partners(images.y.numpy(), rng)
    index = torch.from_numpy(np.concatenate([within, across])).to(device)  # (2 * PARTNERS, N), -1 for none
    morphing = _morphing(images, seed, device)
    pixels = images.space.to(device).to_pixels(images.x.to(device))
    parts = []
    for rows in torch.arange(len(pixels), device=device).split(_ANCHORS):
        morphed = morphing(images.x[rows.cpu()].to(device)).morphed
        chosen = index[:, rows]
        others, places = chosen.clamp_min(0).unique(return_inverse=True)
        _, published = morphing.similarities(morphed, pixels[others], torch.where(chosen >= 0, places, -1))
        parts.append(published)
    values = torch.cat(parts, dim=1).double().cpu().numpy()
    kinds = _pairs(within, values[: len(within)]), _pairs(across, values[len(within) :])
    # The same resamples of images for both means, and so for their difference.
    counts = rng.multinomial(len(pixels), np.full(len(pixels), 1 / len(pixels)), size=RESAMPLES)
    means = [mean_over_pairs(pairs, counts) for pairs in kinds]
    points = [pairs.similarity.mean() for pairs in kinds]
    within_mean, across_mean = (_percentiles(*each) for each in zip(points, means, strict=True))
    gap = _percentiles(points[0] - points[1], means[0] - means[1])
    return Similarities(*kinds, within_mean, across_mean, gap)


def choose_partners(y: NDArray[np.int64], rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For every image at most 16 random others of its class, and 16 of other classes: (16, N) rows each, or -1."""
    chosen = np.full((2, PARTNERS, len(y)), -1)
    for row, label in enumerate(y):
        same = y == label
        same[row] = False
        for kind, candidates in enumerate((np.flatnonzero(same), np.flatnonzero(y != label))):
            drawn = rng.permutation(candidates)[:PARTNERS]
            chosen[kind, : len(drawn), row] = drawn
    return chosen[0], chosen[1]


def mean_over_pairs(pairs: Pairs, counts: NDArray[np.int64]) -> Floats:
    """The means (B,) over pairs in B resamples of the images, in which image i comes counts[b, i] times; NaN for none.

    A pair of images that come k and l times comes k l times. An image is not paired with itself.
    """
    from scipy.sparse import csr_array

    shape = (counts.shape[1],) * 2
    sums, numbers = (
        (counts * (csr_array((weights, (pairs.first, pairs.second)), shape=shape).T @ counts.T).T).sum(axis=1)
        for weights in (pairs.similarity, np.ones_like(pairs.similarity))
    )
    with np.errstate(invalid="ignore"):
        return sums / numbers


def gradient_signal(
    images: Images, batch_size: int, draws: int, seed: int, device: torch.device, tell: Callable[[int], Any] = int
) -> GradientSignal:
    """The signal in the gradient of the contrast on the mask network at its start; see `cim_dg.nn.gradient_signal`.

    A draw is a batch and its pairs, as a step of training draws them, by `InputMorphing.contrast`. The network and the
    images are the same in all of them. The control permutes the labels over all images, and draws from these labels: of
    few images, one permutation has a signal by chance, which labels shuffled within each batch would average away. The
    draws of the control are divided among five permutations.

    The interval of `shuffled` is a t interval over permutations. `difference` is to a permutation, not to their mean:
    its variance has that of the true labels' estimate, that of the permutations' mean, and that between permutations
    (the variance of their estimates less the mean of its part by draws), with Welch and Satterthwaite's degrees.

    Args:
        images: the images.
        batch_size: images of a draw, in equal parts from the domains if `images.balanced`.
        draws: the number of draws with true labels, and of those with permuted ones; at least 20.
        seed: of network, batches, pairs and permutations.
        device: the device.
        tell: called with the number of draws that have been made since the last call.
    """
    shares: dict[str, list[Tensor]] = {}

    def drawn(y: Tensor, count: int, stream: int) -> Tensor:
        morphing = _morphing(images, seed, device)
        torch.manual_seed(seed + stream)
        gradients = []
        for rows in _batches(images, batch_size, count):
            gradient, terms = draw(morphing, images, y, rows)
            gradients.append(gradient)
            for name, term in terms.items() if stream == 1 else ():
                shares.setdefault(name, []).append(term)
            tell(1)
        return torch.stack(gradients).cpu()

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        true = drawn(images.y, draws, 1)
        generator = torch.Generator().manual_seed(seed)
        shuffled = [
            drawn(images.y[torch.randperm(len(images.y), generator=generator)], draws // SHUFFLES, 2 + number)
            for number in range(SHUFFLES)
        ]
    squares = true.double().square().sum(dim=1)
    means = {name: torch.stack(terms).mean().item() for name, terms in shares.items()}
    return GradientSignal(
        compare(signal_to_noise(true), [signal_to_noise(each) for each in shuffled]),
        compare(signal_to_noise(directions(true)), [signal_to_noise(directions(each)) for each in shuffled]),
        (squares.max() / squares.sum().clamp_min(1e-300)).item(),
        (1 - means["active_positive"], 1 - means["active_negative"]),
        means["positives"],
    )


def compare(true: Estimate, shuffles: list[Estimate]) -> Ratios:
    """The estimates, the mean of the shuffles', and the difference of `true` to a shuffle; see `gradient_signal`."""
    values = np.array([each.value for each in shuffles])
    count, degrees = len(values), len(values) - 1
    mean_variance = values.var(ddof=1) / count
    shuffled = Estimate.of_t(values.mean(), math.sqrt(mean_variance), degrees)
    between = max(0.0, values.var(ddof=1) - np.mean([each.error**2 for each in shuffles]))
    parts = [(true.error**2, true.degrees), (mean_variance + between, degrees)]
    total = sum(variance for variance, _ in parts)
    welch = total**2 / sum(variance**2 / of for variance, of in parts) if total else degrees
    difference = Estimate.of_t(true.value - shuffled.value, math.sqrt(total), welch)
    return Ratios(true, shuffles, shuffled, difference)


def draw(morphing: InputMorphing, images: Images, y: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The gradient (P,) of the contrast of a batch in the mask network, and the contrast's terms."""
    device = next(morphing.network.parameters()).device
    batch = Batch(*(values[rows].to(device) for values in (images.x, y, images.domain)))
    terms = morphing.contrast(morphing(batch.x), batch)
    gradient = flat_gradient(terms["contrast"], list(morphing.network.parameters()))
    morphing.after_step()
    return gradient, {name: term.detach() for name, term in terms.items()}


def _batches(images: Images, batch_size: int, count: int) -> Iterator[Tensor]:
    """Rows of `count` random batches, without repetition within a batch."""
    domains = images.domain if images.balanced else torch.zeros_like(images.domain)
    members = [torch.nonzero(domains == domain).flatten() for domain in domains.unique()]
    each = max(1, batch_size // len(members))
    for _ in range(count):
        yield torch.cat([rows[torch.randperm(len(rows))[:each]] for rows in members])


def _morphing(images: Images, seed: int, device: torch.device) -> InputMorphing:
    """CIM's morph at the start of training, in training mode. Its contrast has a gradient, by the given labels."""
    own = {"cim_lambda": 1.0, "cim_shuffle_labels": False, "cim_signal_every": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return InputMorphing(images.space, images.hparams | own).to(device).train()


def _pairs(partners: NDArray[np.int64], values: Floats) -> Pairs:
    exists = partners >= 0
    return Pairs(np.nonzero(exists)[1], partners[exists], values[exists])


def _percentiles(point: float, resampled: Floats) -> Estimate:
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return Estimate(float(point), float(low), float(high))
