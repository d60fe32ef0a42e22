"""The targets of curves: TensorBoard's event files, and runs of Weights & Biases."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any, Protocol

from cim_dg.errors import UserError
from cim_dg.results.domains import dataset_of
from cim_dg.results.read_swad import is_averaged
from cim_dg.results.records import Run


class Writer(Protocol):
    """One run's curves. A new writer replaces what an earlier one of the same run has written."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of a checkpoint."""

    def close(self) -> None:
        """Write the remaining values."""


class TensorBoard:
    """Scalars below the folder `tensorboard` of the run's folder, in a subfolder named as TensorBoard shows the run."""

    def __init__(self, run: Run) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder = run.folder / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)
        self._file = EventFileWriter(str(folder / name_of(run)), flush_secs=5)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of a checkpoint."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._file.add_event(Event(step=step, wall_time=time.time(), summary=Summary(value=scalars)))

    def close(self) -> None:
        """Write the remaining values."""
        self._file.close()


class WandB:
    """A run of Weights & Biases, stored in the folder `wandb` of the run's folder unless WANDB_MODE=online.

    Its id comes from the folder, so writing a run again does not create a second one.
    """

    def __init__(self, run: Run) -> None:
        import wandb

        mode: Any = _wandb_mode()
        if mode == "offline":
            shutil.rmtree(run.folder / "wandb", ignore_errors=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "cim-dg"),
            id=hashlib.md5(os.path.abspath(run.folder).encode()).hexdigest(),
            name=name_of(run),
            group=f"{_dataset(run)}-{run.algorithm}",
            config={"harness": run.harness, "args": run.args, "hparams": run.hparams},
            dir=str(run.folder),
            mode=mode,
            resume=None if mode == "offline" else "allow",
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True),
        )

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of a checkpoint."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Write or send the remaining values."""
        self._run.finish()


WANDB_MODES = ("offline", "online", "disabled", "shared")
WRITERS: dict[str, type[TensorBoard | WandB]] = {"tensorboard": TensorBoard, "wandb": WandB}


def check(targets: Iterable[str]) -> None:
    """Check that curves can be written to all `targets`.

    Raises:
        UserError: a target is unknown or not installed, or WANDB_MODE is not a mode.
    """
    for target in targets:
        if target not in WRITERS:
            raise UserError(f"curves cannot go to {target!r}; accepted are {' and '.join(WRITERS)}")
        if find_spec(target) is None:
            raise UserError(f"curves cannot go to {target}, which is not installed: pip install 'cim-dg[{target}]'")
        if target == "wandb" and _wandb_mode() not in WANDB_MODES:
            raise UserError(f"WANDB_MODE is {_wandb_mode()!r}; accepted are {', '.join(WANDB_MODES)}")


def _wandb_mode() -> str:
    return os.environ.get("WANDB_MODE") or "offline"


def _dataset(run: Run) -> str:
    """The dataset's name, in DomainBed without its options, which are in the run's configuration."""
    return dataset_of(run.dataset) if run.test_envs else run.dataset


def name_of(run: Run) -> str:
    """A name that identifies a run within its sweep, valid as a folder's name."""
    parts = [_dataset(run), run.algorithm]
    if run.test_envs:
        parts += [f"env{'+'.join(map(str, run.test_envs))}", f"trial{run.trial}", f"hparams{run.hparams_seed}"]
    else:
        parts += [f"seed{run.trial}", *([f"hparams{run.hparams_seed}"] if run.hparams_seed else [])]
    if is_averaged(run.harness):
        parts.append("averaged")
    return re.sub(r"[^\w.+-]+", "_", "-".join(parts))
