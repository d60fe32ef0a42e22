"""What DiWA (alexrame/diwa) has besides DomainBed's seams: a shared initialisation, and the averaging of checkpoints.

DiWA does both for its ERM alone: `train` passes `--init_step` and `--path_for_init` to no other algorithm, and
`domainbed.scripts.diwa` builds an ERM for every checkpoint. Here our methods start from a shared initialisation and
are averaged as DiWA does with ERM, or are refused in one sentence.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cim_dg import hparams as spaces
from cim_dg.algorithms import methods
from cim_dg.errors import UserError
from cim_dg.harness.registration import need, ours_in

State = Mapping[str, Tensor]


def has_initialisation(algorithms: ModuleType) -> bool:
    """Whether this `domainbed.algorithms` has DiWA's ERM, which saves and loads a shared initialisation."""
    return hasattr(getattr(algorithms, "ERM", None), "save_path_for_future_init")


def with_initialisation(adapter: type) -> type:
    """The adapter of a method, with what `train --init_step` and `train --path_for_init` mean for ERM."""
    base: Any = adapter

    class DiwaAdapter(base):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            init_step, path = _initialisation()
            if path is not None and os.path.exists(path):
                self._load_init(path)
            elif path is not None and not init_step:
                raise UserError(f"there is no initialisation {path} yet; `train --init_step` saves it")
            if init_step:  # linear probing: all but the featurizer is trained
                fixed = set(self.method.featurizer.parameters())
                self.optimizer = self.new_optimizer([p for p in self.method.parameters() if p not in fixed])

        def _load_init(self, path: str) -> None:
            try:
                self.method.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
            except RuntimeError:
                name = self.method.name
                raise UserError(
                    f"{path} is no initialisation of {name}; `train --algorithm {name} --init_step` saves one"
                ) from None

        def save_path_for_future_init(self, path_for_init: str) -> None:
            """Save what runs with `--path_for_init` start from.

            Raises:
                UserError: there is such a file.
            """
            if os.path.exists(path_for_init):
                raise UserError(f"there is an initialisation {path_for_init} already")
            torch.save(self.method.state_dict(), path_for_init)

    return DiwaAdapter


def _initialisation() -> tuple[bool, str | None]:
    """`--init_step` and `--path_for_init` of the `train` that runs; False and None elsewhere."""
    args = getattr(sys.modules["__main__"], "args", None)
    if not isinstance(args, argparse.Namespace):
        return False, None
    path = getattr(args, "path_for_init", None)
    # What DiWA's sweep gives its jobs for no path.
    return getattr(args, "init_step", False), None if path == "None" else path


def on_inference(inference: Any) -> None:
    """Build each of our checkpoints as its own method, and average all of it, where DiWA would build an ERM."""
    need(inference, "ERM", "DiWA", "algorithms")
    erm, add_weights = inference.ERM, inference.DiWA.add_weights

    @functools.wraps(add_weights)
    def checked_add_weights(self: Any, network: nn.Module) -> None:
        if self.network_wa is not None:
            _check_alike(self.network_wa, network)
        add_weights(self, network)
        if isinstance(network, Predictor):
            _average_statistics(self.network_wa, network, self.global_count)

    inference.ERM = lambda *arguments: Member(erm, inference.algorithms, arguments)
    inference.DiWA.add_weights = checked_add_weights


class Predictor(nn.Module):
    """An algorithm of ours as the network (N, C, H, W) -> logits (N, K) whose weights are averaged."""

    def __init__(self, algorithm: nn.Module) -> None:
        super().__init__()
        self.algorithm: Any = algorithm

    def forward(self, x: Tensor) -> Tensor:
        """The algorithm's prediction."""
        return self.algorithm.predict(x)


class Member:
    """A checkpoint of an average: DiWA's ERM, or, where the weights are those of one of our methods, that method.

    Args:
        erm: DiWA's class.
        algorithms: the module `domainbed.algorithms`.
        arguments: those of `erm`: input shape, number of classes, number of domains, hyper-parameters.
    """

    network: nn.Module

    def __init__(self, erm: type, algorithms: ModuleType, arguments: tuple[Any, ...]) -> None:
        self._erm, self._algorithms, self._arguments = erm, algorithms, arguments

    def load_state_dict(self, state: State, strict: bool = True) -> None:
        """Set `network`. `strict` is for ERM; a state of ours has to fit.

        Raises:
            UserError: the state is of a method of ours that is not known here, or does not fit it.
        """
        if not any(key.startswith("method.") for key in state):
            algorithm: Any = self._erm(*self._arguments)
            algorithm.load_state_dict(state, strict=strict)
            self.network = algorithm.network
            return
        name = _method_of(self._arguments[-1], ours_in(self._algorithms, methods()))
        algorithm = self._algorithms.get_algorithm_class(name)(*self._arguments)
        try:
            algorithm.load_state_dict(state)
        except RuntimeError as error:
            raise UserError(f"a checkpoint does not fit {name}: {str(error).splitlines()[-1].strip()}") from None
        self.network = Predictor(algorithm)


def _method_of(hparams: Mapping[str, Any], names: list[str]) -> str:
    """The method that has exactly these hyper-parameters of ours: DiWA does not say which one it was."""
    own = {name: set(spaces.space(name)) for name in names}
    given = hparams.keys() & set().union(*own.values())
    fitting = [name for name, space in own.items() if space == given]
    if len(fitting) != 1:
        raise UserError(
            f"the hyper-parameters of a checkpoint fit {' and '.join(fitting) or 'no method of cim-dg here'}, so that "
            "it cannot be averaged"
        )
    return fitting[0]


def _check_alike(average: Any, network: Any) -> None:
    """Look that two networks have weights of the same names and shapes, if one of them is ours.

    Raises:
        UserError: they have not.
    """
    if not isinstance(average, Predictor) and not isinstance(network, Predictor):
        return
    first, second = (_name(n) for n in (average, network))
    if first != second:
        raise UserError(f"--output_dir has checkpoints of {first} and of {second}; only those of one have a mean")
    shapes = [{name: p.shape for name, p in n.named_parameters()} for n in (average, network)]
    if shapes[0] != shapes[1]:
        hparams = [n.algorithm.hparams for n in (average, network)]
        differing = ", ".join(key for key in hparams[0] if hparams[0][key] != hparams[1].get(key))
        raise UserError(
            f"--output_dir has checkpoints of {first} with weights of different shapes, which have no mean; they "
            f"differ in {differing}, of which `sweep launch --hparams` can fix those that decide the shapes"
        )


def _name(network: Any) -> str:
    return network.algorithm.method.name if isinstance(network, Predictor) else "another algorithm"


@torch.no_grad()
def _average_statistics(average: nn.Module, network: nn.Module, count: int) -> None:
    """Average the statistics of batch normalisation too, of which `network` is the `count`-th.

    Those of ERM are frozen, the same in all its networks; the mask network's are not.
    """
    for mean, member in zip(average.modules(), network.modules(), strict=True):
        if isinstance(mean, _BatchNorm) and mean.running_mean is not None and mean.running_var is not None:
            for total, value in zip(mean.buffers(), member.buffers(), strict=True):
                if total.is_floating_point():
                    total += (value - total) / count
