"""Random state, and the state of a run, in files."""

from __future__ import annotations

import contextlib
import io
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cim_dg.errors import UserError
from cim_dg.runtime import settings
from cim_dg.runtime.files import write_atomically


def random_state() -> dict[str, Any]:
    """The state of the global random generators, of types that `torch.load(weights_only=True)` accepts.

    Of several GPUs it has only the current one's: a run uses one, and may resume where fewer are visible.
    """
    state: Any = np.random.get_state(legacy=True)
    name, keys, *rest = state
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Set all global random generators back to what `random_state` returned."""
    version, values, gauss = state["python"]
    random.setstate((version, tuple(values), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def keep_threads(before: int | None, device: torch.device | str) -> str | None:
    """Compute with as many threads as a job did before it was stopped: on a CPU its results depend on them.

    Args:
        before: as its checkpoint says; None if it does not.
        device: where the job computes.

    Returns:
        A sentence for the user if the job was now given another number, else None.
    """
    now = torch.get_num_threads()
    if before is None or before == now or torch.device(device).type != "cpu":
        return None
    torch.set_num_threads(before)
    return f"this job began with {before} threads and keeps them, in place of {now}"


@contextlib.contextmanager
def preserved_randomness() -> Iterator[None]:
    """Random draws inside do not change the global random generators."""
    state = random_state()
    try:
        yield
    finally:
        restore_random_state(state)


class Interval:
    """Decides when to write a checkpoint: after CIM_DG_CHECKPOINT_SECONDS, and a multiple of the writing time.

    Args:
        share: training between two checkpoints takes at least this many times as long as writing one, because disks
            may be slow and models large.
    """

    def __init__(self, share: int = 20) -> None:
        self._seconds, self._share = settings.get("CIM_DG_CHECKPOINT_SECONDS"), share
        self._written, self._write_seconds = time.monotonic(), 0.0

    def is_due(self) -> bool:
        """Whether it is time to write one."""
        return time.monotonic() - self._written >= max(self._seconds, self._share * self._write_seconds)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Measures the time inside as that of writing a checkpoint."""
        start = time.monotonic()
        yield
        self._written = time.monotonic()
        self._write_seconds = self._written - start


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain Python) to `path` atomically."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def load(path: Path, device: torch.device | str) -> dict[str, Any]:
    """Read what `save` wrote.

    Raises:
        UserError: the file is not one that `save` wrote.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a file with other content can raise anything
        raise UserError(f"{path} cannot be resumed from: {' '.join(str(error).split())[:200]}") from None
