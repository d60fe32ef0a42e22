"""Makes the harnesses know our algorithms, without a change to a harness.

`install` is called when the interpreter starts: by a line in a .pth file, from Python 3.15 on by a .start file
(startup/), or by `import cim_dg.domainbed`. It puts a finder in front of
`sys.meta_path` that lets the other finders find

- a module of a harness and, once that module has been executed, calls our hook for it (`HOOKS`), which registers what
  we have to offer;
- `domainbed`, and serves our stand-in for it where they find nothing of anybody's (`verdict`).

Nothing but the standard library is imported until a harness is. CIM_DG_AUTOLOAD=0 switches everything off.
CIM_DG_STANDIN=0 refuses the stand-in, CIM_DG_STANDIN=1 serves it whatever else there is. A hook that fails gives a
warning; the harness goes on without us.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing itself costs more than all of this module
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

STANDIN = "domainbed"
MODULES = ("algorithms", "datasets", "hparams_registry", "networks", "trainer", "scripts")
"""What a DomainBed, or a fork of it, holds: as a module or as a folder, in a package or in a namespace package."""
HOOKS = {
    "domainbed.algorithms": "cim_dg.domainbed.plugin:on_algorithms",
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
"""Module of a harness -> our function that is called with that module after each execution of it."""


class Finder:
    """Finds what the other finders find, and sees to it that our hooks and our stand-in come after."""

    def __init__(self) -> None:
        self._asking: set[str] = set()
        self._told = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module that we extend, or of the stand-in; None for every other name."""
        if (name not in HOOKS and name != STANDIN) or name in self._asking:
            return None
        if name == STANDIN:
            return self._domainbed(path, target)
        spec = next(self._ask_the_others(name, path, target), None)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            _call_hook_after(spec)
        return spec

    def _domainbed(self, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        """The first `domainbed` that is somebody's; the stand-in if there is none, or if it is asked for."""
        choice = os.environ.get("CIM_DG_STANDIN")
        if choice == "1":
            return standin()
        first = None
        for spec in self._ask_the_others(STANDIN, path, target):
            theirs, doubt = verdict(spec)
            if theirs:
                if doubt and choice != "0" and not self._told:
                    self._told = True  # a spec may be asked for several times
                    print(f"cim-dg: {doubt} {CHOICE}", file=sys.stderr)
                return spec
            first = first or spec
        return first if choice == "0" else standin()

    def _ask_the_others(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> Iterator[ModuleSpec]:
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            if finder is self or find is None:
                continue
            self._asking.add(name)  # a finder that asks for the same name again, as some do, gets no answer from us
            try:
                spec = find(name, path, target)
            finally:
                self._asking.discard(name)
            if spec is not None:
                yield spec


CHOICE = "(CIM_DG_STANDIN=1 chooses cim-dg's stand-in for DomainBed, CIM_DG_STANDIN=0 refuses it without this line)"


def verdict(spec: ModuleSpec) -> tuple[bool, str]:
    """Whether this `domainbed` is somebody's, and, where that is a guess, what was found.

    Somebody's is what holds a module of a DomainBed and, as a guess, whatever else holds Python code or cannot be read.
    A folder without code is nobody's: Python takes every folder of that name on its path for a namespace package.
    """
    if spec.submodule_search_locations is None:
        return True, f"{spec.origin} is taken for a DomainBed of yours, though it is a single module"
    try:
        folders = list(spec.submodule_search_locations)
        inside = [found for folder in folders for found in _modules(folder)]
        if any(module.loader is not None or _holds_python(*_locations(module)) for module in inside):
            return True, ""
        if spec.has_location or inside or _holds_python(*folders):
            where, modules = ", ".join(folders), ", ".join(MODULES)
            return True, f"{where} is taken for a DomainBed of yours, though it has no code of {modules}"
        return False, ""
    except Exception as error:  # a folder that may not be read, a path hook that fails
        return True, f"{spec.name} is taken for a DomainBed of yours, though it cannot be read ({error})"


def _modules(folder: str) -> Iterator[ModuleSpec]:
    """Those of a DomainBed's modules that are in `folder`, which may be in a zip file; nothing is imported."""
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

    # On this loader alone, which serves this one module: its class stays as it is.
    loader.exec_module = exec_module


def call_hook(name: str, module: ModuleType) -> None:
    """Call the hook of module `name`; whatever goes wrong there is a warning and not an error of the harness."""
    from importlib import import_module

    where, function = HOOKS[name].split(":")
    try:
        getattr(import_module(where), function)(module)
    except Exception as error:  # the harness must go on
        import_module("cim_dg.errors").warn(f"cim-dg could not extend {name}: {type(error).__name__}: {error}", 2)


def install(explicit: bool = False) -> None:
    """Put the finder on `sys.meta_path`, once, and call the hooks of what was imported before.

    CIM_DG_AUTOLOAD=0 forbids it, unless the call is `explicit`: somebody asked for it in their code.
    """
    if os.environ.get("CIM_DG_AUTOLOAD") == "0" and not explicit:
        return
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())
        for name in HOOKS:
            if name in sys.modules:
                call_hook(name, sys.modules[name])
