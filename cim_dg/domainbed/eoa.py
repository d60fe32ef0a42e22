"""What Ensemble of Averages (salesforce/ensemble-of-averages) has besides DomainBed's seams.

Its `train` was written for NumPy before 1.24. Its script `domainbed.EoA` puts checkpoints of ERM_SMA together, and
takes any other checkpoint without a word for one whose weights are all missing.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from cim_dg.algorithms import methods
from cim_dg.errors import UserError
from cim_dg.harness.registration import ours_in

SCRIPT = "domainbed.EoA"


def on_algorithms(algorithms: Any) -> None:
    """Give NumPy the name `np.float` that `train` uses, and have the script refuse checkpoints of ours."""
    if not hasattr(algorithms, "ERM_SMA"):
        return
    if "float" not in vars(algorithms.np):
        algorithms.np.float = float  # what it meant
    if getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", None) == SCRIPT:
        refuse_ours(algorithms.torch, set(ours_in(algorithms, methods())))


def refuse_ours(torch: Any, names: set[str]) -> None:
    """Have `torch.load` of this process refuse checkpoints of the algorithms `names`."""
    load = torch.load

    @functools.wraps(load)
    def checked_load(file: Any, *args: Any, **kwargs: Any) -> Any:
        checkpoint = load(file, *args, **kwargs)
        name = checkpoint.get("args", {}).get("algorithm") if isinstance(checkpoint, dict) else None
        if name in names:
            raise UserError(f"{file} is a checkpoint of {name}; {SCRIPT} makes ensembles of ERM_SMA alone")
        return checkpoint

    torch.load = checked_load
