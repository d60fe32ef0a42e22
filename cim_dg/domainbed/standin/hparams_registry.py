"""Default and random hyper-parameters, with DomainBed's names, values and random stream.

Each random value is drawn from `RandomState(seed_hash(seed, name))`, so it does not depend on other hyper-parameters.
cim-dg's plugin wraps `default_hparams` and `random_hparams` for its own methods. Values are plain Python.
"""

from __future__ import annotations

import json
from typing import Any

from cim_dg import hparams as spaces
from cim_dg.errors import UserError
from cim_dg.hparams import HParam
from cim_dg.runtime.schema import suggestion

Hparams = dict[str, Any]

OPTIONAL: dict[str, str] = {
    "weights": "what a featurizer of 224x224 images starts from: 'random', the file of a ResNet's state_dict, the name "
    "of a ResNet's weights in a cache, or 'efficientnet_lite0' for that network in place of a ResNet",
    "bf16": "whether to compute in bfloat16 (see hparams/common.yaml)",
}
"""Hyper-parameters that are accepted but not listed among the defaults, because DomainBed does not have them."""


_TYPES: dict[type, Any] = {bool: "bool", int: "int", float: "float"}


def _space(algorithm: str, dataset: str) -> dict[str, HParam]:
    """The hyper-parameters of `algorithm` on `dataset`, in the order in which DomainBed lists them."""
    if algorithm not in ("ERM", "GroupDRO"):
        raise UserError(f"there are no hyper-parameters for algorithm {algorithm!r}; there are for ERM, GroupDRO")
    space = spaces.space("domainbed", dataset)
    return {name: entry for name, entry in space.items() if name != "groupdro_eta" or algorithm == "GroupDRO"}


def default_hparams(algorithm: str, dataset: str) -> Hparams:
    """The default hyper-parameters of `algorithm` on `dataset`.

    Raises:
        UserError: the algorithm is not known here.
    """
    return spaces.defaults(_space(algorithm, dataset))


def random_hparams(algorithm: str, dataset: str, seed: int) -> Hparams:
    """Random hyper-parameters of `algorithm` on `dataset`. They depend on the arguments only.

    Raises:
        UserError: the algorithm is not known here.
    """
    return spaces.sample(_space(algorithm, dataset), seed)


def with_overrides(hparams: Hparams, overrides: str | None, algorithm: str) -> Hparams:
    """`hparams` (those of `algorithm`), overridden by the values of a JSON object, the --hparams option.

    Raises:
        UserError: `overrides` is no JSON object, or has a name that `hparams` has not, or a value that is not accepted.
    """
    if not overrides:
        return hparams
    values = read_overrides(overrides)
    entries = spaces.of_domainbed(algorithm)
    for name, value in values.items():
        if name not in hparams and name not in OPTIONAL:
            known = sorted([*hparams, *OPTIONAL])
            valid = f"{', '.join(known)}{suggestion(name, known)}"
            raise UserError(f"{algorithm} has no hyper-parameter {name!r}; it has {valid}")
        kind = _TYPES.get(type(hparams.get(name)))
        if name in entries:
            entries[name].check(name, value)
        elif kind:  # what is neither bool nor number is checked by its owner
            HParam("of somebody else's method or dataset", kind, hparams[name]).check(name, value)
    return {**hparams, **values}


def read_overrides(text: str) -> Hparams:
    """The values of a JSON object, the --hparams option.

    Raises:
        UserError: `text` is no JSON object.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"--hparams is not JSON ({error}): {text!r}") from None
    if not isinstance(values, dict):
        raise UserError(f'--hparams must be a JSON object such as {{"lr": 0.001}}, not {text!r}')
    return values
