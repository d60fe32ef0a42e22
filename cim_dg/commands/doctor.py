"""`cim-dg doctor`: the harnesses, versions, devices and datasets that are found, and what is missing."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import platform
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from cim_dg.autoload import HOOKS
from cim_dg.runtime import settings
from cim_dg.runtime.provenance import commit, version_of, versions

PACKAGES = ("torch", "torchvision", "numpy", "pytorch-msssim")
HARNESSES = ("DOMAINBED", "WILDS", "SWAD", "MIRO", "DIWA", "SUBPOPBENCH")
"""The harnesses whose checkout a variable such as DOMAINBED_ROOT names, for the tests."""
HARNESS_NEEDS = {"DomainBed": ("timm", "wilds", "tqdm", "imageio", "gdown"), "WILDS": ("wilds",)}


def add_parser(subparsers: Any) -> None:
    """Add `doctor` to the command line."""
    parser = subparsers.add_parser("doctor", help="say which harnesses, devices and datasets are found")
    parser.add_argument("--data_dir", type=Path, help="folder of datasets to look into (DomainBed's or WILDS')")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; returns 0 if DomainBed (or its stand-in) works with everything that we register, else 1."""
    domainbed_lines, works = domainbed()
    lines = [*environment(), *domainbed_lines, *subpopbench(), *wilds(), *datasets(arguments.data_dir), *variables()]
    lines += missing()
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
    """The DomainBed, or the fork of it, that would run from here, and whether ours is registered in it."""
    modules, problems, caught = _import_hooked("domainbed")
    algorithms = modules.get("domainbed.algorithms")
    if algorithms is None:
        reason = problems.get("domainbed.algorithms", "there is no domainbed.algorithms")
        return [("DomainBed", f"cannot be imported: {reason}"), *_missing("DomainBed")], False
    from cim_dg.domainbed.plugin import DATASETS, family
    from cim_dg.harness.registration import ours_in

    kind = family(algorithms)
    if kind == "stand-in" and settings.get("CIM_DG_STANDIN"):
        where = "cim-dg's stand-in, forced by CIM_DG_STANDIN=1"
    elif kind == "stand-in":
        where = (
            "not found: cim-dg's stand-in serves (clone facebookresearch/DomainBed and run inside it for the real one)"
        )
    else:
        where = f"{_checkout(algorithms, 'domainbed')}, {kind}"
    datasets = modules.get("domainbed.datasets.datasets") or modules.get("domainbed.datasets")
    launchers = modules.get("domainbed.command_launchers")
    ours = {
        "datasets": ours_in(datasets, DATASETS) if datasets else [],
        "launchers": sorted(launchers.REGISTRY) if launchers else [],
    }
    left_out = [] if launchers else ["launchers: it has no sweep (domainbed.command_launchers)"]
    lines = [("DomainBed", where), *_registered(algorithms, ours), *_left_out(left_out, problems, caught)]
    extended = [
        getattr(modules.get(f"domainbed.{module}"), function, None)
        for module, function in (("hparams_registry", "default_hparams"), ("networks", "Featurizer"))
    ]
    works = bool(_algorithms(algorithms)[0] and ours["datasets"]) and all(
        getattr(function, "__wrapped__", None) for function in extended
    )
    return [*lines, *(_missing("DomainBed") if kind == "DomainBed" else [])], works and not problems


def subpopbench() -> list[tuple[str, str]]:
    """The SubpopBench that would run from here, if there is one."""
    if importlib.util.find_spec("subpopbench") is None:
        return []
    modules, problems, caught = _import_hooked("subpopbench")
    algorithms = modules.get("subpopbench.learning.algorithms")
    where = "found" if algorithms is None else _checkout(algorithms, "subpopbench")
    registered = [] if algorithms is None else _registered(algorithms, {})
    return [("SubpopBench", where), *registered, *_left_out([], problems, caught)]


def _algorithms(module: ModuleType) -> tuple[list[str], list[str]]:
    """The names of our methods in a harness' module: those that are ours there, and those that it has itself."""
    from cim_dg.algorithms import methods
    from cim_dg.harness.registration import ours_in

    ours = ours_in(module, methods())
    return ours, [name for name in methods() if name in vars(module) and name not in ours]


def _registered(algorithms: ModuleType, others: Mapping[str, list[str]]) -> list[tuple[str, str]]:
    """What is registered in a harness: the algorithms, and `others` by kind."""
    ours, kept = _algorithms(algorithms)
    lines = [(f"  {kind}", ", ".join(names)) for kind, names in {"algorithms": ours, **others}.items() if names]
    return lines + ([("  left as they are", f"{', '.join(kept)}, which it has itself")] if kept else [])


def _left_out(parts: list[str], problems: Mapping[str, str], caught: list[str]) -> list[tuple[str, str]]:
    """What is not registered in a harness, and why."""
    return [("  left out", text) for text in (*parts, *(f"{n}: {why}" for n, why in problems.items()), *caught)]


def _import_hooked(harness: str) -> tuple[dict[str, ModuleType], dict[str, str], list[str]]:
    """Those modules that we extend in a harness, why others of them cannot be imported, and our own warnings.

    What a harness does not have is in none of them.
    """
    modules, problems = {}, {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in (name for name in HOOKS if name.startswith(f"{harness}.")):
            try:
                modules[name] = importlib.import_module(name)
            except Exception as error:  # whatever a harness raises when it is imported
                if not (isinstance(error, ModuleNotFoundError) and error.name and name.startswith(error.name)):
                    problems[name] = f"{type(error).__name__}: {error}"
    return modules, problems, [str(warning.message) for warning in caught if "cim-dg" in str(warning.message)]


def _checkout(module: ModuleType, package: str) -> str:
    """The folder around the package that `module` is of, which may be a namespace, and its commit."""
    path = Path(str(module.__file__)).resolve()
    root = next(parent.parent for parent in path.parents if parent.name == package)
    return f"{root}, commit {commit(root) or 'unknown (no git checkout)'}"


def wilds() -> list[tuple[str, str]]:
    """The WILDS package."""
    return [("WILDS", version_of("wilds") or "not installed"), *_missing("WILDS")]


def datasets(data_dir: Path | None) -> list[tuple[str, str]]:
    """Which datasets are in a folder, and for every sweep which it lacks, with the command that gets it."""
    if data_dir is None:
        return []
    from cim_dg.data.present import all_datasets, is_there
    from cim_dg.sweeps import data, spec

    if not data_dir.is_dir():
        return [(f"datasets in {data_dir}", "there is no such folder")]
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


def missing() -> list[tuple[str, str]]:
    """Folders that variables or registered datasets name and that are not there."""
    from cim_dg.data import own

    named = [(f"{name}_ROOT", os.environ.get(f"{name}_ROOT", "")) for name in HARNESSES]
    named += [("PYTHONPATH", folder) for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    named += [(f"dataset {name}", own.read(name).folder) for name in own.names()]
    absent = [(name, folder) for name, folder in named if folder and not Path(folder).exists()]
    return [(name, f"there is no folder {folder}") for name, folder in absent]


def _missing(harness: str) -> list[tuple[str, str]]:
    missing = [name for name in HARNESS_NEEDS[harness] if importlib.util.find_spec(name) is None]
    return [("  missing", f"{', '.join(missing)}: pip install {' '.join(missing)}")] if missing else []
