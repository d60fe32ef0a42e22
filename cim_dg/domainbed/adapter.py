"""A method of ours as an algorithm of DomainBed: its featurizers, its classifiers, its Adam, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch

from cim_dg import hparams as spaces
from cim_dg.algorithms import Algorithm
from cim_dg.errors import UserError
from cim_dg.harness.step import TrainingStep, join_domains, parameter_groups
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
            common, own = split_hparams(method.name, hparams)
            featurizer = networks.Featurizer(input_shape, self.hparams)
            self.method = method(
                featurizer,
                lambda n_features: networks.Classifier(n_features, num_classes, hparams["nonlinear_classifier"]),
                PixelSpace.of(common["pixel_space"], input_shape[0]),
                num_classes,
                num_domains,
                own,
            )
            self.optimizer = torch.optim.Adam(
                parameter_groups(self.method), lr=hparams["lr"], weight_decay=hparams["weight_decay"]
            )
            self._step = TrainingStep(self.method, common["bf16"])

        def update(
            self, minibatches: list[tuple[torch.Tensor, torch.Tensor]], unlabeled: object = None
        ) -> dict[str, float]:
            """One optimising step on an (x, y) per training domain; returns every term as a float."""
            return self._step(join_domains(*zip(*minibatches, strict=True)), self.optimizer)[1]

        def predict(self, x: torch.Tensor) -> torch.Tensor:
            """(N, C, H, W) -> logits (N, K), float32."""
            return self._step.predict(x)

    # Pickle finds a class by these names, under which the plugin registers it.
    Adapter.__module__, Adapter.__name__, Adapter.__qualname__ = algorithms.__name__, method.name, method.name
    return Adapter


def split_hparams(name: str, hparams: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """DomainBed's flat dict -> what every method of ours takes, and what method `name` takes, checked.

    Raises:
        UserError: a name that neither the harness nor we know, or a value of ours that is not accepted.
    """
    from domainbed import hparams_registry

    common, own = spaces.space("common"), spaces.space(name)
    harness = set(hparams_registry.default_hparams(name, "ColoredMNIST"))
    harness |= set(getattr(hparams_registry, "OPTIONAL", ())) | spaces.dataset_names()
    for key in hparams:
        if key not in common and key not in own and key not in harness:
            valid = ", ".join(sorted(harness | common.keys() | own.keys()))
            raise UserError(f"unknown hyper-parameter {key!r} for {name}; valid names are {valid}")
    # The harness' own algorithms get no pixel_space from it, and have no use for one: any number of channels will do.
    unused = {} if "pixel_space" in harness else {"pixel_space": "unit"}
    return (
        spaces.defaults(common) | unused | spaces.check(common, {k: v for k, v in hparams.items() if k in common}),
        spaces.check(own, {k: v for k, v in hparams.items() if k in own}),
    )
