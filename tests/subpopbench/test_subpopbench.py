"""SubpopBench's seams, in made-up modules; tests of the real clone are in tests/domainbed/test_forks.py."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fork_seams import subpopbench_modules

from cim_dg.algorithms import REGISTRY, Batch
from cim_dg.errors import UserError
from cim_dg.subpopbench import compat, plugin

OURS = [name for name in REGISTRY if name != "ERM"]


@pytest.fixture
def modules(monkeypatch):
    modules = subpopbench_modules()
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    plugin.on_algorithms(modules["subpopbench.learning.algorithms"])
    plugin.on_hparams_registry(modules["subpopbench.hparams_registry"])
    return modules


def made(modules, name, data_type="images", attributes=2, shape=(3, 20, 20), **override):
    torch.manual_seed(0)
    hparams = modules["subpopbench.hparams_registry"].default_hparams(name, "Waterbirds")
    added = {"image_arch": "resnet_sup_in1k", "text_arch": "gpt2", "steps": 5}
    kind = modules["subpopbench.learning.algorithms"].get_algorithm_class(name)
    return kind(data_type, shape, 3, attributes, 100, hparams | added | override, grp_sizes=[10] * 6)


def minibatch():
    generator = torch.Generator().manual_seed(0)
    return torch.arange(8), torch.rand(8, 3, 20, 20, generator=generator), torch.arange(8) % 3, torch.arange(8) // 4


@pytest.mark.parametrize("name", OURS)
def test_every_method_trains_with_the_harness_sgd(modules, name):
    algorithm = made(modules, name)
    for step in range(2):
        terms = algorithm.update(minibatch(), step)
        assert all(type(value) is float and math.isfinite(value) for value in terms.values())
    assert algorithm.optimizer.param_groups[0]["momentum"] == 0.9
    assert sum(len(group["params"]) for group in algorithm.optimizer.param_groups) == len(list(algorithm.parameters()))
    algorithm.eval()
    features, logits = algorithm.return_feats(minibatch()[1]), algorithm.predict(minibatch()[1])
    assert features.shape[0] == 8
    assert torch.equal(algorithm.method.classify(features), logits)


CLAIMING: list[tuple[str, dict[str, str]]] = [(name, {}) for name in OURS] + [
    ("CIM", {"cim_positives": "other_domain"})
]


@pytest.mark.parametrize(("name", "override"), CLAIMING)
def test_attributes_go_to_no_method_that_claims_none(modules, name, override, monkeypatch):
    algorithm = made(modules, name, **override)
    seen = []
    forward = algorithm.method.forward
    monkeypatch.setattr(algorithm.method, "forward", lambda batch: (seen.append(batch), forward(batch))[1])
    algorithm.update(minibatch(), 0)
    claims = REGISTRY[name].needs_domains or bool(override)
    assert isinstance(seen[0], Batch)
    assert (seen[0].domain is not None) == claims
    if claims:
        assert seen[0].domain is not None and torch.equal(seen[0].domain, minibatch()[3])
        with pytest.raises(UserError, match="needs attributes; use --train_attr yes"):
            made(modules, name, attributes=1, **override)


@pytest.mark.parametrize(("data_type", "shape"), [("text", (512, 2)), ("tabular", (300,))])
def test_text_and_tabular_data_are_refused(modules, data_type, shape):
    with pytest.raises(UserError, match=f"CIM takes images; this dataset is {data_type}"):
        made(modules, "CIM", data_type, shape=shape)


def test_a_misspelt_hyper_parameter_is_refused(modules):
    with pytest.raises(UserError, match=r"unknown hyper-parameter 'cim_lamda' for CIM.*cim_lambda.*image_arch"):
        made(modules, "CIM", cim_lamda=1.0)


def test_hyper_parameters_are_the_harness_and_ours_for_ours_alone(modules):
    registry = modules["subpopbench.hparams_registry"]
    upstream = subpopbench_modules()["subpopbench.hparams_registry"]
    assert registry.default_hparams("ERM", "CMNIST") == upstream.default_hparams("ERM", "CMNIST")
    drawn = registry.random_hparams("CIM", "Waterbirds", 3)
    assert upstream.random_hparams("CIM", "Waterbirds", 3).items() <= drawn.items()
    assert type(drawn["lr"]) is float
    assert drawn["pixel_space"] == "imagenet"
    assert registry.default_hparams("CIM", "CMNIST")["pixel_space"]["mean"] == [0.1307, 0.1307, 0.0]


@pytest.mark.parametrize(("program", "listed"), [("subpopbench.train", True), ("subpopbench.sweep", False)])
def test_ours_are_listed_for_train_alone(monkeypatch, program, listed):
    modules = subpopbench_modules()
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", SimpleNamespace(name=program))
    algorithms = modules["subpopbench.learning.algorithms"]
    plugin.on_algorithms(algorithms)
    assert ["ERM", *(OURS if listed else [])] == algorithms.ALGORITHMS


def test_log_loss_clips_as_it_did():
    def modern(y_true, y_pred, *, labels=None):
        return float(np.max(np.abs(y_pred)))

    helper = SimpleNamespace(log_loss=modern)
    compat.on_eval_helper(helper)
    assert helper.log_loss([0, 1], np.array([0.0, 1.0]), eps=0.1, labels=[0, 1]) == 0.9
    assert helper.log_loss([0], np.array([[1.0, 0.0]]), eps=0.2) == pytest.approx(0.8)

    def old(y_true, y_pred, *, eps=1e-15, labels=None):
        return eps

    helper = SimpleNamespace(log_loss=old)
    compat.on_eval_helper(helper)
    assert helper.log_loss is old
