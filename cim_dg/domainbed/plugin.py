"""What is registered in DomainBed, module by module, as `cim_dg.autoload` sees them imported.

The same code extends the real DomainBed and the stand-in. Names that are there already are kept as they are; lists that
decide what a plain `sweep launch` runs are not touched, except that the scripts that show results (which alone import
`domainbed.lib.reporting`) must find our datasets listed to show them.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from cim_dg import hparams as spaces
from cim_dg.algorithms import methods
from cim_dg.data import own
from cim_dg.domainbed.datasets import make_nuisance_digits, make_spirograph, make_vlcs_mini
from cim_dg.domainbed.own_datasets import make_own_dataset
from cim_dg.launchers.jobs import is_standin
from cim_dg.tracking.sidecar import beside_domainbed

DATASETS: dict[str, Callable[[ModuleType], type]] = {
    "NuisanceDigits": make_nuisance_digits,
    "Spirograph": make_spirograph,
    "VLCSMini": make_vlcs_mini,
}
LARGEST_SMALL_SIDE = 64


class MissingSeam(Exception):
    """This DomainBed lacks something that the plugin holds on to."""


def on_algorithms(algorithms: ModuleType) -> None:
    """Add every registered method as an algorithm; if it is upstream's `train` that runs, pass its curves on."""
    from cim_dg.domainbed.adapter import make_adapter

    _need(algorithms, "Algorithm", "get_algorithm_class", "ALGORITHMS")
    for name, method in methods().items():
        _add(algorithms, name, make_adapter(method, algorithms))
    if not is_standin():
        beside_domainbed()


def on_datasets(datasets: ModuleType) -> None:
    """Add our datasets, without listing them."""
    _need(datasets, "MultipleDomainDataset", "MultipleEnvironmentImageFolder", "DATASETS", "num_environments")
    for name, make in DATASETS.items():
        _add(datasets, name, make(datasets))
    for name in own.names():
        _add(datasets, name, make_own_dataset(own.read(name), datasets))


def on_reporting(reporting: ModuleType) -> None:
    """List our datasets: the script that is running shows results, and shows only those of listed datasets."""
    datasets = importlib.import_module("domainbed.datasets")
    datasets.DATASETS.extend(name for name in (*DATASETS, *own.names()) if name not in datasets.DATASETS)


def on_networks(networks: Any) -> None:
    """Serve small images of sides that DomainBed has no featurizer for, for every algorithm."""
    from cim_dg.nn.networks import SmallCNN

    _need(networks, "Featurizer", "Classifier")
    upstream = networks.Featurizer

    @functools.wraps(upstream)
    def featurizer(input_shape: tuple[int, ...], hparams: Mapping[str, Any]) -> Any:
        try:
            return upstream(input_shape, hparams)
        except NotImplementedError:
            if len(input_shape) == 3 and max(input_shape[1:]) <= LARGEST_SMALL_SIDE:
                return SmallCNN(input_shape[0])
            raise

    networks.Featurizer = featurizer


def on_hparams_registry(registry: Any) -> None:
    """Give our methods and datasets their hyper-parameters, on top of the harness' own."""
    _need(registry, "default_hparams", "random_hparams")
    default, random = registry.default_hparams, registry.random_hparams

    @functools.wraps(default)
    def default_hparams(algorithm: str, dataset: str) -> dict[str, Any]:
        return _extend(algorithm, dataset, default, spaces.defaults)

    @functools.wraps(random)
    def random_hparams(algorithm: str, dataset: str, seed: int) -> dict[str, Any]:
        return _extend(
            algorithm,
            dataset,
            lambda *names: random(*names, seed),
            lambda entries: spaces.sample(entries, seed),
        )

    registry.default_hparams, registry.random_hparams = default_hparams, random_hparams


def on_command_launchers(launchers: ModuleType) -> None:
    """Add our launchers, and have upstream's look before they start jobs that cannot work."""
    from cim_dg.launchers.parallel import LAUNCHERS, checked, refusing

    _need(launchers, "REGISTRY")
    for name, launch in launchers.REGISTRY.items():
        launchers.REGISTRY[name] = checked(launch, {*methods(), *DATASETS} - upstream_algorithms())
    for name, launch in LAUNCHERS.items():
        launchers.REGISTRY.setdefault(name, refusing(launch))


def upstream_algorithms() -> set[str]:
    """The algorithms that are the harness' own: it lists them, and knows their hyper-parameters."""
    return set(importlib.import_module("domainbed.algorithms").ALGORITHMS)


def _extend(
    algorithm: str,
    dataset: str,
    upstream: Callable[[str, str], Mapping[str, Any]],
    draw: Callable[[Mapping[str, spaces.HParam]], dict[str, Any]],
) -> dict[str, Any]:
    """The harness' hyper-parameters and ours, each drawn from a stream of its own: the order is no matter."""
    ours = algorithm in methods() and algorithm not in upstream_algorithms()
    # A small dataset of ours takes what the harness has for its own small images, with our ranges on top.
    known = "ColoredMNIST" if dataset in DATASETS and dataset in spaces.SMALL_IMAGES else dataset
    hparams = dict(upstream("ERM" if ours else algorithm, known))
    if ours:
        # numpy's scalars would keep torch.load from reading the checkpoint in its safe mode.
        hparams = {name: value.item() if hasattr(value, "item") else value for name, value in hparams.items()}
        hparams |= draw(spaces.space("common", dataset) | spaces.space(algorithm, dataset))
    return hparams | draw(spaces.space(f"datasets/{dataset}", dataset))


def _add(module: ModuleType, name: str, value: Any) -> None:
    """Set a name of a harness' module, unless the harness has it; our own, from before a reload, is replaced."""
    there = vars(module).get(name)
    if there is None or getattr(there, "__cim_dg__", False):
        value.__cim_dg__ = True
        setattr(module, name, value)


def _need(module: ModuleType, *seams: str) -> None:
    for seam in seams:
        if not hasattr(module, seam):
            raise MissingSeam(f"this DomainBed has no {module.__name__}.{seam}, so that our part of it is left out")
