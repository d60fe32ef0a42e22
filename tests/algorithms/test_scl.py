from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import SupConLoss

from cim_dg.algorithms.scl import supervised_contrastive_loss


def naive(z: torch.Tensor, y: torch.Tensor, temperature: float) -> float:
    """Equation 2 of Khosla et al. 2020, letter by letter."""
    anchors = []
    for i in range(len(y)):
        positives = [p for p in range(len(y)) if p != i and y[p] == y[i]]
        if not positives:
            continue
        denominator = sum(math.exp(z[i] @ z[a] / temperature) for a in range(len(y)) if a != i)
        logs = [math.log(math.exp(z[i] @ z[p] / temperature) / denominator) for p in positives]
        anchors.append(-sum(logs) / len(logs))
    return sum(anchors) / len(anchors)


@pytest.mark.parametrize("labels", [[0, 1, 0, 1, 2, 2, 0], [0, 0, 0, 0], [0, 1, 1, 2], [3, 1, 2, 2, 2]])
@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_against_a_naive_loop_and_an_independent_library(labels, temperature):
    y = torch.tensor(labels)
    z = F.normalize(torch.randn(len(y), 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=1)
    loss, has_positive = supervised_contrastive_loss(z, y, temperature)
    assert loss.item() == pytest.approx(naive(z, y, temperature), rel=1e-9)
    if len(set(labels)) > 1:  # the library takes a batch of one class, which has no negatives, for nothing to learn
        assert loss.item() == pytest.approx(SupConLoss(temperature=temperature)(z, y).item(), rel=1e-6)
    assert has_positive.tolist() == [labels.count(label) > 1 for label in labels]


def test_under_autocast_the_similarities_are_as_exact():
    z, y = F.normalize(torch.randn(8, 5, generator=torch.Generator().manual_seed(0)), dim=1), torch.arange(8) % 3
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = supervised_contrastive_loss(z, y)
    assert torch.equal(loss, supervised_contrastive_loss(z, y)[0])


def test_gradient_by_finite_differences():
    y = torch.tensor([0, 1, 0, 2, 1])
    z = torch.randn(5, 3, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda z: supervised_contrastive_loss(F.normalize(z, dim=1), y)[0], z)


def test_no_positive_at_all_is_zero_with_a_finite_gradient():
    z = torch.eye(3, requires_grad=True)
    loss, has_positive = supervised_contrastive_loss(z, torch.arange(3))
    loss.backward()
    assert loss.item() == 0 and not has_positive.any()
    assert z.grad is not None and torch.equal(z.grad, torch.zeros(3, 3))


def test_loss_is_the_cross_entropy_and_the_weighted_contrast(make, batch):
    terms = make("SCL", scl_weight=0.5)(batch).terms
    assert terms["loss"].item() == pytest.approx((terms["supervised"] + 0.5 * terms["contrast"]).item(), rel=1e-6)
    assert terms["positives"] == 1
