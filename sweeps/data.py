"""The data that a sweep lacks, and the command that gets them."""

from __future__ import annotations

import shlex
from pathlib import Path

from cim_dg.sweeps.spec import Spec


def lacking(spec: Spec, data_dir: str | Path | None) -> list[str]:
    """The entries of the sweep's `data` that the folder of the data lacks; all of them without a folder."""
    if data_dir is None:
        return list(spec.data)
    return [pattern for pattern in spec.data if not any(Path(data_dir).glob(pattern))]


def remedy(spec: Spec, data_dir: str | Path | None) -> list[str]:
    """The commands that get a sweep's missing data, each as '`command` gets NAME'; none for unknown datasets."""
    if (spec.options or {}).get("defaults") == "digits":
        where = "DIR" if data_dir is None else shlex.quote(str(data_dir))
        return [f"`cim-dg wilds digits --root_dir {where}` writes the digits"]
    from cim_dg.data.present import needed

    return needed(spec.harness, spec.datasets, data_dir)
