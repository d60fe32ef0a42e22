"""Names of datasets, and of their environments, which a DomainBed job's folder gives by number only."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from cim_dg import hparams as spaces

# The same as in domainbed.datasets (a test compares them). Importing that module would import torch.
_SPAWRIOUS = ("Test", "SC_group_1", "SC_group_2")
ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "Debug28": ("0", "1", "2"),
    "Debug224": ("0", "1", "2"),
    "ColoredMNIST": ("+90%", "+80%", "-90%"),
    "RotatedMNIST": ("0", "15", "30", "45", "60", "75"),
    "VLCS": ("C", "L", "S", "V"),
    "PACS": ("A", "C", "P", "S"),
    "OfficeHome": ("A", "C", "P", "R"),
    "TerraIncognita": ("L100", "L38", "L43", "L46"),
    "DomainNet": ("clip", "info", "paint", "quick", "real", "sketch"),
    "SVIRO": ("aclass", "escape", "hilux", "i3", "lexus", "tesla", "tiguan", "tucson", "x5", "zoe"),
    "WILDSCamelyon": ("hospital_0", "hospital_1", "hospital_2", "hospital_3", "hospital_4"),
    "WILDSFMoW": ("region_0", "region_1", "region_2", "region_3", "region_4", "region_5"),
    **{f"Spawrious{kind}_{level}": _SPAWRIOUS for kind in ("O2O", "M2M") for level in ("easy", "medium", "hard")},
    "NuisanceDigits": ("+90%", "+80%", "new"),
    "Spirograph": ("thin", "middle", "thick"),
    "VLCSMini": ("C", "L", "S"),
}

# The paper's names for VLCS' domains. They are matched by name, because its columns and the folders differ in order.
_VLCS = {"C": "Caltech", "L": "LabelMe", "S": "Sun", "V": "Pascal"}
FULL_NAMES: dict[str, dict[str, str]] = {"VLCS": _VLCS, "VLCSMini": _VLCS}


# The hyper-parameters of datasets whose other values make other data. Seeds of the data do not: they repeat it.
OPTIONS = {
    "NuisanceDigits": ("nuisance_background", "nuisance_digits", "nuisance_side", "nuisance_shift"),
    "Spirograph": ("spirograph_images",),
}


def data_name(dataset: str, hparams: Mapping[str, Any]) -> str:
    """The name of the data of a run: the dataset's, and its options that are not the default, in brackets.

    "NuisanceDigits (nuisance_shift 4)" is other data than "NuisanceDigits": their accuracies do not compare.
    """
    defaults = _defaults(dataset) if dataset in OPTIONS else {}
    options = [f"{name} {hparams[name]}" for name in defaults if hparams.get(name, defaults[name]) != defaults[name]]
    return f"{dataset} ({', '.join(options)})" if options else dataset


@cache
def _defaults(dataset: str) -> dict[str, Any]:
    entries = spaces.space(f"datasets/{dataset}")
    return {name: entries[name].default for name in OPTIONS[dataset]}


def dataset_of(data: str) -> str:
    """The dataset's name alone, without the options of `data_name`."""
    return data.partition(" (")[0]


def environments(data: str) -> tuple[str, ...]:
    """The names of a dataset's environments; empty if they are unknown."""
    return ENVIRONMENTS.get(dataset_of(data), ())


def domain_names(dataset: str, count: int | None = None) -> list[str]:
    """The names of a data set's `count` environments; 'env0', 'env1', ... if they are unknown.

    Without a count: those that are known.
    """
    names = environments(dataset)
    if count is not None and len(names) != count:
        return [f"env{index}" for index in range(count)]
    return [FULL_NAMES.get(dataset_of(dataset), {}).get(name, name) for name in names]
