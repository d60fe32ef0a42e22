"""The SWAD family's seams, in made-up modules; tests of the real clones are in test_forks.py."""

from __future__ import annotations

import copy
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from fork_seams import Averaged, evaluator_of, swad_modules
from torch import nn

from cim_dg.algorithms import REGISTRY
from cim_dg.domainbed import plugin, swad
from cim_dg.errors import UserError
from cim_dg.nn.batch_norm import update_statistics


@pytest.fixture
def clone(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "domainbed"]:
        monkeypatch.delitem(sys.modules, name)
    modules = swad_modules()
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    plugin.on_algorithms(modules["domainbed.algorithms"])
    plugin.on_hparams_registry(modules["domainbed.hparams_registry"])
    return SimpleNamespace(**{name.split(".")[-1]: module for name, module in modules.items()})


def batches(domains=2):
    generator = torch.Generator().manual_seed(0)
    x = [torch.rand(6, 3, 20, 20, generator=generator) for _ in range(domains)]
    return x, [torch.arange(6) % 3 for _ in range(domains)]


def made(clone, name, **override):
    torch.manual_seed(0)
    hparams = clone.hparams_registry.default_hparams(name, "NuisanceDigits") | override
    return clone.algorithms.get_algorithm_class(name)((3, 20, 20), 3, 2, hparams)


@pytest.mark.parametrize("name", REGISTRY)
def test_lists_of_tensors_train_every_method_and_a_copy_goes_on_by_itself(clone, name):
    algorithm = made(clone, name)
    x, y = batches()
    terms = [algorithm.update(x, y, step=step) for step in range(2)]
    assert all(type(value) is float and math.isfinite(value) for step in terms for value in step.values())
    assert isinstance(algorithm.optimizer, torch.optim.SGD)  # the harness' own choice
    before = copy.deepcopy(algorithm.state_dict())
    other = copy.deepcopy(algorithm)
    other.update(x, y, step=2)
    assert all(torch.equal(before[key], value) for key, value in algorithm.state_dict().items())
    assert any(not torch.equal(before[key], value) for key, value in other.state_dict().items())


def test_one_random_state_gives_the_harness_its_values_and_ours_have_streams_of_their_own(clone):
    upstream = swad_modules()["domainbed.hparams_registry"]
    registry = clone.hparams_registry
    for seed in range(3):
        drawn = registry.random_hparams("CIM", "VLCS", seed)
        own = upstream.random_hparams("ERM", "VLCS", seed)
        assert {name: drawn[name] for name in own} == own
        assert drawn["cim_lambda"] == registry.random_hparams("CIM", "VLCS", seed)["cim_lambda"]
    assert registry.default_hparams("Theirs", "VLCS") == upstream.default_hparams("Theirs", "VLCS")


def test_names_of_the_harness_pass_and_values_of_ours_are_checked(clone):
    made(clone, "CIM", swad="LossValley", test_batchsize=128)
    with pytest.raises(UserError, match="cim_lambda is 'big'"):
        made(clone, "CIM", cim_lambda="big")


def test_the_mask_network_of_an_average_has_the_statistics_of_training_images(clone):
    algorithm = made(clone, "CIM", freeze_bn=True).eval()
    images, labels = batches(3)
    module = evaluator_of([[{"x": x, "y": y}] for x, y in zip(images, labels, strict=True)])
    swad.on_evaluator(module)
    average = Averaged(copy.deepcopy(algorithm)).eval()
    state = torch.get_rng_state()
    module.Evaluator().evaluate(average)
    assert torch.equal(torch.get_rng_state(), state)
    assert not average.training
    expected = copy.deepcopy(algorithm)
    update_statistics(expected, [images[0], images[2]])
    for key, value in average.module.state_dict().items():
        assert torch.equal(value, expected.state_dict()[key])
    changed = [
        key for key, value in algorithm.state_dict().items() if not torch.equal(value, expected.state_dict()[key])
    ]
    assert changed
    assert all("morphing.network" in key for key in changed)


@pytest.mark.parametrize("freeze_bn", [True, False])
def test_what_is_not_ours_or_updated_by_the_harness_is_left_alone(clone, freeze_bn):
    module = evaluator_of([[{"x": x, "y": y}] for x, y in zip(*batches(3), strict=True)])
    swad.on_evaluator(module)
    theirs = nn.Sequential(nn.BatchNorm2d(3)) if freeze_bn else made(clone, "CIM", freeze_bn=False)
    for model in (Averaged(theirs), made(clone, "CIM", freeze_bn=True)):
        before = copy.deepcopy(model.state_dict())
        module.Evaluator().evaluate(model)
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_statistics_are_the_mean_over_batches_and_frozen_layers_keep_theirs():
    class Frozen(nn.BatchNorm2d):
        def train(self, mode=True):
            return super().train(False)

    live, frozen = nn.BatchNorm2d(3), Frozen(3)
    model = nn.Sequential(live, frozen).train()
    x = [torch.rand(4, 3, 5, 5) + i for i in range(3)]
    assert update_statistics(model, x) == 1
    means, variances = (torch.stack([f(b, (0, 2, 3)) for b in x]).mean(0) for f in (torch.mean, torch.var))
    assert torch.allclose(live.get_buffer("running_mean"), means, atol=1e-6)
    assert torch.allclose(live.get_buffer("running_var"), variances, atol=1e-6)
    assert torch.equal(frozen.get_buffer("running_mean"), torch.zeros(3))
    assert live.momentum == 0.1
    assert update_statistics(nn.Linear(2, 2), iter(())) == 0


def test_small_images_of_ours_are_not_augmented_and_the_harness_own_are_as_before():
    seen = []
    datasets = SimpleNamespace(
        set_transfroms=lambda dset, data_type, hparams, algorithm_class=None: seen.append(data_type)
    )
    swad.on_transforms(datasets)
    for as_it_is in (True, False):
        split = SimpleNamespace(underlying_dataset=SimpleNamespace(as_it_is=as_it_is))
        datasets.set_transfroms(split, "train", {})
    assert seen == ["mnist", "train"]


def test_numpy_gets_the_name_that_the_trainer_uses_if_it_has_none():
    trainer = SimpleNamespace(np=SimpleNamespace())
    swad.on_trainer(trainer)
    assert trainer.np.int is int
    trainer = SimpleNamespace(np=SimpleNamespace(int="numpy's"))
    swad.on_trainer(trainer)
    assert trainer.np.int == "numpy's"
