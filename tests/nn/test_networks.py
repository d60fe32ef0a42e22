from __future__ import annotations

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from cim_dg.nn.networks import (
    GaussianBottleneck,
    ProjectionHead,
    SmallCNN,
    TransformationNetwork,
    kl_to_standard_normal,
)


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (28, 28), (36, 36), (31, 64)])
@pytest.mark.parametrize(("channels", "masks"), [(3, 1), (3, 3), (1, 1), (5, 1)])
def test_mask_has_the_size_of_the_image_and_lies_in_0_1(size, channels, masks):
    mask = TransformationNetwork(channels, masks)(torch.rand(2, channels, *size))
    assert mask.shape == (2, masks, *size)
    assert (mask > 0).all() and (mask < 1).all()


@pytest.mark.parametrize("initial", [0.3, 0.9])
def test_mask_starts_near_its_initial_value_everywhere(initial):
    torch.manual_seed(0)
    mask = TransformationNetwork(3, initial=initial)(torch.rand(8, 3, 40, 40))
    assert mask.mean().item() == pytest.approx(initial, abs=0.02)
    assert (mask - initial).abs().max() < 0.1


def test_mask_has_no_checkerboard_on_a_constant_image():
    torch.manual_seed(0)
    mask = TransformationNetwork(3).eval()(torch.full((1, 3, 64, 64), 0.5))[0, 0, 16:48, 16:48]
    assert mask.std() < 1e-6


@pytest.mark.parametrize(("size", "field"), [(41, 19), (56, 19), (112, 38), (224, 76)])
def test_the_part_of_the_image_that_decides_a_weight(size, field):
    """At least a third of an image that is averaged to 56 pixels."""
    torch.manual_seed(0)
    network = TransformationNetwork(1, width=4, side=56).eval()
    largest = 0
    for place in range(size // 2, size // 2 + 16):
        x = torch.rand(1, 1, size, size, requires_grad=True)
        (gradient,) = torch.autograd.grad(network(x)[0, 0, place, place], x)
        rows = gradient[0, 0].abs().sum(dim=1).nonzero()
        largest = max(largest, int(rows.max() - rows.min()) + 1)
    assert largest == field and 3 * largest >= size


def test_a_small_image_has_the_mask_of_the_network_without_a_working_size():
    networks = []
    for side in (None, 20):
        torch.manual_seed(0)
        networks.append(TransformationNetwork(3, side=side))
    x = torch.rand(2, 3, 20, 31)
    assert torch.equal(*(network(x) for network in networks))
    assert networks[0].state_dict().keys() == networks[1].state_dict().keys()


@pytest.mark.parametrize("masks", [1, 3])
def test_the_mask_of_an_enlarged_image_is_the_enlarged_mask(masks):
    """Pixels of 2 x 2, seen at the working size, are the small image; bilinear logits keep their means over 2 x 2."""
    torch.manual_seed(0)
    network = TransformationNetwork(3, masks, side=16).double()
    x = torch.rand(2, 3, 16, 22, dtype=torch.float64)
    small, large = network(x), network(x.repeat_interleave(2, -1).repeat_interleave(2, -2))
    assert large.shape == (2, masks, 32, 44)
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(large.logit(), 2), small.logit())


def test_kl_against_torch_distributions():
    mean, scale = torch.randn(6, 5, dtype=torch.float64), torch.rand(6, 5, dtype=torch.float64) + 0.01
    expected = kl_divergence(
        Independent(Normal(mean, scale), 1), Independent(Normal(torch.zeros_like(mean), torch.ones_like(scale)), 1)
    )
    torch.testing.assert_close(kl_to_standard_normal(mean, scale), expected, atol=1e-10, rtol=1e-10)


def test_kl_gradient_by_finite_differences():
    mean = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    scale = (torch.rand(2, 3, dtype=torch.float64) + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(kl_to_standard_normal, (mean, scale))


def test_bottleneck_samples_its_own_distribution_in_training_and_takes_the_mean_in_evaluation():
    torch.manual_seed(0)
    bottleneck = GaussianBottleneck(4, 3)
    features = torch.randn(1, 4)
    bottleneck.eval()
    mean, kl = bottleneck(features)
    assert torch.equal(bottleneck(features)[0], mean)
    bottleneck.train()
    samples = bottleneck(features.expand(20000, 4))[0]
    scale = torch.nn.functional.softplus(bottleneck.encode(features)[:, 3:] - 5) + 1e-6
    torch.testing.assert_close(samples.mean(dim=0), mean[0], atol=4 * scale.max().item() / 140, rtol=0)
    torch.testing.assert_close(samples.std(dim=0), scale[0], rtol=0.03, atol=0)
    torch.testing.assert_close(kl, kl_to_standard_normal(mean, scale))


def test_bottleneck_stays_finite_where_the_scale_underflows():
    bottleneck = GaussianBottleneck(2, 2)
    with torch.no_grad():
        bottleneck.encode.bias.fill_(-300.0)
    z, kl = bottleneck(torch.zeros(3, 2))
    kl.sum().backward()
    assert torch.isfinite(z).all() and torch.isfinite(kl).all()
    gradient = bottleneck.encode.bias.grad
    assert gradient is not None and torch.isfinite(gradient).all()


def test_projections_lie_on_the_unit_sphere():
    z = ProjectionHead(7, 5)(torch.randn(4, 7))
    assert z.shape == (4, 5)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(4))


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (36, 36), (64, 48)])
def test_small_cnn_takes_any_size_and_says_how_many_features_it_gives(size):
    network = SmallCNN(2, width=8)
    assert network(torch.rand(3, 2, *size)).shape == (3, network.n_outputs)
