"""DiWA's seams, in made-up modules; tests of a real clone are in test_forks.py."""

from __future__ import annotations

import argparse
import sys
from types import SimpleNamespace

import pytest
import torch
from domainbed import algorithms, hparams_registry
from torch import nn

from cim_dg.domainbed import diwa, eoa
from cim_dg.errors import UserError

SHAPE, CLASSES = (3, 36, 36), 3


class SmallERM(nn.Module):
    """DiWA's ERM, as far as ours lean on it."""

    def __init__(self, *arguments):
        super().__init__()
        self.network = nn.Linear(2, 2)


class Average(nn.Module):
    """DiWA's average: the running mean of the parameters, in the first network."""

    def __init__(self):
        super().__init__()
        self.network_wa, self.global_count = None, 0

    def add_weights(self, network):
        if self.network_wa is None:
            self.network_wa = network
        else:
            for mean, parameter in zip(self.network_wa.parameters(), network.parameters(), strict=False):
                mean.data += (parameter.data - mean.data) / (self.global_count + 1)
        self.global_count += 1


@pytest.fixture
def inference():
    module = SimpleNamespace(ERM=SmallERM, DiWA=type("DiWA", (Average,), {}), algorithms=algorithms)
    diwa.on_inference(module)
    return module


def trained(name, seed, **override):
    """A checkpoint: hyper-parameters and state, with statistics of batch normalisation that are its own."""
    torch.manual_seed(seed)
    hparams = hparams_registry.default_hparams(name, "NuisanceDigits") | override
    algorithm = algorithms.get_algorithm_class(name)(SHAPE, CLASSES, 2, hparams)
    algorithm.update([(torch.rand(4, *SHAPE), torch.arange(4) % CLASSES) for _ in range(2)])
    return hparams, algorithm.state_dict()


def add(inference, average, hparams, state):
    member = inference.ERM(SHAPE, CLASSES, 2, hparams)
    member.load_state_dict(state, strict=False)
    average.add_weights(member.network)
    return member.network


@pytest.mark.parametrize("name", ["CIM", "CIM_VIB", "SCL", "VIB"])
def test_an_average_has_the_mean_of_all_weights_and_statistics(inference, name):
    checkpoints = [trained(name, seed) for seed in range(3)]
    mean = {
        key: torch.stack([state[key].double() for _, state in checkpoints]).mean(0).float()
        for key in checkpoints[0][1]
        if checkpoints[0][1][key].is_floating_point()
    }
    states = [{key: value.clone() for key, value in state.items()} for _, state in checkpoints]
    average = inference.DiWA()
    for (hparams, _), state in zip(checkpoints, states, strict=True):
        add(inference, average, hparams, state)
    got = average.network_wa.algorithm.state_dict()
    assert any("morphing.network" in key and "running_var" in key for key in mean) == ("CIM" in name)
    for key, value in mean.items():
        assert torch.allclose(got[key], value, atol=1e-6), key
    expected = algorithms.get_algorithm_class(name)(SHAPE, CLASSES, 2, checkpoints[0][0])
    expected.load_state_dict(got | mean)
    x = torch.rand(2, *SHAPE)
    assert torch.allclose(average.network_wa.eval()(x), expected.eval().predict(x), atol=1e-5)


def test_their_checkpoints_are_built_as_before(inference):
    average = inference.DiWA()
    state = SmallERM().state_dict()
    network = add(inference, average, {}, state | {"unused": torch.zeros(1)})
    assert torch.equal(network.weight, state["network.weight"])
    add(inference, average, {}, state)
    assert average.global_count == 2


def test_what_has_no_mean_is_refused(inference):
    average = inference.DiWA()
    add(inference, average, *trained("CIM", 0))
    with pytest.raises(UserError, match="checkpoints of CIM and of SCL"):
        add(inference, average, *trained("SCL", 0))
    with pytest.raises(UserError, match="checkpoints of CIM and of another algorithm"):
        add(inference, average, {}, SmallERM().state_dict())
    with pytest.raises(UserError, match="weights of different shapes, which have no mean; they differ in cim_width,"):
        add(inference, average, *trained("CIM", 0, cim_width=8))
    hparams, state = trained("CIM", 0)
    with pytest.raises(UserError, match="fit no method of cim-dg here"):
        add(inference, average, {k: v for k, v in hparams.items() if k != "cim_width"}, state)
    with pytest.raises(UserError, match="a checkpoint does not fit CIM: Missing key"):
        add(inference, average, hparams, dict(list(state.items())[:-1]))


def test_runs_start_from_a_shared_initialisation(tmp_path, monkeypatch):
    kind = diwa.with_initialisation(algorithms.get_algorithm_class("CIM"))
    hparams = hparams_registry.default_hparams("CIM", "NuisanceDigits")
    path = tmp_path / "init.pth"

    def make(seed, **flags):
        args = argparse.Namespace(**{"init_step": False, "path_for_init": str(path)} | flags)
        monkeypatch.setattr(sys.modules["__main__"], "args", args, raising=False)
        torch.manual_seed(seed)
        return kind(SHAPE, CLASSES, 2, hparams)

    with pytest.raises(UserError, match=r"there is no initialisation .*init.pth yet; `train --init_step` saves it"):
        make(0)
    first = make(0, init_step=True)
    before = [p.clone() for p in first.method.featurizer.parameters()]
    first.update([(torch.rand(4, *SHAPE), torch.arange(4) % CLASSES) for _ in range(2)])
    assert all(torch.equal(a, b) for a, b in zip(before, first.method.featurizer.parameters(), strict=True))
    first.save_path_for_future_init(str(path))
    with pytest.raises(UserError, match="there is an initialisation"):
        first.save_path_for_future_init(str(path))
    second = make(1)
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())
    assert len(second.optimizer.param_groups[0]["params"]) == len(list(second.parameters()))
    third = make(1, path_for_init="None")  # what DiWA's sweep gives its jobs for no path
    assert not all(torch.equal(value, third.state_dict()[key]) for key, value in first.state_dict().items())
    torch.save(nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(UserError, match="is no initialisation of CIM; `train --algorithm CIM --init_step` saves one"):
        make(2)


def test_ensembles_of_averages_refuse_ours_and_numpy_has_their_name(monkeypatch):
    numpy, loaded = SimpleNamespace(), {"best.pkl": {"args": {"algorithm": "CIM"}}, "erm.pkl": {"args": {}}, "x": [1]}
    fork = SimpleNamespace(
        __name__="domainbed.algorithms", ERM_SMA=object, np=numpy, torch=SimpleNamespace(load=loaded.get)
    )
    fork.CIM = algorithms.CIM
    eoa.on_algorithms(fork)
    assert numpy.float is float
    assert fork.torch.load("best.pkl") == loaded["best.pkl"]
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", SimpleNamespace(name="domainbed.EoA"))
    eoa.on_algorithms(fork)
    assert fork.torch.load("erm.pkl") == {"args": {}}
    assert fork.torch.load("x") == [1]
    with pytest.raises(UserError, match=r"best.pkl is a checkpoint of CIM; domainbed.EoA makes ensembles of ERM_SMA"):
        fork.torch.load("best.pkl")
