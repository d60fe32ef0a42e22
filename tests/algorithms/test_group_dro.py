from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from cim_dg.algorithms import Batch
from cim_dg.errors import UserError


def test_loss_and_weights_against_a_naive_loop(make, batch):
    method = make("GroupDRO", groupdro_eta=0.5)
    q = [1.0, 1.0, 1.0]
    for _ in range(3):
        output = method(batch)
        losses = [
            F.cross_entropy(output.logits[batch.domain == d], batch.y[batch.domain == d]).item() for d in range(3)
        ]
        q = [weight * math.exp(0.5 * loss) for weight, loss in zip(q, losses, strict=True)]
        q = [weight / sum(q) for weight in q]
        assert output.terms["loss"].item() == pytest.approx(
            sum(a * b for a, b in zip(q, losses, strict=True)), rel=1e-5
        )
        assert output.terms["worst_domain"].item() == pytest.approx(max(losses), rel=1e-6)
        method.after_step()
        assert method.q.tolist() == pytest.approx(q, rel=1e-5)


def test_a_domain_without_an_image_has_no_loss(make, batch):
    method = make("GroupDRO")
    output = method(Batch(batch.x[:8], batch.y[:8], batch.domain[:8]))
    method.after_step()
    assert torch.isfinite(output.terms["loss"])
    assert method.q[2] < method.q[:2].min()


def test_weights_move_by_optimising_steps_only(make, batch):
    method = make("GroupDRO")
    method.eval()
    method(batch)
    method.after_step()
    assert torch.equal(method.q, torch.ones(3))


def test_without_domains_it_refuses(make, batch):
    with pytest.raises(UserError, match="GroupDRO needs domain labels"):
        make("GroupDRO")(Batch(batch.x, batch.y))


def test_domains_without_training_images_have_no_weight(make, batch):
    """Otherwise the loss is too small by their share: 3/5 of it with three of Camelyon17's five hospitals."""
    method = make("GroupDRO", groupdro_eta=0.5)
    method.see_domain_counts(torch.tensor([4, 0, 8]))
    seen = Batch(batch.x, batch.y, torch.where(batch.domain == 1, 2, batch.domain))
    q = [1.0, 0.0, 1.0]
    for _ in range(2):
        output = method(seen)
        losses = [F.cross_entropy(output.logits[seen.domain == d], seen.y[seen.domain == d]).item() for d in (0, 2)]
        q = [q[0] * math.exp(0.5 * losses[0]), 0.0, q[2] * math.exp(0.5 * losses[1])]
        q = [weight / sum(q) for weight in q]
        assert output.terms["loss"].item() == pytest.approx(q[0] * losses[0] + q[2] * losses[1], rel=1e-5)
        method.after_step()
    assert method.q.tolist() == pytest.approx(q, rel=1e-5)


@pytest.mark.parametrize("counts", [[1, 2], [0, 0, 0]])
def test_counts_of_other_domains_or_of_no_image_are_refused(make, counts):
    with pytest.raises(ValueError, match="3 domains"):
        make("GroupDRO").see_domain_counts(torch.tensor(counts))


def test_the_loss_under_autocast_is_the_float32_loss_of_its_logits(make, batch):
    method = make("GroupDRO").eval()
    with torch.autocast("cpu", torch.bfloat16):
        output = method(batch)
    losses = torch.stack(
        [F.cross_entropy(output.logits.float()[batch.domain == d], batch.y[batch.domain == d]) for d in range(3)]
    )
    weights = (method.hparams["groupdro_eta"] * losses).softmax(0)
    assert output.terms["loss"].dtype == torch.float32
    assert output.terms["loss"].item() == pytest.approx((weights @ losses).item(), rel=1e-6)
