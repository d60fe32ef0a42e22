"""What is registered in DomainBed, module by module, as `cim_dg.autoload` sees them imported.

The same code extends the real DomainBed, its forks and the stand-in; what only the SWAD family has is in `swad`. Names
that are there already are kept as they are; lists that decide what a plain `sweep launch` runs are not touched, except
that the scripts that show results (which alone import `domainbed.lib.reporting`) must find our datasets listed to show
them.
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
from cim_dg.domainbed import swad
from cim_dg.domainbed.data_record import watch
from cim_dg.domainbed.datasets import make_nuisance_digits, make_spirograph, make_vlcs_mini
from cim_dg.domainbed.launchers import checked, claim_for_train, ending, is_standin, launcher, train_folder
from cim_dg.domainbed.own_datasets import make_own_dataset
from cim_dg.harness.endings import end_in_a_sentence
from cim_dg.harness.registration import Asked, add, extend_registry, need, ours_in
from cim_dg.launchers import LAUNCHERS
from cim_dg.tracking.sidecar import track_domainbed

DATASETS: dict[str, Callable[[ModuleType], type]] = {
    "NuisanceDigits": make_nuisance_digits,
    "Spirograph": make_spirograph,
    "VLCSMini": make_vlcs_mini,
}
LARGEST_SMALL_SIDE = 64


def on_algorithms(algorithms: ModuleType) -> None:
    """Add every registered method as an algorithm; if it is upstream's `train` that runs, pass its curves on."""
    from cim_dg.domainbed.adapter import make_adapter

    need(algorithms, "Algorithm", "get_algorithm_class")
    for name, method in methods().items():
        add(algorithms, name, make_adapter(method, algorithms))
    if is_standin():
        return
    end_in_a_sentence()
    if (output_dir := train_folder()) is not None:
        claim_for_train(output_dir)
        track_domainbed(output_dir)


def on_datasets(datasets: ModuleType) -> None:
    """Add our datasets, without listing them."""
    if swad.is_package(datasets):  # whose classes are in a module of their own
        swad.on_transforms(datasets)
        return
    need(datasets, "MultipleDomainDataset", "MultipleEnvironmentImageFolder", "DATASETS", "num_environments")
    for name, make in DATASETS.items():
        add(datasets, name, make(datasets))
    for name in own.names():
        add(datasets, name, make_own_dataset(own.read(name), datasets))
    if not is_standin():  # whose jobs record it, and whose errors say it, themselves
        watch(datasets)


def on_reporting(reporting: ModuleType) -> None:
    """List our datasets: the script that is running shows results, and shows only those of listed datasets."""
    datasets = importlib.import_module("domainbed.datasets")
    datasets.DATASETS.extend(name for name in (*DATASETS, *own.names()) if name not in datasets.DATASETS)


def on_networks(networks: Any) -> None:
    """Serve small images of sides that DomainBed has no featurizer for, for every algorithm."""
    from cim_dg.nn.networks import SmallCNN

    need(networks, "Featurizer")
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
    extend_registry(registry, _asked)


def on_command_launchers(launchers: ModuleType) -> None:
    """Add our launchers, and have upstream's look before they start jobs that cannot work."""
    need(launchers, "REGISTRY")
    if not is_standin():
        for name, launch in launchers.REGISTRY.items():
            launchers.REGISTRY[name] = checked(launch, {*methods(), *DATASETS} - upstream_algorithms())
    for name in LAUNCHERS:
        if name != "local":  # every DomainBed has its own
            launchers.REGISTRY.setdefault(name, launcher(name) if is_standin() else ending(launcher(name)))


def upstream_algorithms() -> set[str]:
    """Those names of our methods under which the harness has an algorithm of its own, or lists one."""
    algorithms = importlib.import_module("domainbed.algorithms")
    return set(getattr(algorithms, "ALGORITHMS", ())) | (set(methods()) - set(ours_in(algorithms, methods())))


def _asked(algorithm: str, dataset: str) -> Asked:
    ours = algorithm in methods() and algorithm not in upstream_algorithms()
    # A small dataset of ours takes what the harness has for its own small images, with our ranges on top.
    known = "ColoredMNIST" if dataset in DATASETS and dataset in spaces.SMALL_IMAGES else dataset
    return (algorithm, "ERM", known) if ours else (None, algorithm, known)
