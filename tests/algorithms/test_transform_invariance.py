from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cim_dg.algorithms.scl import supervised_contrastive_loss
from cim_dg.algorithms.transform_invariance import gradient_penalty
from cim_dg.images.colours import change_colours, draw_colours

N, D, L = 3, 4, 5
GENERATOR = torch.Generator().manual_seed(0)
PIXELS = 0.3 + 0.1 * torch.rand(N, 3, 4, 4, dtype=torch.float64, generator=GENERATOR)
PIXELS = PIXELS + 0.1 * torch.arange(3).view(3, 1, 1)  # no ties of channels, nothing clamped
SIGNS = 2.0 * torch.randint(2, (N, D), generator=GENERATOR) - 1
WEIGHT = torch.randn(D, 48, dtype=torch.float64, generator=GENERATOR)


def parameters(*shape: int) -> torch.Tensor:
    return draw_colours(*shape, strength=0.2, generator=torch.Generator().manual_seed(len(shape))).double()


def encode(alpha: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.normalize(torch.tanh(change_colours(PIXELS, alpha).flatten(1) @ weight.T), dim=1)


def penalty(weight: torch.Tensor, limit: float = 1e9) -> torch.Tensor:
    alpha = parameters(N).requires_grad_()
    return gradient_penalty(encode(alpha, weight), alpha, SIGNS, parameters(L, N), limit)


def naive() -> float:
    """Image by image, draw by draw; the gradient by central differences."""
    alpha, fresh, step = parameters(N), parameters(L, N), 1e-6
    total = 0.0
    for i in range(N):
        gradient = []
        for p in range(4):
            ends = []
            for sign in (1, -1):
                moved = alpha.clone()
                moved[i, p] += sign * step
                ends.append((SIGNS * encode(moved, WEIGHT))[i].sum().item())
            gradient.append((ends[0] - ends[1]) / (2 * step))
        for draw in range(L):
            total += sum(g * (fresh[draw, i, p] - alpha[i, p]).item() for p, g in enumerate(gradient)) ** 2
    return total / (N * L)


def test_penalty_against_a_naive_loop_of_finite_differences():
    expected = naive()
    assert expected > 0
    assert penalty(WEIGHT).item() == pytest.approx(expected, rel=1e-5)


def test_its_own_gradient_by_finite_differences():
    assert torch.autograd.gradcheck(penalty, WEIGHT.clone().requires_grad_())


def test_at_the_limit_it_counts_no_more_and_has_no_gradient():
    weight = WEIGHT.clone().requires_grad_()
    limit = naive() / 2
    clipped = penalty(weight, limit)
    clipped.backward()
    assert weight.grad is not None
    assert clipped.item() == pytest.approx(limit) and not weight.grad.any()


def test_it_is_the_change_of_the_encoding_over_random_signs():
    """The mean over all signs is the squared first-order change of h, entry by entry."""
    alpha, fresh = parameters(N).requires_grad_(), parameters(L, N)
    every = torch.tensor([[1.0 if k >> d & 1 else -1.0 for d in range(D)] for k in range(2**D)])
    h = encode(alpha, WEIGHT)
    mean = sum(gradient_penalty(h, alpha, signs.expand(N, D), fresh, 1e9) for signs in every) / 2**D
    jacobian = torch.stack([torch.autograd.grad(h[:, d].sum(), alpha, retain_graph=True)[0] for d in range(D)])
    change = torch.einsum("dnp,lnp->lnd", jacobian, fresh - alpha)
    assert mean.item() == pytest.approx(change.square().sum(-1).mean().item(), rel=1e-9)


@pytest.mark.parametrize("objective", ["cross_entropy", "contrastive"])
def test_loss_is_the_weighted_sum(make, batch, objective):
    method = make("TransformInvariance", ti_objective=objective, ti_weight=0.7, scl_weight=0.5)
    terms = method(batch).terms
    expected = terms["supervised"] + 0.7 * terms["penalty"] + 0.5 * terms.get("contrast", torch.tensor(0.0))
    assert terms["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert terms["penalty"] > 0
    assert ("contrast" in terms) == (objective == "contrastive")
    terms["loss"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in method.parameters())


def test_the_contrast_is_scls(make, batch):
    method = make("TransformInvariance", ti_objective="contrastive", ti_strength=0.0)
    z = method.projection(method.encode(batch.x))
    expected, _ = supervised_contrastive_loss(z, batch.y, 0.1)
    assert method(batch).terms["contrast"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_there_is_a_penalty_where_gradients_are_off(make, batch):
    method = make("TransformInvariance").eval()
    with torch.no_grad():
        output = method(batch)
    assert not output.logits.requires_grad and not output.terms["loss"].requires_grad
    assert output.terms["penalty"].item() == pytest.approx(method(batch).terms["penalty"].item())


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_any_number_of_channels(make, batch, channels):
    method = make("TransformInvariance", channels=channels)
    x = torch.rand(12, channels, 16, 16)
    assert torch.isfinite(method(type(batch)(x, batch.y)).terms["loss"])


def test_training_on_the_penalty_makes_features_insensitive_to_colours(make, batch):
    method = make("TransformInvariance", ti_weight=30.0, ti_limit=100.0)
    before = method.eval()(batch).terms["penalty"].item()
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-3)
    for _ in range(40):
        optimizer.zero_grad()
        method.train()(batch).terms["loss"].backward()
        optimizer.step()
    assert method.eval()(batch).terms["penalty"].item() < 0.5 * before


def test_what_featurizers_are_made_of_has_a_second_derivative():
    x = torch.rand(2, 8, 8, 8, requires_grad=True)
    for layer in (nn.GroupNorm(4, 8), nn.BatchNorm2d(8), nn.MaxPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(4)):
        (gradient,) = torch.autograd.grad((layer(x) ** 2).sum(), x, create_graph=True)
        gradient.square().sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()
