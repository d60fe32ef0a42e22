"""`cim-dg doctor`: the harnesses, versions, devices and datasets that are found, and what is missing."""

from __future__ import annotations

import argparse
import importlib.util
import platform
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

from cim_dg.runtime import settings
from cim_dg.runtime.provenance import commit, version_of, versions

PACKAGES = ("torch", "torchvision", "numpy", "pytorch-msssim")
HARNESS_NEEDS = {"DomainBed": ("timm", "wilds", "tqdm", "imageio", "gdown"), "WILDS": ("wilds",)}


def add_parser(subparsers: Any) -> None:
    """Add `doctor` to the command line."""
    parser = subparsers.add_parser("doctor", help="say which harnesses, devices and datasets are found")
    parser.add_argument("--data_dir", type=Path, help="folder of datasets to look into (DomainBed's or WILDS')")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; returns 0 if DomainBed (or its stand-in) works with everything that we register, else 1."""
    domainbed_lines, works = domainbed()
    lines = [*environment(), *domainbed_lines, *wilds(), *datasets(arguments.data_dir), *variables()]
    width = max(len(title) for title, _ in lines)
    for title, text in lines:
        print(f"{title:<{width}}  {text}")
    return 0 if works else 1


def environment() -> list[tuple[str, str]]:
    """Versions and devices."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none, so the CPU is used"
    return [
        ("Python", f"{platform.python_version()} ({sys.executable})"),
        *((name, str(version)) for name, version in versions(PACKAGES).items() if name != "python"),
        ("GPU", device),
        ("CPU threads", str(torch.get_num_threads())),
    ]


def domainbed() -> tuple[list[tuple[str, str]], bool]:
    """The DomainBed that `python -m domainbed.scripts...` would run from here, and whether ours is registered in it."""
    missing = _missing("DomainBed")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            from domainbed import algorithms, command_launchers, datasets, hparams_registry, networks
    except ImportError as error:
        return [("DomainBed", f"cannot be imported: {error}"), *missing], False
    import domainbed as package

    if getattr(package, "STANDIN", False):
        where = (
            "not found: cim-dg's stand-in serves (clone facebookresearch/DomainBed and run inside it for the real one)"
        )
    else:
        # A checkout of DomainBed is a regular package or, without __init__, a namespace package: use one of its
        # modules.
        root = Path(str(algorithms.__file__)).parents[1]
        where = f"{root}, commit {commit(root) or 'unknown (no git checkout)'}"
    from cim_dg.algorithms import methods
    from cim_dg.domainbed.plugin import DATASETS

    ours = {
        "algorithms": [name for name in methods() if _ours(algorithms, name)],
        "datasets": [name for name in DATASETS if _ours(datasets, name)],
        "launchers": sorted(command_launchers.REGISTRY),
    }
    works = all(ours.values()) and all(
        getattr(function, "__wrapped__", None) for function in (hparams_registry.default_hparams, networks.Featurizer)
    )
    lines = [("DomainBed", where), *((f"  {kind}", ", ".join(names) or "none") for kind, names in ours.items())]
    lines += [("  warning", str(warning.message)) for warning in caught if "cim-dg" in str(warning.message)]
    return [*lines, *([] if getattr(package, "STANDIN", False) else missing)], works


def wilds() -> list[tuple[str, str]]:
    """The WILDS package."""
    return [("WILDS", version_of("wilds") or "not installed"), *_missing("WILDS")]


def datasets(data_dir: Path | None) -> list[tuple[str, str]]:
    """Which datasets are in a folder, and for every sweep which it lacks, with the command that gets it."""
    if data_dir is None:
        return []
    from cim_dg.data.present import all_datasets, is_there
    from cim_dg.sweeps import data, spec

    files = [dataset for dataset in all_datasets() if dataset.layout != "none"]
    present = [dataset.name for dataset in files if is_there(dataset, data_dir)]
    none = f"none of {', '.join(dataset.name for dataset in files)}"
    lines = [(f"datasets in {data_dir}", ", ".join(present) or none)]
    for name in spec.names():
        sweep = spec.load(name)
        absent = data.lacking(sweep, data_dir)
        remedies = "".join(f"; {command}" for command in data.remedy(sweep, data_dir))
        lines.append((f"  sweep {name}", f"lacks {', '.join(absent)}{remedies}" if absent else "has its data"))
    return lines


def variables() -> list[tuple[str, str]]:
    """The CIM_DG_* variables: value and source."""
    return [(name, f"{value} ({source})") for name, value, source in settings.describe()]


def _missing(harness: str) -> list[tuple[str, str]]:
    missing = [name for name in HARNESS_NEEDS[harness] if importlib.util.find_spec(name) is None]
    return [("  missing", f"{', '.join(missing)}: pip install {' '.join(missing)}")] if missing else []


def _ours(module: ModuleType, name: str) -> bool:
    return getattr(vars(module).get(name), "__cim_dg__", False)
