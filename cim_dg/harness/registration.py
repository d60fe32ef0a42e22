"""Shared code of the plugins: adds our names to a harness' modules, and our hyper-parameters to the harness' own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from cim_dg import hparams as spaces
from cim_dg.errors import UserError


class MissingSeam(Exception):
    """This harness lacks something that the plugin needs."""


def need(module: ModuleType, *seams: str) -> None:
    """Check that a harness' module has the names that the plugin uses.

    Raises:
        MissingSeam: one of them is missing.
    """
    for seam in seams:
        if not hasattr(module, seam):
            harness = {"domainbed": "DomainBed", "subpopbench": "SubpopBench"}.get(
                module.__name__.split(".")[0], "harness"
            )
            raise MissingSeam(f"this {harness} has no {module.__name__}.{seam}, so that our part of it is left out")


def add(module: ModuleType, name: str, value: Any) -> None:
    """Set a name of a harness' module, unless the harness has it. Our own value from before a reload is replaced."""
    existing = vars(module).get(name)
    if existing is None or is_ours(existing):
        value.__cim_dg__ = True
        setattr(module, name, value)


def is_ours(value: object) -> bool:
    """Whether `add` set this value, not the harness."""
    return getattr(value, "__cim_dg__", False)


def ours_in(module: ModuleType, names: Iterable[str]) -> list[str]:
    """The `names` that are ours in a harness' module."""
    return [name for name in names if is_ours(vars(module).get(name))]


def refuse_bf16(networks: Any) -> None:
    """Make a harness' `Featurizer(..., hparams)` refuse `bf16`, which its own algorithms would ignore.

    Our adapters call it without this hyper-parameter (see `without_bf16`).
    """
    need(networks, "Featurizer")
    featurizer = networks.Featurizer

    @functools.wraps(featurizer)
    def checked(*args: Any, **kwargs: Any) -> Any:
        hparams = kwargs.get("hparams", args[-1] if args else {})
        if hparams.get("bf16"):
            raise UserError(
                "bf16 is true, but the harness' own algorithms compute in float32; only methods of cim-dg take bf16"
            )
        return featurizer(*args, **kwargs)

    networks.Featurizer = checked


def without_bf16(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """The hyper-parameters for the featurizer of a method of ours."""
    return {name: value for name, value in hparams.items() if name != "bf16"}


Asked = tuple[str | None, str, str]
"""The method if it is ours, else None; and the algorithm and dataset whose hyper-parameters the harness gives."""


def extend_registry(registry: Any, resolve: Callable[[str, str], Asked]) -> None:
    """Add our hyper-parameters to a module with `default_hparams` and `random_hparams`.

    Args:
        registry: the harness' module.
        resolve: maps the user's algorithm and dataset to the arguments for the harness.

    Raises:
        MissingSeam: the module lacks one of the two functions.
    """
    need(registry, "default_hparams", "random_hparams")
    default, random = registry.default_hparams, registry.random_hparams

    @functools.wraps(default)
    def default_hparams(algorithm: str, dataset: str) -> dict[str, Any]:
        method, *names = resolve(algorithm, dataset)
        return extended_hparams(method, dataset, lambda: default(*names), spaces.defaults)

    @functools.wraps(random)
    def random_hparams(algorithm: str, dataset: str, seed: int) -> dict[str, Any]:
        method, *names = resolve(algorithm, dataset)
        return extended_hparams(
            method, dataset, lambda: random(*names, seed), lambda entries: spaces.sample(entries, seed)
        )

    registry.default_hparams, registry.random_hparams = default_hparams, random_hparams


def extended_hparams(
    algorithm: str | None,
    dataset: str,
    upstream: Callable[[], Mapping[str, Any]],
    draw: Callable[[Mapping[str, spaces.HParam]], dict[str, Any]],
) -> dict[str, Any]:
    """The harness' hyper-parameters and ours. Each of ours is drawn from its own stream, so the order does not matter.

    Args:
        algorithm: the method; None if it is one of the harness' own.
        dataset: its name.
        upstream: gives the harness' hyper-parameters.
        draw: gives values for our entries: their defaults, or random ones.
    """
    hparams = dict(upstream())
    if algorithm is not None:
        # With NumPy scalars, torch.load could not read the checkpoint in its safe mode.
        hparams = {name: value.item() if hasattr(value, "item") else value for name, value in hparams.items()}
        hparams |= draw(spaces.space("common", dataset) | spaces.space(algorithm, dataset))
    return hparams | draw(spaces.space(f"datasets/{dataset}", dataset))


def split_hparams(
    name: str, hparams: Mapping[str, Any], harness: Iterable[str] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A harness' flat hyper-parameters -> what every method of ours takes, and what method `name` takes, checked.

    Args:
        name: the method.
        hparams: the harness' own and ours.
        harness: the names of the harness' own; None if the harness itself refuses unknown names.

    Raises:
        UserError: a name is known neither to the harness nor to us, or one of our values is not accepted.
    """
    common, own = spaces.space("common"), spaces.space(name)
    known = {*(hparams.keys() if harness is None else harness), *spaces.dataset_names()}
    for key in hparams:
        if key not in common and key not in own and key not in known:
            valid = ", ".join(sorted(known | common.keys() | own.keys()))
            raise UserError(f"unknown hyper-parameter {key!r} for {name}; valid names are {valid}")
    return (
        spaces.defaults(common) | spaces.check(common, {k: v for k, v in hparams.items() if k in common}),
        spaces.check(own, {k: v for k, v in hparams.items() if k in own}),
    )
