"""Default and random hyper-parameters, with DomainBed's names, values and random stream.

Each random value is drawn from `RandomState(seed_hash(seed, name))`, so that it depends on no other hyper-parameter.
cim-dg's plugin wraps `default_hparams` and `random_hparams` for its own methods. Values are plain Python.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from numpy.random import RandomState

from cim_dg.errors import UserError

from .lib.misc import seed_hash

Hparams = dict[str, Any]

SMALL_IMAGES = ("Debug28", "RotatedMNIST", "ColoredMNIST")

OPTIONAL: dict[str, str] = {
    "weights": "what a featurizer of 224x224 images starts from: 'random', the file of a ResNet's state_dict, the name "
    "of a ResNet's weights in a cache, or 'efficientnet_lite0' for that network in place of a ResNet"
}
"""Hyper-parameters that are accepted but are not in the defaults, where DomainBed has none of that name."""

_LEAST: dict[str, float] = {"batch_size": 1, "lr": 0, "weight_decay": 0, "resnet_dropout": 0, "groupdro_eta": 0}


class Hparam(NamedTuple):
    """A default value, and how a random one is drawn."""

    default: Any
    draw: Callable[[RandomState], Any]


def _fixed(value: Any) -> Hparam:
    return Hparam(value, lambda rng: value)


def _choice(default: Any, *values: Any) -> Hparam:
    return Hparam(default, lambda rng: type(default)(rng.choice(values)))


def _power(base: float, low: float, high: float, default: Any) -> Hparam:
    # base^u with u uniform in [low, high), of the default's type.
    return Hparam(default, lambda rng: type(default)(base ** rng.uniform(low, high)))


def _space(algorithm: str, dataset: str) -> dict[str, Hparam]:
    """The hyper-parameters of `algorithm` on `dataset`, in the order in which DomainBed lists them."""
    own = {"ERM": {}, "GroupDRO": {"groupdro_eta": _power(10, -3, -1, default=1e-2)}}
    if algorithm not in own:
        raise UserError(f"there are no hyper-parameters for algorithm {algorithm!r}; there are for {', '.join(own)}")
    small = dataset in SMALL_IMAGES
    largest_batch = 9.0 if small else 5.0 if dataset == "DomainNet" else 5.5  # as a power of 2
    return {
        "data_augmentation": _fixed(True),
        "resnet18": _fixed(False),
        "resnet50_augmix": _fixed(True),
        "dinov2": _fixed(False),
        "vit": _fixed(False),
        "vit_attn_tune": _fixed(False),
        "freeze_bn": _fixed(False),
        "lars": _fixed(False),
        "linear_steps": _fixed(500),
        "resnet_dropout": _choice(0.0, 0.0, 0.1, 0.5),
        "vit_dropout": _choice(0.0, 0.0, 0.1, 0.5),
        "class_balanced": _fixed(False),
        "nonlinear_classifier": _fixed(False),
        **own[algorithm],
        "lr": _power(10, -4.5, -2.5, default=1e-3) if small else _power(10, -5, -3.5, default=5e-5),
        "weight_decay": _fixed(0.0) if small else _power(10, -6, -2, default=0.0),
        "batch_size": _power(2, 3, largest_batch, default=64 if small else 32),
    }


def default_hparams(algorithm: str, dataset: str) -> Hparams:
    """The default hyper-parameters of `algorithm` on `dataset`.

    Raises:
        UserError: the algorithm is not known here.
    """
    return {name: hparam.default for name, hparam in _space(algorithm, dataset).items()}


def random_hparams(algorithm: str, dataset: str, seed: int) -> Hparams:
    """Random hyper-parameters of `algorithm` on `dataset`, a function of the arguments alone.

    Raises:
        UserError: the algorithm is not known here.
    """
    space = _space(algorithm, dataset)
    return {name: hparam.draw(RandomState(seed_hash(seed, name))) for name, hparam in space.items()}


def with_overrides(hparams: Hparams, overrides: str | None, algorithm: str) -> Hparams:
    """`hparams` (those of `algorithm`) with the values of a JSON object, the --hparams option, in place of theirs.

    Raises:
        UserError: `overrides` is no JSON object, or has a name that `hparams` has not, or a value of another type.
    """
    if not overrides:
        return hparams
    try:
        values = json.loads(overrides)
    except json.JSONDecodeError as error:
        raise UserError(f"--hparams is not JSON ({error}): {overrides!r}") from None
    if not isinstance(values, dict):
        raise UserError(f'--hparams must be a JSON object such as {{"lr": 0.001}}, not {overrides!r}')
    for name, value in values.items():
        if name in hparams:
            _check(name, value, hparams[name])
        elif name not in OPTIONAL:
            valid = ", ".join(sorted([*hparams, *OPTIONAL]))
            raise UserError(f"{algorithm} has no hyper-parameter {name!r}; it has {valid}")
    return {**hparams, **values}


def _check(name: str, value: object, known: object) -> None:
    """Refuse a value that cannot stand in for `known`; what is neither bool nor number is its owner's to check."""
    if isinstance(known, bool):
        if not isinstance(value, bool):
            raise UserError(f"hyper-parameter {name!r} is {value!r}; it must be true or false")
    elif isinstance(known, (int, float)):
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or (isinstance(known, int) and not isinstance(value, int)):
            kind = "a whole number" if isinstance(known, int) else "a number"
            raise UserError(f"hyper-parameter {name!r} is {value!r}; it must be {kind}")
        if name in _LEAST and value < _LEAST[name]:  # type: ignore[operator]  # it is a number, as checked above
            raise UserError(f"hyper-parameter {name!r} is {value!r}; it must be at least {_LEAST[name]}")
