"""The GPU's product of the scales' means against the definition that CPUs follow, written out."""

from __future__ import annotations

import pytest
import torch

from cim_dg.nn import perceptual
from cim_dg.nn.scale_product import scale_product

WEIGHTS = (0.2, 0.5, 0.3)


def by_definition(means: torch.Tensor) -> torch.Tensor:
    powers = [perceptual._power(mean, weight) for mean, weight in zip(means, WEIGHTS, strict=True)]
    return (powers[0] * powers[1] * powers[2]).mean(-1)


@pytest.mark.parametrize("simple", [False, True])
def test_equal_to_the_definition_with_its_gradient_also_at_and_below_the_floor(simple: bool) -> None:
    torch.manual_seed(0)
    means = torch.rand(3, 2, 7, 3, dtype=torch.float64)
    means[0, 0, 0], means[1, 0, 1], means[2, 1, 2], means[0, 1, 3, 0] = 0.0, -0.2, 1e-7, perceptual.FLOOR
    grad = torch.rand(2, 7, dtype=torch.float64)
    results = []
    for function in (
        lambda each: by_definition(0.5 + 0.5 * each if simple else each),
        lambda each: scale_product(each, WEIGHTS, perceptual.FLOOR, simple)[0],
    ):
        leaf = means.clone().requires_grad_()
        value = function(leaf)
        value.backward(grad)
        results.append((value.detach(), leaf.grad))
    (expected, expected_gradient), (value, gradient) = results
    torch.testing.assert_close(value, expected, atol=1e-14, rtol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-12, rtol=1e-10)
    published = scale_product(means.requires_grad_(), WEIGHTS, perceptual.FLOOR, simple)[1]
    torch.testing.assert_close(published, by_definition(means.detach()), atol=1e-14, rtol=1e-12)
    assert not published.requires_grad


@pytest.mark.parametrize(("least", "simple"), [(0.1, False), (-0.5, False), (-0.5, True)])
def test_gradient_by_finite_differences(least: float, simple: bool) -> None:
    torch.manual_seed(1)
    means = (least + (1 - least) * torch.rand(3, 2, 2, 2, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda each: scale_product(each, WEIGHTS, perceptual.FLOOR, simple)[0], (means,))
