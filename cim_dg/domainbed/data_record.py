"""Which copy of the data a job of the real DomainBed is on, and how to get data that are not there.

DomainBed builds a dataset as `datasets.NAME(data_dir, test_envs, hparams)`. Its own classes get a constructor that does
the same and, in `domainbed.scripts.train`, leaves OUTPUT_DIR/data.json, which `cim-dg collect` compares.
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
    """Give the classes of `domainbed.datasets` that read files such a constructor."""
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
    """End what is printed of an error with the command that gets the data, if they are not there."""
    from cim_dg.data.present import sentence

    said = sentence("domainbed", name, root)
    if said is None or said in str(error) or said in getattr(error, "__notes__", ()):
        return
    if hasattr(error, "add_note"):
        error.add_note(said)
    else:  # Python 3.10
        print(said, file=sys.stderr)


def _leave_record(name: str, root: Any) -> None:
    folder = train_folder()
    if folder is None:
        return
    from cim_dg.data.fingerprint import record

    data = record("domainbed", name, root)
    if data is not None and Path(folder).is_dir():
        write_atomically(Path(folder, NAME), json.dumps(data, indent=1) + "\n")
