from __future__ import annotations

import pytest
import torch


def test_loss_is_the_cross_entropy_and_beta_times_the_kl(make, batch):
    terms = make("VIB", vib_beta=0.5)(batch).terms
    assert terms["loss"].item() == pytest.approx((terms["supervised"] + 0.5 * terms["kl"]).item(), rel=1e-6)


def test_beta_rises_over_the_optimising_steps_of_the_warmup_and_not_by_evaluation(make, batch):
    method = make("VIB", vib_beta=0.8, vib_warmup=4)
    seen = []
    for _ in range(6):
        seen.append(method.classifier.beta.item())
        method.eval()(batch)
        method.train()(batch)
        method.after_step()
    assert seen == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


def test_without_a_warmup_beta_is_there_from_the_start(make):
    assert make("VIB", vib_beta=0.8).classifier.beta.item() == pytest.approx(0.8)


def test_training_samples_the_code(make, batch):
    method = make("VIB")
    assert not torch.equal(method(batch).logits, method(batch).logits)
