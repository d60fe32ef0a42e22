"""Registers our algorithms in the harnesses when they are imported, without a change to a harness.

`install` is called when the interpreter starts (by a line in a .pth file, from Python 3.15 on by a .start file; see
startup/), or by `import cim_dg.domainbed`. It puts a finder at the front of `sys.meta_path`, which uses the other
finders to find

- a module of a harness; after the module has been executed, the finder calls our hook for it (`HOOKS`), which registers
  our algorithms and datasets;
- `domainbed`; if there is no real one (`verdict`), the finder returns our stand-in.

Until a harness is imported, only the standard library is. CIM_DG_AUTOLOAD=0 turns everything off. CIM_DG_STANDIN=0
refuses the stand-in, CIM_DG_STANDIN=1 forces it. A hook that fails gives a warning, and the harness runs without us.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # importing typing takes longer than this whole module
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

STANDIN = "domainbed"
MODULES = ("algorithms", "datasets", "hparams_registry", "networks", "trainer", "scripts")
"""The modules of a DomainBed or a fork: each a file or a folder, in a package or in a namespace package."""
HOOKS = {
    "domainbed.algorithms": "cim_dg.domainbed.plugin:on_algorithms",
    "domainbed.algorithms_inference": "cim_dg.domainbed.diwa:on_inference",
    "domainbed.command_launchers": "cim_dg.domainbed.plugin:on_command_launchers",
    "domainbed.datasets": "cim_dg.domainbed.plugin:on_datasets",
    "domainbed.datasets.datasets": "cim_dg.domainbed.plugin:on_datasets",
    "domainbed.evaluator": "cim_dg.domainbed.swad:on_evaluator",
    "domainbed.hparams_registry": "cim_dg.domainbed.plugin:on_hparams_registry",
    "domainbed.lib.reporting": "cim_dg.domainbed.plugin:on_reporting",
    "domainbed.networks": "cim_dg.domainbed.plugin:on_networks",
    "domainbed.trainer": "cim_dg.domainbed.swad:on_trainer",
    "subpopbench.hparams_registry": "cim_dg.subpopbench.plugin:on_hparams_registry",
    "subpopbench.learning.algorithms": "cim_dg.subpopbench.plugin:on_algorithms",
    "subpopbench.models.networks": "cim_dg.subpopbench.plugin:on_networks",
    "subpopbench.utils.eval_helper": "cim_dg.subpopbench.compat:on_eval_helper",
    "wilds": "cim_dg.wilds.plugin:on_wilds",
    "wilds.common.utils": "cim_dg.wilds.compat:on_common_utils",
    "wilds.datasets.camelyon17_dataset": "cim_dg.wilds.compat:on_dataset",
    "wilds.datasets.celebA_dataset": "cim_dg.wilds.compat:on_dataset",
    "wilds.datasets.rxrx1_dataset": "cim_dg.wilds.compat:on_dataset",
    "wilds.datasets.waterbirds_dataset": "cim_dg.wilds.compat:on_dataset",
    "wilds.datasets.wilds_dataset": "cim_dg.wilds.compat:on_wilds_dataset",
}
"""Module of a harness -> our hook, which is called with the module after each execution of it."""


class Finder:
    """Adds our hooks to the modules that other finders find, and the stand-in if there is no DomainBed."""

    def __init__(self) -> None:
        self._searching: set[str] = set()
        self._notice_printed = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module that we extend, or of the stand-in; None for every other name."""
        if (name not in HOOKS and name != STANDIN) or name in self._searching:
            return None
        if name == STANDIN:
            return self._domainbed(path, target)
        spec = next(self._specs_of_others(name, path, target), None)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            _call_hook_after(spec)
        return spec

    def _domainbed(self, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        """The first real `domainbed`; the stand-in if there is none, or if CIM_DG_STANDIN=1."""
        choice = os.environ.get("CIM_DG_STANDIN")
        if choice == "1":
            return standin()
        first = None
        for spec in self._specs_of_others(STANDIN, path, target):
            is_domainbed, doubt = verdict(spec)
            if is_domainbed:
                if doubt and choice != "0" and not self._notice_printed:
                    self._notice_printed = True  # the spec may be looked up several times
                    print(f"cim-dg: {doubt} {CHOICE}", file=sys.stderr)
                return spec
            first = first or spec
        return first if choice == "0" else standin()

    def _specs_of_others(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> Iterator[ModuleSpec]:
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            if finder is self or find is None:
                continue
            self._searching.add(name)  # some finders look the same name up again: this finder must not answer then
            try:
                spec = find(name, path, target)
            finally:
                self._searching.discard(name)
            if spec is not None:
                yield spec


CHOICE = "(CIM_DG_STANDIN=1 chooses cim-dg's stand-in for DomainBed, CIM_DG_STANDIN=0 refuses it without this line)"


def verdict(spec: ModuleSpec) -> tuple[bool, str]:
    """Whether this `domainbed` is a real one, and the reason for doubt if that is a guess.

    It is real if it has a module of a DomainBed. It is probably real if it has other Python code or cannot be read. A
    folder without code is not: Python takes every folder of that name on its path for a namespace package.
    """
    if spec.submodule_search_locations is None:
        return True, f"{spec.origin} is taken for a DomainBed of yours, though it is a single module"
    try:
        folders = list(spec.submodule_search_locations)
        inside = [module for folder in folders for module in _modules(folder)]
        if any(module.loader is not None or _holds_python(*_locations(module)) for module in inside):
            return True, ""
        if spec.has_location or inside or _holds_python(*folders):
            where, modules = ", ".join(folders), ", ".join(MODULES)
            return True, f"{where} is taken for a DomainBed of yours, though it has no code of {modules}"
        return False, ""
    except Exception as error:  # such as an unreadable folder or a failing path hook
        return True, f"{spec.name} is taken for a DomainBed of yours, though it cannot be read ({error})"


def _modules(folder: str) -> Iterator[ModuleSpec]:
    """The DomainBed modules in `folder`, which may be in a zip file. Nothing is imported."""
    from pkgutil import get_importer

    find = getattr(get_importer(folder), "find_spec", None)
    if find is None:
        return
    for module in MODULES:
        spec = find(f"{STANDIN}.{module}")
        if spec is not None:
            yield spec


def _locations(spec: ModuleSpec) -> list[str]:
    return list(spec.submodule_search_locations or ())


def _holds_python(*folders: str) -> bool:
    """Whether there is Python code in one of `folders`, or one level below."""
    from pkgutil import iter_modules

    inner = [
        entry.path for folder in folders if os.path.isdir(folder) for entry in os.scandir(folder) if entry.is_dir()
    ]
    return any(iter_modules([*folders, *inner]))


def standin() -> ModuleSpec | None:
    """The stand-in as the package `domainbed`."""
    from importlib import util

    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "domainbed", "standin")
    return util.spec_from_file_location(
        STANDIN, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )


def _call_hook_after(spec: ModuleSpec) -> None:
    loader: Any = spec.loader
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        call_hook(spec.name, module)

    # Only on this loader, which loads this one module. Its class is not changed.
    loader.exec_module = exec_module


def call_hook(name: str, module: ModuleType) -> None:
    """Call the hook of module `name`. An error in it becomes a warning, not an error of the harness."""
    from importlib import import_module

    where, function = HOOKS[name].split(":")
    try:
        getattr(import_module(where), function)(module)
    except Exception as error:  # the harness must go on
        import_module("cim_dg.errors").warn(f"cim-dg could not extend {name}: {type(error).__name__}: {error}", 2)


def install(explicit: bool = False) -> None:
    """Put the finder on `sys.meta_path` once, and call the hooks of modules that were imported before.

    CIM_DG_AUTOLOAD=0 prevents it, unless the call is `explicit`, that is, from the user's code.
    """
    if os.environ.get("CIM_DG_AUTOLOAD") == "0" and not explicit:
        return
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())
        for name in HOOKS:
            if name in sys.modules:
                call_hook(name, sys.modules[name])
