"""Registers our algorithms, datasets and launchers in DomainBed, one hook per module (see `cim_dg.autoload`).

The same code extends the real DomainBed, its forks and the stand-in; `swad` has the hooks for the SWAD family only.
Existing names are kept. The lists that decide what a plain `sweep launch` runs are not changed, with one exception: our
datasets are listed for the scripts that show results (only these import `domainbed.lib.reporting`).
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
from cim_dg.domainbed import diwa, eoa, swad
from cim_dg.domainbed.data_record import watch
from cim_dg.domainbed.datasets import make_nuisance_digits, make_spirograph, make_vlcs_mini
from cim_dg.domainbed.launchers import checked, claim_for_train, ending, is_standin, launcher, train_folder
from cim_dg.domainbed.own_datasets import make_own_dataset
from cim_dg.errors import UserError
from cim_dg.harness.endings import end_in_a_sentence
from cim_dg.harness.registration import Asked, add, extend_registry, need, ours_in, refuse_bf16
from cim_dg.launchers import LAUNCHERS
from cim_dg.runtime import settings
from cim_dg.tracking.sidecar import track_domainbed

DATASETS: dict[str, Callable[[ModuleType], type]] = {
    "NuisanceDigits": make_nuisance_digits,
    "Spirograph": make_spirograph,
    "VLCSMini": make_vlcs_mini,
}


def on_algorithms(algorithms: ModuleType) -> None:
    """Add every registered method as an algorithm; if upstream's `train` is running, send its curves."""
    from cim_dg.domainbed.adapter import make_adapter

    need(algorithms, "Algorithm", "get_algorithm_class")
    for name, method in methods().items():
        add(algorithms, name, make_adapter(method, algorithms))
    eoa.on_algorithms(algorithms)
    if is_standin():
        return
    end_in_a_sentence()
    if (output_dir := train_folder()) is not None:
        claim_for_train(output_dir)
        track_domainbed(output_dir)


def on_datasets(datasets: ModuleType) -> None:
    """Add our datasets, without listing them."""
    if swad.is_package(datasets):  # the SWAD family has its classes in another module
        swad.on_transforms(datasets)
        return
    counts = vars(datasets).get("NUM_ENVIRONMENTS")  # DomainBed before October 2020 counts by this dict
    need(datasets, "MultipleDomainDataset", "MultipleEnvironmentImageFolder", "DATASETS")
    if counts is None:
        need(datasets, "num_environments")
    for name, make in DATASETS.items():
        add(datasets, name, make(datasets))
    for name in own.names():
        add(datasets, name, make_own_dataset(own.read(name), datasets))
    for name in ours_in(datasets, (*DATASETS, *own.names())):
        kind = vars(datasets)[name]
        kind.ENVIRONMENT_NAMES = kind.ENVIRONMENTS  # as DomainBed called it in 2020
        if counts is not None:
            counts[name] = len(kind.ENVIRONMENTS)
    if not is_standin():  # the stand-in's own jobs record it, its errors explain it, and it has the cache
        watch(datasets)
        if settings.get("CIM_DG_CACHE_DOMAINBED"):
            from cim_dg.domainbed import decoded_folders  # it imports torchvision

            decoded_folders.watch(datasets)


def on_reporting(reporting: ModuleType) -> None:
    """List our datasets for the running script, which shows results of listed datasets only."""
    datasets = importlib.import_module("domainbed.datasets")
    datasets.DATASETS.extend(name for name in (*DATASETS, *own.names()) if name not in datasets.DATASETS)


def on_networks(networks: Any) -> None:
    """Add a featurizer for small images of sizes that DomainBed does not support, and refuse bf16 to its algorithms.

    With the hyper-parameter `featurizer_side` a featurizer of that side gets larger images area-averaged.
    """
    from cim_dg.nn.networks import LARGEST_SMALL_SIDE, SmallCNN
    from cim_dg.nn.working_size import FEATURIZER_SIDE, AreaAveraged

    need(networks, "Featurizer")
    upstream = networks.Featurizer

    @functools.wraps(upstream)
    def featurizer(input_shape: tuple[int, ...], hparams: Mapping[str, Any]) -> Any:
        side = hparams.get(FEATURIZER_SIDE)
        if side is not None and side < min(input_shape[1:]):
            return AreaAveraged(featurizer((input_shape[0], side, side), hparams), side)
        try:
            return upstream(input_shape, hparams)
        except NotImplementedError:
            if len(input_shape) == 3 and max(input_shape[1:]) <= LARGEST_SMALL_SIDE:
                return SmallCNN(input_shape[0])
            if FEATURIZER_SIDE in hparams:
                raise UserError(
                    f"{FEATURIZER_SIDE} is {side!r}, and the harness has no featurizer for images of "
                    f"{'x'.join(map(str, input_shape[1:]))}; accepted is any side up to {LARGEST_SMALL_SIDE} pixels"
                ) from None
            raise

    networks.Featurizer = featurizer
    refuse_bf16(networks)


def on_hparams_registry(registry: Any) -> None:
    """Add the hyper-parameters of our methods and datasets to the harness' own."""
    extend_registry(registry, _asked)


def on_command_launchers(launchers: ModuleType) -> None:
    """Add our launchers, and make upstream's check first that jobs can work."""
    need(launchers, "REGISTRY")
    if not is_standin():
        for name, launch in launchers.REGISTRY.items():
            launchers.REGISTRY[name] = checked(name, launch, {*methods(), *DATASETS} - upstream_algorithms())
    for name in LAUNCHERS:
        if name != "local":  # every DomainBed has its own
            launchers.REGISTRY.setdefault(name, launcher(name) if is_standin() else ending(launcher(name)))


def family(algorithms: ModuleType) -> str:
    """Which DomainBed this `domainbed.algorithms` is of: stand-in, DomainBed, or the fork whose form it has."""
    from cim_dg.domainbed.adapter import is_swad_family

    if is_standin():
        return "stand-in"
    if is_swad_family(algorithms):
        return "SWAD's form with MIRO" if hasattr(algorithms, "MIRO") else "SWAD's form"
    if diwa.has_initialisation(algorithms):
        return "DiWA's form"
    return "Ensemble of Averages' form" if hasattr(algorithms, "ERM_SMA") else "DomainBed"


def upstream_algorithms() -> set[str]:
    """The names of our methods under which the harness has its own algorithm, or lists one."""
    algorithms = importlib.import_module("domainbed.algorithms")
    return set(getattr(algorithms, "ALGORITHMS", ())) | (set(methods()) - set(ours_in(algorithms, methods())))


def _asked(algorithm: str, dataset: str) -> Asked:
    ours = algorithm in methods() and algorithm not in upstream_algorithms()
    # Our small datasets take the harness' values for its own small images, with our ranges added.
    known = "ColoredMNIST" if dataset in DATASETS and dataset in spaces.SMALL_IMAGES else dataset
    return (algorithm, "ERM", known) if ours else (None, algorithm, known)
