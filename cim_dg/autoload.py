"""Makes the harnesses know our algorithms, without a change to a harness.

A line in a .pth file (setup.py) imports this module when the interpreter starts. It puts two finders on `sys.meta_path`:

- in front, one that lets the other finders find a module of a harness and, once that module has been executed, calls
  our hook for it (`HOOKS`), which registers what we have to offer;
- at the end, one that serves our stand-in as `domainbed` where no real DomainBed can be imported.

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


class PostImportFinder:
    """Finds the modules of `HOOKS` through the other finders, and has their hooks called after they are executed."""

    def __init__(self) -> None:
        self._finding: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in HOOKS or name in self._finding:
            return None
        self._finding.add(name)
        try:
            for finder in sys.meta_path:
                find = getattr(finder, "find_spec", None)
                spec = None if finder is self or find is None else find(name, path, target)
                if spec is not None:
                    break
            else:
                return None
        finally:
            self._finding.discard(name)
        if spec.loader is not None and hasattr(spec.loader, "exec_module"):
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                call_hook(name, module)

            # On this loader alone, which serves this one module: the class stays as it is.
            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


class StandinFinder:
    """Serves cim_dg/domainbed/standin as `domainbed`, after every other finder has failed to find one."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "domainbed" or os.environ.get("CIM_DG_STANDIN") == "0":
            return None
        from importlib import util

        folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "domainbed", "standin")
        return util.spec_from_file_location(
            name, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
        )


def call_hook(name: str, module: ModuleType) -> None:
    """Call the hook of module `name`; whatever goes wrong there is a warning and not an error of the harness."""
    from importlib import import_module

    where, function = HOOKS[name].split(":")
    try:
        getattr(import_module(where), function)(module)
    except Exception as error:  # the harness must go on
        import warnings

        warnings.warn(f"cim-dg could not extend {name}: {type(error).__name__}: {error}", stacklevel=2)


def install() -> None:
    """Put the finders on `sys.meta_path`, once."""
    if os.environ.get("CIM_DG_AUTOLOAD") == "0" or any(isinstance(f, PostImportFinder) for f in sys.meta_path):
        return
    sys.meta_path.insert(0, PostImportFinder())  # type: ignore[arg-type]
    sys.meta_path.append(StandinFinder())  # type: ignore[arg-type]
