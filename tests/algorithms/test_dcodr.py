from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import NTXentLoss
from torchvision.transforms.v2 import functional as torchvision_ops

from cim_dg.algorithms import Batch
from cim_dg.algorithms.dcodr import augment, domain_contrastive_loss, random_boxes
from cim_dg.errors import UserError


def codes(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    first, second = (F.normalize(torch.randn(n, 5, dtype=torch.float64, generator=generator), dim=1) for _ in range(2))
    return first, second


def naive(z: torch.Tensor, positives: torch.Tensor, domain: list[int], temperature: float) -> float:
    anchors = []
    for i in range(len(domain)):
        negatives = [j for j in range(len(domain)) if j != i and domain[j] == domain[i]]
        if negatives:
            positive = math.exp(z[i] @ positives[i] / temperature)
            others = sum(math.exp(z[i] @ z[j] / temperature) for j in negatives)
            anchors.append(-math.log(positive / (positive + others)))
    return sum(anchors) / len(anchors)


@pytest.mark.parametrize("domain", [[0, 1, 0, 1, 1, 2, 2], [0, 0, 0, 0], [0, 1, 1, 2]])
@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_against_a_naive_loop(domain, temperature):
    z, positives = codes(len(domain))
    loss, has_negative = domain_contrastive_loss(z, positives, torch.tensor(domain), temperature)
    assert loss.item() == pytest.approx(naive(z, positives, domain, temperature), rel=1e-9)
    assert has_negative.tolist() == [domain.count(one) > 1 for one in domain]


def test_against_an_independent_library():
    """NT-Xent with the pairs given: each anchor with its augmented image, and with its domain's other images."""
    z, positives = codes(6)
    domain = torch.tensor([0, 1, 0, 1, 1, 0])
    anchors, negatives = torch.where((domain[:, None] == domain) & ~torch.eye(6, dtype=torch.bool))
    pairs = (torch.arange(6), torch.arange(6) + 6, anchors, negatives)
    library = NTXentLoss(temperature=0.2)(torch.cat([z, positives]), indices_tuple=pairs)
    loss, _ = domain_contrastive_loss(z, positives, domain, 0.2)
    assert loss.item() == pytest.approx(library.item(), rel=1e-6)


def test_gradient_by_finite_differences():
    z, positives = (x.requires_grad_() for x in codes(5))
    domain = torch.tensor([0, 1, 0, 2, 1])
    assert torch.autograd.gradcheck(lambda a, b: domain_contrastive_loss(a, b, domain)[0], (z, positives))


def test_other_domains_do_not_matter():
    z, positives = codes(6)
    domain = torch.tensor([0, 0, 0, 1, 2, 3])  # only the first three have negatives
    loss, _ = domain_contrastive_loss(z, positives, domain)
    z[3:] = z[3:].flip(1)
    assert domain_contrastive_loss(z, positives, domain)[0] == loss
    alone, _ = domain_contrastive_loss(z[3:].requires_grad_(), positives[3:], domain[3:])
    alone.backward()
    assert alone == 0


def test_each_augmentation_has_a_quarter_of_the_batch():
    pixels = 0.3 + 0.2 * torch.rand(12, 3, 16, 20, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(3)
    seen = torch.zeros(4)
    for made, image in zip(augment(pixels, generator), pixels, strict=True):
        grey = torchvision_ops.rgb_to_grayscale
        blurred = torch.allclose(made, torchvision_ops.gaussian_blur(image, [5, 5], [1.0, 1.0]), atol=1e-6)
        # Saturation leaves grey values as they are; contrast multiplies their distance to the mean by its factor.
        same_grey = torch.allclose(grey(made), grey(image), atol=1e-3)
        factor = (made.std() / image.std()).item()
        contrasted = torch.allclose(made, torchvision_ops.adjust_contrast(image, factor), atol=1e-5)
        assert not contrasted or 1.8 <= factor <= 3
        cropped = made.min() >= image.min() and made.max() <= image.max() and not blurred
        kinds = torch.tensor([blurred, contrasted, same_grey, cropped])
        assert kinds.sum() == 1
        seen += kinds
    assert seen.tolist() == [3, 3, 3, 3]


@pytest.mark.parametrize("n", [1, 3, 6])
def test_batches_that_four_does_not_divide(n):
    pixels = torch.rand(n, 3, 9, 9)
    assert all(not torch.allclose(made, image, atol=1e-3) for made, image in zip(augment(pixels), pixels, strict=True))


def test_boxes_lie_in_the_image_and_have_the_area_asked_for():
    top, left, height, width = random_boxes(2000, 30, 40, torch.Generator().manual_seed(0)).T
    assert top.min() >= 0 and left.min() >= 0
    assert (top + height).max() <= 30 + 1e-4 and (left + width).max() <= 40 + 1e-4
    area = height * width / (30 * 40)
    assert area.max() <= 1 and area.min() > 0.5 - 1e-6
    assert area.mean().item() == pytest.approx(0.75, abs=0.03)


def test_loss_is_the_weighted_sum_with_and_without_the_reconstruction(make, batch):
    terms = make("DCoDR", dcodr_weight=0.5)(batch).terms
    assert terms["loss"].item() == pytest.approx((terms["supervised"] + 0.5 * terms["contrast"]).item(), rel=1e-6)
    assert "reconstruction" not in terms and terms["negatives"] == 1
    terms = make("DCoDR", dcodr_weight=0.5, dcodr_reconstruction=0.3)(batch).terms
    expected = terms["supervised"] + 0.5 * terms["contrast"] + 0.3 * terms["reconstruction"]
    assert terms["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_reconstruction_is_of_the_image_and_depends_on_the_domain(make, batch):
    method = make("DCoDR", dcodr_reconstruction=0.3)
    z = F.normalize(method.encode(batch.x), dim=1)
    made = method.generator(z, batch.domain)
    target = torch.stack([torchvision_ops.resize(image, [64, 64], antialias=True) for image in batch.x])
    expected = (made - target).abs().mean()
    assert method(batch).terms["reconstruction"].item() == pytest.approx(expected.item(), abs=1e-6)
    assert not torch.allclose(made, method.generator(z, (batch.domain + 1) % 3))
    method(batch).terms["loss"].backward()
    assert all(p.grad is not None and p.grad.any() for p in method.generator.parameters())


def test_without_domains_it_refuses(make, batch):
    with pytest.raises(UserError, match="DCoDR needs domain labels"):
        make("DCoDR")(Batch(batch.x, batch.y))
