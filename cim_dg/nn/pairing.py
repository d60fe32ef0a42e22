"""Chooses the images that an anchor is compared with."""

from __future__ import annotations

import torch
from torch import Tensor


def choose_pairs(
    y: Tensor,
    anchors: Tensor,
    domain: Tensor | None = None,
    positives: str = "any",
    negatives: str = "any",
    generator_free: bool = False,
) -> tuple[Tensor, Tensor]:
    """Choose for every anchor an image of its class and one of another class, each uniformly at random.

    Args:
        y: (M,) class indices of the candidates, which include the anchors.
        anchors: (A,) positions of the anchors in `y`.
        domain: (M,) domain indices, needed for the two preferences.
        positives: "any", or "other_domain" to prefer images of other domains.
        negatives: "any", or "same_domain" to prefer images of the anchor's domain.
        generator_free: take the next candidate in the order of the batch instead of a random one, so that evaluation
            is deterministic and does not change the random state.

    Returns:
        Positions of the positive and of the negative in `y`, (A,) int64 each, -1 if there is none. Nothing waits for a
        GPU: shapes do not depend on values.
    """
    order = torch.arange(len(y), device=y.device)
    if generator_free:
        # 1 for the next image of the batch, decreasing towards 0 around the batch.
        rank = 1.0 - ((order[None, :] - anchors[:, None]) % len(y)) / len(y)
        ranks = rank.expand(2, *rank.shape)
    else:
        ranks = torch.rand(2, len(anchors), len(y), device=y.device)
    same_class = y[anchors, None] == y[None, :]
    is_anchor = anchors[:, None] == order[None, :]
    prefer_positive = prefer_negative = None
    if domain is not None:
        same_domain = domain[anchors, None] == domain[None, :]
        prefer_positive = ~same_domain if positives == "other_domain" else None
        prefer_negative = same_domain if negatives == "same_domain" else None
    return (
        _highest(ranks[0], same_class & ~is_anchor, prefer_positive),
        _highest(ranks[1], ~same_class, prefer_negative),
    )


def _highest(rank: Tensor, allowed: Tensor, preferred: Tensor | None) -> Tensor:
    """Per row the allowed column of highest rank in [0, 1], preferred columns first; -1 if none is allowed."""
    if preferred is not None:
        rank = rank + 2.0 * preferred
    best = rank.masked_fill(~allowed, -1.0).argmax(dim=1)
    return torch.where(allowed.any(dim=1), best, -1)
