"""Records the copy of the data of a real DomainBed's job, and explains how to get missing data.

DomainBed builds a dataset as `datasets.NAME(data_dir, test_envs, hparams)`. Its own classes get a wrapped constructor,
which in `domainbed.scripts.train` also writes OUTPUT_DIR/data.json, which `cim-dg collect` compares.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from cim_dg.domainbed.launchers import train_folder
from cim_dg.runtime.files import write_atomically

NAME = "data.json"


def watch(datasets: ModuleType) -> None:
    """Wrap the constructors of the classes of `domainbed.datasets` that read files."""
    for value in list(vars(datasets).values()):
        if isinstance(value, type) and getattr(value, "ENVIRONMENTS", None) and "__init__" in vars(value):
            _watch(value)


def _watch(dataset: Any) -> None:
    construct = dataset.__init__
    if hasattr(construct, "__cim_dg__"):
        return

    @functools.wraps(construct)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        outermost = type(self) is dataset
        root = args[0] if args else kwargs.get("root")
        try:
            construct(self, *args, **kwargs)
        except Exception as error:
            if outermost:
                _explain(error, dataset.__name__, root)
            raise
        if outermost:
            _leave_record(dataset.__name__, root)

    __init__.__cim_dg__ = True  # type: ignore[attr-defined]
    dataset.__init__ = __init__


def _explain(error: Exception, name: str, root: Any) -> None:
    """Add the command that gets the data to an error's output, if they are missing."""
    from cim_dg.data.present import sentence

    advice = sentence("domainbed", name, root)
    if advice is None or advice in str(error) or advice in getattr(error, "__notes__", ()):
        return
    if hasattr(error, "add_note"):
        error.add_note(advice)
    else:  # Python 3.10
        print(advice, file=sys.stderr)


def _leave_record(name: str, root: Any) -> None:
    folder = train_folder()
    if folder is None:
        return
    from cim_dg.data.fingerprint import record

    data = record("domainbed", name, root)
    if data is not None and Path(folder).is_dir():
        write_atomically(Path(folder, NAME), json.dumps(data, indent=1) + "\n")
