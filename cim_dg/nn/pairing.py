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
    count: int = 1,
) -> Tensor:
    """Choose for every anchor images of its class and images of other classes, each uniformly at random.

    Args:
        y: (M,) class indices of the candidates, which include the anchors.
        anchors: (A,) positions of the anchors in `y`.
        domain: (M,) domain indices, needed for the two preferences.
        positives: "any", or "other_domain" to prefer images of other domains.
        negatives: "any", or "same_domain" to prefer images of the anchor's domain.
        generator_free: take the next candidate in the order of the batch instead of a random one, so that evaluation
            is deterministic and does not change the random state.
        count: the number of positives, and of negatives, of each anchor, all different; the first of them do not
            depend on it. At least 1.

    Returns:
        (2, P, A) int64 with P = min(count, M): positions of the positives and of the negatives in `y`, in the order of
        choice; -1 where there are no more. Nothing waits for a GPU: shapes do not depend on values.
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
    if domain is not None and (positives == "other_domain" or negatives == "same_domain"):
        same_domain = domain[anchors, None] == domain[None, :]
        none = torch.zeros_like(same_domain)
        preferred = torch.stack(
            [~same_domain if positives == "other_domain" else none, same_domain if negatives == "same_domain" else none]
        )
        ranks = ranks + 2.0 * preferred
    is_excluded = torch.stack([same_class == is_anchor, same_class])  # an anchor is of its own class
    ranks = ranks.masked_fill(is_excluded, -1.0)
    # A maximum is faster, and the choice between equal ranks is its own.
    best, column = ranks.max(dim=2, keepdim=True) if count == 1 else ranks.topk(min(count, len(y)), dim=2)
    return column.masked_fill(best < 0, -1).mT
