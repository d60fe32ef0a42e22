"""What holds for every registered method."""

from __future__ import annotations

import copy

import pytest
import torch

from cim_dg.algorithms import REGISTRY, Batch, register
from cim_dg.algorithms.erm import ERM
from cim_dg.errors import UserError

NAMES = ["ERM", "GroupDRO", "VIB", "SCL", "CCSA", "DCoDR", "TransformInvariance", "CIM", "CIM_VIB"]


def test_the_methods_are_registered():
    assert set(NAMES) <= set(REGISTRY)
    assert all(REGISTRY[name].name == name for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_one_pass_gives_logits_and_scalar_terms_in_both_modes(make, batch, name):
    method = make(name)
    for mode in (True, False):
        output = method.train(mode)(batch)
        assert output.logits.shape == (12, 4)
        assert all(term.ndim == 0 and torch.isfinite(term) for term in output.terms.values())
        assert [term for term, value in output.terms.items() if value.requires_grad] == ["loss"]


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_finite_gradient(make, batch, name):
    method = make(name)
    method(batch).terms["loss"].backward()
    for parameter, tensor in method.named_parameters():
        assert tensor.grad is not None and torch.isfinite(tensor.grad).all(), parameter


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_is_deterministic_and_leaves_state_and_random_numbers_alone(make, batch, name):
    method = make(name)
    method(batch).terms["loss"].backward()
    method.after_step()
    method.eval()
    before, random_state = copy.deepcopy(method.state_dict()), torch.get_rng_state()
    first, second = method(batch), method(batch)
    assert torch.equal(method.predict(batch.x), method.predict(batch.x))
    assert torch.equal(first.logits, method.predict(batch.x))
    assert first.terms == second.terms
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(before[key], value) for key, value in method.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_state_round_trips(make, batch, name, tmp_path):
    method, other = make(name), make(name)
    optimizer = torch.optim.Adam(method.parameters())
    for _ in range(2):
        method(batch).terms["loss"].backward()
        optimizer.step()
        method.after_step()
    torch.save(method.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert torch.equal(method.eval().predict(batch.x), other.eval().predict(batch.x))


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_hyper_parameter_is_refused_with_the_valid_ones(make, name):
    with pytest.raises(UserError, match=r"unknown hyper-parameter 'cim_lamda'; valid names are"):
        make(name, cim_lamda=1.0)


@pytest.mark.parametrize("name", ["ERM", "VIB", "SCL", "TransformInvariance", "CIM", "CIM_VIB"])
def test_domains_are_not_needed(make, batch, name):
    assert torch.isfinite(make(name)(Batch(batch.x, batch.y)).terms["loss"])


def test_a_name_is_registered_once():
    with pytest.raises(UserError, match="'ERM' is registered already"):
        register("ERM")(ERM)
