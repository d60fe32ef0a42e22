from __future__ import annotations

import copy
import math

import pytest
import torch

from cim_dg.algorithms import REGISTRY, Batch
from cim_dg.errors import RunError
from cim_dg.harness.step import TrainingStep, join_domains, with_parts


def trained(make, batch, name, steps=3, **options):
    method = make(name)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    step = TrainingStep(method, **options)
    torch.manual_seed(1)
    return method, [step(batch, optimizer)[1] for _ in range(steps)]


@pytest.mark.parametrize("name", REGISTRY)
def test_a_step_is_the_plain_loop(make, batch, name):
    method, terms = trained(make, batch, name)
    plain = make(name)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    torch.manual_seed(1)
    for step in range(3):
        output = plain(batch)
        optimizer.zero_grad()
        output.terms["loss"].backward()
        optimizer.step()
        plain.after_step()
        assert terms[step] == {key: term.item() for key, term in output.terms.items()}
    assert all(
        torch.equal(a, b) for a, b in zip(method.state_dict().values(), plain.state_dict().values(), strict=True)
    )


def test_gradients_are_clipped(make, batch):
    before = make("ERM").state_dict()
    for norm in (1e-3, 1e-2):
        after = trained(make, batch, "ERM", steps=1, max_grad_norm=norm)[0].state_dict()
        moved = math.sqrt(sum(float((after[key] - before[key]).square().sum()) for key in after))
        assert moved == pytest.approx(0.1 * norm, rel=1e-3)


def test_the_error_says_where_the_run_is_and_steps_go_on_from_a_checkpoint(make, batch):
    method = make("ERM")
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    step = TrainingStep(method)
    step(batch, optimizer)
    again = TrainingStep(method)
    again.load_state_dict(copy.deepcopy(step.state_dict()))
    bad = Batch(batch.x * math.nan, batch.y, batch.domain)
    with pytest.raises(RunError, match="ERM stopped at step 1: loss is nan"):
        again(bad, optimizer)
    with pytest.raises(RunError, match="ERM stopped at epoch 2, batch 3: loss is nan"):
        step(bad, optimizer, "epoch 2, batch 3")


def test_predictions_and_features_are_float32_and_fit_each_other(make, batch):
    method = make("CIM_VIB").eval()
    step = TrainingStep(method, bf16=True)
    assert step.predict(batch.x).dtype == step.features(batch.x).dtype == torch.float32
    step = TrainingStep(method)
    with torch.no_grad():
        assert torch.equal(method.classify(step.features(batch.x)), step.predict(batch.x))


def test_parts_have_a_learning_rate_and_a_decay_of_their_own(make, batch):
    """A step of SGD, against the update written out: p - lr * factor * (gradient + decay * p)."""
    lr, decay = 0.1, 0.5
    for name in ("CIM_VIB", "SCL", "ERM"):
        hparams = {} if name == "ERM" else {"parts_lr_factor": 3.0, "parts_decay": "weights"}
        method = make(name, **hparams)
        plain = torch.optim.SGD(method.parameters(), lr=lr, weight_decay=decay)
        optimizer = with_parts(plain, method)
        before = {key: value.detach().clone() for key, value in method.named_parameters()}
        TrainingStep(method)(batch, optimizer)
        in_parts = 0
        for key, parameter in method.named_parameters():
            is_part = key.startswith(("morphing.", "projection.", "classifier.bottleneck."))
            in_parts += is_part
            decayed = 0.0 if is_part and parameter.ndim == 1 else decay
            assert parameter.grad is not None
            expected = before[key] - lr * (3.0 if is_part else 1.0) * (parameter.grad + decayed * before[key])
            torch.testing.assert_close(parameter.detach(), expected)
        assert bool(in_parts) == (name != "ERM")


def test_by_default_the_parts_are_in_the_group_of_the_others(make):
    method = make("CIM_VIB")
    optimizer = torch.optim.Adam(method.parameters(), lr=0.1)
    (group,) = with_parts(optimizer, method).param_groups
    assert len(group["params"]) == len(list(method.parameters()))


def test_a_schedule_and_a_checkpoint_keep_the_groups(make, batch):
    def start(seed):
        method = make("CIM", parts_lr_factor=10.0)
        optimizer = with_parts(torch.optim.Adam(method.parameters(), lr=1e-3), method)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        torch.manual_seed(seed)
        return method, optimizer, schedule, TrainingStep(method)

    def go_on(method, optimizer, schedule, step):
        step(batch, optimizer)
        schedule.step()

    first, again = start(1), start(2)
    go_on(*first)
    assert [group["lr"] for group in first[1].param_groups] == pytest.approx([5e-4, 5e-3])
    for one, other in zip(first[:3], again[:3], strict=True):
        other.load_state_dict(copy.deepcopy(one.state_dict()))
    for each in (first, again):
        torch.manual_seed(3)
        go_on(*each)
    for one, other in zip(first[0].parameters(), again[0].parameters(), strict=True):
        assert torch.equal(one, other)


def test_domains_are_numbered_as_they_are_fed():
    joined = join_domains([torch.zeros(2, 3, 4, 4), torch.ones(1, 3, 4, 4)], [torch.tensor([5, 6]), torch.tensor([7])])
    assert joined.x.shape == (3, 3, 4, 4)
    assert joined.y.tolist() == [5, 6, 7]
    assert joined.domain is not None and joined.domain.tolist() == [0, 0, 1]
