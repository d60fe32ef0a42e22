"""Our methods as algorithms of DomainBed or a fork, with the harness' networks and optimiser."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from cim_dg.algorithms import Algorithm
from cim_dg.domainbed import diwa
from cim_dg.errors import UserError
from cim_dg.harness.registration import split_hparams, without_bf16
from cim_dg.harness.step import TrainingStep, join_domains, with_parts
from cim_dg.nn.pixels import PixelSpace


def make_adapter(method: type[Algorithm], algorithms: ModuleType) -> type:
    """`method` as a class of DomainBed's module `algorithms`, under the method's name."""
    base: Any = algorithms.Algorithm

    class Adapter(base):
        __cim_dg__ = True
        __doc__ = method.__doc__

        def __init__(
            self, input_shape: tuple[int, ...], num_classes: int, num_domains: int, hparams: dict[str, Any]
        ) -> None:
            # Imported here: at this point the harness has loaded it, and our hook has extended it.
            from domainbed import networks

            super().__init__(input_shape, num_classes, num_domains, hparams)
            if len(input_shape) != 3:
                raise UserError(f"{method.name} takes images (C, H, W); this dataset's inputs are {input_shape}")
            common, own = _split(method.name, hparams)
            featurizer = networks.Featurizer(input_shape, without_bf16(self.hparams))
            self.method = method(
                featurizer,
                lambda n_features: _classifier(networks, n_features, num_classes, hparams),
                PixelSpace.of(common["pixel_space"], input_shape[0]),
                num_classes,
                num_domains,
                own,
            )
            self._step = TrainingStep(self.method, common["bf16"])

        @functools.cached_property
        def optimizer(self) -> torch.optim.Optimizer:
            """Made when it is first needed: PyTorch then imports its compiler, more than a second of `cim-dg morph`."""
            return with_parts(self.new_optimizer(self.method.parameters()), self.method)

        def predict(self, x: Tensor) -> Tensor:
            """(N, C, H, W) -> logits (N, K), float32."""
            return self._step.predict(x)

    class DomainBedAdapter(Adapter):
        def new_optimizer(self, parameters: Any) -> torch.optim.Optimizer:
            return torch.optim.Adam(parameters, lr=self.hparams["lr"], weight_decay=self.hparams["weight_decay"])

        def update(self, minibatches: list[tuple[Tensor, Tensor]], unlabeled: object = None) -> dict[str, float]:
            """One optimising step on an (x, y) per training domain; returns every term as a float."""
            return self._step(join_domains(*zip(*minibatches, strict=True)), self.optimizer)[1]

    class SwadAdapter(Adapter):
        @property
        def network(self) -> nn.Module:
            """The module that the harness' averages of algorithms refer to."""
            return self.method

        def clone(self) -> Any:
            """A copy with an optimiser of its own. The harness' would not have the parameter groups of the parts."""
            return copy.deepcopy(self)

        def update(self, x: list[Tensor], y: list[Tensor], **inputs: object) -> dict[str, float]:
            """One optimising step on images and labels of each training domain; returns every term as a float."""
            return self._step(join_domains(x, y), self.optimizer)[1]

    adapter_class: type = SwadAdapter if is_swad_family(algorithms) else DomainBedAdapter
    if diwa.has_initialisation(algorithms):
        adapter_class = diwa.with_initialisation(adapter_class)
    # Pickle finds a class by these names, under which the plugin registers it.
    adapter_class.__module__, adapter_class.__name__, adapter_class.__qualname__ = (
        algorithms.__name__,
        method.name,
        method.name,
    )
    return adapter_class


def is_swad_family(algorithms: ModuleType) -> bool:
    """Whether this `domainbed.algorithms` is SWAD's or of a fork of it: `update(x, y, **kwargs)`, a list per domain."""
    return {"x", "y"} <= inspect.signature(algorithms.Algorithm.update).parameters.keys()


def _classifier(networks: ModuleType, n_features: int, num_classes: int, hparams: Mapping[str, Any]) -> nn.Module:
    """The harness' classifier; the first DomainBeds, and forks of them, have only a linear layer."""
    if hasattr(networks, "Classifier"):
        return networks.Classifier(n_features, num_classes, hparams["nonlinear_classifier"])
    return nn.Linear(n_features, num_classes)


def _split(name: str, hparams: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """DomainBed's flat dict -> what every method of ours takes, and what method `name` takes, checked.

    Raises:
        UserError: a name is known neither to the harness nor to us, or one of our values is not accepted.
    """
    from domainbed import algorithms, hparams_registry

    if is_swad_family(algorithms):  # its Config reads the command line, and refuses a name that is not in the registry
        return split_hparams(name, dict(hparams), None)
    harness = set(hparams_registry.default_hparams(name, "ColoredMNIST"))
    # The harness' own algorithms have no pixel_space and do not use it, so any number of channels works.
    unused = {} if "pixel_space" in harness else {"pixel_space": "unit"}
    return split_hparams(name, unused | dict(hparams), harness | set(getattr(hparams_registry, "OPTIONAL", ())))
