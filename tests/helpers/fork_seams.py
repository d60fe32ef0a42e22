"""Made-up harness modules with the seams of a fork alone, for tests that have no clone."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from cim_dg.nn.networks import SmallCNN


class SwadAlgorithm(nn.Module):
    """The base class of SWAD's algorithms, as far as ours lean on it."""

    def __init__(self, input_shape, num_classes, num_domains, hparams):
        super().__init__()
        self.hparams = hparams

    def update(self, x, y, **kwargs):
        raise NotImplementedError

    def predict(self, x):
        raise NotImplementedError

    def forward(self, x):
        return self.predict(x)

    def new_optimizer(self, parameters):
        return torch.optim.SGD(parameters, lr=self.hparams["lr"])


def swad_modules() -> dict[str, ModuleType]:
    """`domainbed` and those of its modules that an adapter imports, in SWAD's form."""
    algorithms: Any = ModuleType("domainbed.algorithms")
    algorithms.Algorithm = SwadAlgorithm
    algorithms.get_algorithm_class = lambda name: vars(algorithms)[name]
    networks: Any = ModuleType("domainbed.networks")
    networks.Featurizer = lambda input_shape, hparams: SmallCNN(input_shape[0], width=8)
    registry: Any = ModuleType("domainbed.hparams_registry")

    def hparams(algorithm, dataset, random_state):
        return {"lr": (0.1, random_state.uniform(0, 1)), "batch_size": (8, int(random_state.choice([8, 16])))}

    registry.default_hparams = lambda a, d: {k: v for k, (v, _) in hparams(a, d, np.random.RandomState(0)).items()}
    registry.random_hparams = lambda a, d, s: {k: v for k, (_, v) in hparams(a, d, np.random.RandomState(s)).items()}
    package: Any = ModuleType("domainbed")
    package.algorithms, package.networks, package.hparams_registry = algorithms, networks, registry
    return {module.__name__: module for module in (package, algorithms, networks, registry)}


class Averaged(nn.Module):
    """SWAD's AveragedModel: a model inside, whose forward pass is the model's."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)

    predict = forward


def evaluator_of(batches):
    """An evaluator with in-splits of the training domains 0 and 2 and of the test domain 1, all prebuilt loaders."""

    class Evaluator:
        train_envs = (0, 2)
        eval_meta = tuple((f"env{d}_{split}", batches[d], None) for d in range(3) for split in ("in", "out"))

        def evaluate(self, algorithm):
            return algorithm

    return SimpleNamespace(Evaluator=Evaluator)


class SubpopAlgorithm(nn.Module):
    """The base class of SubpopBench's algorithms, as far as ours lean on it."""

    def __init__(self, data_type, input_shape, num_classes, num_attributes, num_examples, hparams, grp_sizes=None):
        super().__init__()
        self.hparams = hparams


def subpopbench_modules() -> dict[str, ModuleType]:
    """`subpopbench` and those of its modules that the plugin and an adapter use."""
    modules: dict[str, Any] = {
        name: ModuleType(f"subpopbench{name and '.'}{name}")
        for name in ("", "hparams_registry", "learning", "learning.algorithms", "learning.optimizers", "models")
    }
    networks: Any = ModuleType("subpopbench.models.networks")
    modules["models.networks"] = networks
    algorithms = modules["learning.algorithms"]
    algorithms.Algorithm, algorithms.ERM, algorithms.ALGORITHMS = SubpopAlgorithm, SubpopAlgorithm, ["ERM"]
    algorithms.get_algorithm_class = lambda name: vars(algorithms)[name]
    modules["learning.optimizers"].get_optimizers = {
        "sgd": lambda network, lr, decay: torch.optim.SGD(network.parameters(), lr, momentum=0.9, weight_decay=decay)
    }
    networks.Featurizer = lambda data_type, input_shape, hparams: SmallCNN(input_shape[0], width=8)
    networks.Classifier = lambda n, k, nonlinear: nn.Linear(n, k)
    hparams = {"lr": 0.1, "weight_decay": 1e-4, "batch_size": 108, "nonlinear_classifier": False, "resnet18": False}
    modules["hparams_registry"].default_hparams = lambda algorithm, dataset: dict(hparams)
    modules["hparams_registry"].random_hparams = lambda algorithm, dataset, seed: hparams | {"lr": np.float64(seed)}
    modules[""].hparams_registry, modules["models"].networks = modules["hparams_registry"], networks
    return {module.__name__: module for module in modules.values()}
