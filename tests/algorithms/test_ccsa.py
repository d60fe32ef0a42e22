from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from cim_dg.algorithms import Batch
from cim_dg.algorithms.ccsa import semantic_alignment
from cim_dg.errors import UserError


def naive(features: torch.Tensor, y: list[int], domain: list[int], margin: float) -> tuple[float, float]:
    alignment, separation = [], []
    for i in range(len(y)):
        for j in range(len(y)):
            if domain[i] == domain[j]:
                continue
            distance = math.dist(features[i].tolist(), features[j].tolist())
            if y[i] == y[j]:
                alignment.append(distance**2 / 2)
            else:
                separation.append(max(0.0, margin - distance) ** 2 / 2)
    mean_alignment, mean_separation = (sum(terms) / len(terms) if terms else 0.0 for terms in (alignment, separation))
    return mean_alignment, mean_separation


@pytest.mark.parametrize(
    ("y", "domain"),
    [
        ([0, 1, 0, 1, 2, 0, 2], [0, 0, 1, 1, 2, 2, 1]),
        ([0, 0, 0], [0, 1, 2]),  # nothing to separate
        ([0, 1, 2], [0, 1, 2]),  # nothing to align
        ([0, 1, 1], [0, 0, 0]),  # one domain
    ],
)
@pytest.mark.parametrize("margin", [0.5, 2.0])
def test_against_a_naive_loop(y, domain, margin):
    features = torch.randn(len(y), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    actual = semantic_alignment(features, torch.tensor(y), torch.tensor(domain), margin)
    assert [term.item() for term in actual] == pytest.approx(naive(features, y, domain, margin), rel=1e-9)


def test_gradient_by_finite_differences():
    y, domain = torch.tensor([0, 1, 0, 2, 1]), torch.tensor([0, 1, 1, 0, 2])
    features = torch.randn(5, 3, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda f: semantic_alignment(f, y, domain, 3.0), features)


def test_images_that_coincide_have_a_finite_gradient():
    features = torch.ones(4, 3, requires_grad=True)
    alignment, separation = semantic_alignment(features, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]))
    (alignment + separation).backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


@pytest.mark.parametrize("normalize", [True, False])
def test_loss_is_the_weighted_sum_on_the_features(make, batch, normalize):
    method = make("CCSA", ccsa_weight=0.3, ccsa_margin=0.7, ccsa_normalize=normalize)
    terms = method(batch).terms
    features = method.encode(batch.x)
    expected = semantic_alignment(F.normalize(features, dim=1) if normalize else features, batch.y, batch.domain, 0.7)
    assert (terms["alignment"].item(), terms["separation"].item()) == pytest.approx([t.item() for t in expected])
    loss = 0.7 * terms["supervised"] + 0.3 * (terms["alignment"] + terms["separation"])
    assert terms["loss"].item() == pytest.approx(loss.item(), rel=1e-6)
    assert terms["positives"] == 1


def test_without_domains_it_refuses(make, batch):
    with pytest.raises(UserError, match="CCSA needs domain labels"):
        make("CCSA")(Batch(batch.x, batch.y))
