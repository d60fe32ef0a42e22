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
