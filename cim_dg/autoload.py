"""Makes the harnesses know our algorithms, without a change to a harness.

`install` is called when the interpreter starts: by a line in a .pth file, from Python 3.15 on by a .start file
(startup/), or by `import cim_dg.domainbed`. It puts a finder in front of
`sys.meta_path` that lets the other finders find

- a module of a harness and, once that module has been executed, calls our hook for it (`HOOKS`), which registers what
  we have to offer;
- `domainbed`, and serves our stand-in for it where they find none.

Nothing but the standard library is imported until a harness is. CIM_DG_AUTOLOAD=0 switches everything off,
CIM_DG_STANDIN=0 the stand-in alone. A hook that fails gives a warning; the harness goes on without us.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing itself costs more than all of this module
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

STANDIN = "domainbed"
HOOKS = {
    "domainbed.algorithms": "cim_dg.domainbed.plugin:on_algorithms",
    "domainbed.command_launchers": "cim_dg.domainbed.plugin:on_command_launchers",
    "domainbed.datasets": "cim_dg.domainbed.plugin:on_datasets",
    "domainbed.hparams_registry": "cim_dg.domainbed.plugin:on_hparams_registry",
    "domainbed.lib.reporting": "cim_dg.domainbed.plugin:on_reporting",
    "domainbed.networks": "cim_dg.domainbed.plugin:on_networks",
    "wilds": "cim_dg.wilds.plugin:on_wilds",
    "wilds.common.utils": "cim_dg.wilds.compat:on_common_utils",
    "wilds.datasets.camelyon17_dataset": "cim_dg.wilds.compat:on_dataset",
    "wilds.datasets.celebA_dataset": "cim_dg.wilds.compat:on_dataset",
    "wilds.datasets.rxrx1_dataset": "cim_dg.wilds.compat:on_dataset",
    "wilds.datasets.waterbirds_dataset": "cim_dg.wilds.compat:on_dataset",
}
"""Module of a harness -> our function that is called with that module after each execution of it."""


class Finder:
    """Finds what the other finders find, and sees to it that our hooks and our stand-in come after."""

    def __init__(self) -> None:
        self._asking: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if (name not in HOOKS and name != STANDIN) or name in self._asking:
            return None
        spec = self._ask_the_others(name, path, target)
        if name == STANDIN:
            return spec if is_domainbed(spec) else standin() or spec
        if spec is not None and hasattr(spec.loader, "exec_module"):
            _call_hook_after(spec)
        return spec

    def _ask_the_others(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        self._asking.add(name)  # a finder that asks for the same name again, as some do, gets no answer from us
        try:
            for finder in sys.meta_path:
                find = getattr(finder, "find_spec", None)
                spec = None if finder is self or find is None else find(name, path, target)
                if spec is not None:
                    return spec
            return None
        finally:
            self._asking.discard(name)


def is_domainbed(spec: ModuleSpec | None) -> bool:
    """Whether this is a DomainBed, and not nothing, or merely some folder of that name."""
    folders = spec.submodule_search_locations if spec is not None else None
    return any(os.path.exists(os.path.join(folder, "algorithms.py")) for folder in folders or ())


def standin() -> ModuleSpec | None:
    """The stand-in as the package `domainbed`, unless it is switched off."""
    if os.environ.get("CIM_DG_STANDIN") == "0":
        return None
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
        import warnings

        warnings.warn(f"cim-dg could not extend {name}: {type(error).__name__}: {error}", stacklevel=2)


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
