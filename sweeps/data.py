"""Which data a sweep lacks, and the command that gets it."""

from __future__ import annotations

import shlex
from pathlib import Path

from cim_dg.sweeps.spec import Spec


def lacking(spec: Spec, data_dir: str | Path | None) -> list[str]:
    """The entries of the sweep's `data` that are not in the folder of the data; all of them where none is given."""
    if data_dir is None:
        return list(spec.data)
    return [pattern for pattern in spec.data if not any(Path(data_dir).glob(pattern))]


def remedy(spec: Spec, data_dir: str | Path | None) -> list[str]:
    """The commands that get what a sweep lacks, each as '`command` gets NAME'; none for datasets that are not ours."""
    if (spec.options or {}).get("defaults") == "digits":
        where = "DIR" if data_dir is None else shlex.quote(str(data_dir))
        return [f"`cim-dg wilds digits --root_dir {where}` writes the digits"]
    from cim_dg.data.present import needed

    return needed(spec.harness, spec.datasets, data_dir)
