"""Resuming a killed run with the same results: one file holds everything that the rest of the run depends on."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cim_dg.errors import UserError
from cim_dg.runtime import checkpoint, halving

from .environments import Loaders
from .results import Results, identity

NAME = "checkpoint.pt"
SHARE = 20
"""The training between two checkpoints takes at least this many times as long as writing one."""

_PLAIN = (bool, int, float, str, type(None), Tensor)


class Resume:
    """Writes and reads a run's checkpoint. It gets everything that changes during training.

    Args:
        folder: the job's folder.
        args: the job's arguments.
        hparams: the hyper-parameters.
        algorithm: the model. The checkpoint holds its `state_dict()`, the state_dict of each attribute that has one
            (optimisers, schedulers), and attributes that are plain values or tensors.
        loaders: the training and evaluation data, before the first step.
        results: the file of the records.
        device: the device of the training.
    """

    def __init__(
        self,
        folder: str,
        args: Namespace,
        hparams: dict[str, Any],
        algorithm: nn.Module,
        loaders: Loaders,
        results: Results,
        device: str,
    ) -> None:
        self.path = Path(folder, NAME)
        self._identity = {"args": identity(args), "hparams": hparams}
        self._algorithm, self._loaders, self._results, self._device = algorithm, loaders, results, device
        self._interval = checkpoint.Interval(SHARE)

    def start(self) -> tuple[int, dict[str, list[float]]]:
        """Restore the checkpoint. If there is no usable one, prepare results.jsonl for a new run.

        Returns the number of steps taken, and the values of the steps since the last record.
        """
        state = self._read()
        if state is None:
            self._results.start_over()
            halving.start_over(self.path.parent)
            self.remove()
            return 0, {}
        self._algorithm.load_state_dict(state["algorithm"])
        _set_attributes(self._algorithm, state["attributes"])
        self._loaders.restore(state["loaders"])
        self._results.cut(state["results"])
        checkpoint.restore_random_state(state["random"])  # last: the lines above change it
        if warning := checkpoint.keep_threads(state.get("threads"), self._device):
            print(f"warning: {warning}", file=sys.stderr)
        print(f"Going on after step {state['steps'] - 1}, where this job was stopped")
        return state["steps"], state["since_record"]

    def after_step(self, steps: int, since_record: dict[str, list[float]]) -> None:
        """Write a checkpoint if one is due. If the disk is full, the last one stays and the training goes on."""
        if not self._interval.is_due():
            return
        with self._interval.writing():
            try:
                self.write(steps, since_record)
            except OSError as error:
                print(f"warning: no checkpoint after step {steps - 1}: {error.strerror}", file=sys.stderr)

    def write(self, steps: int, since_record: dict[str, list[float]]) -> None:
        """Write a checkpoint.

        Raises:
            OSError: it cannot be written.
        """
        state = {
            "identity": self._identity,
            "steps": steps,
            "since_record": dict(since_record),
            "algorithm": self._algorithm.state_dict(),
            "attributes": _attributes(self._algorithm),
            "loaders": self._loaders.state(),
            "results": self._results.size(),
            "random": checkpoint.random_state(),
            "threads": torch.get_num_threads(),
        }
        checkpoint.save(self.path, state)

    def remove(self) -> None:
        """Remove the checkpoint: the run is done, or starts again."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any] | None:
        """The checkpoint; None if there is no usable one, with a sentence on stderr if there is an unusable one."""
        if not self.path.exists():
            return None
        try:
            state = checkpoint.load(self.path, self._device)
        except UserError as error:
            problem: str | None = str(error)
        else:
            problem = self._problem(state)
        if problem is None:
            return state
        print(f"warning: {problem}; the job starts from the beginning", file=sys.stderr)
        return None

    def _problem(self, state: dict[str, Any]) -> str | None:
        """Why the job cannot resume from this checkpoint; None if it can."""
        if not isinstance(state, dict) or not {"identity", "results"} <= state.keys():
            return f"{self.path} is no checkpoint of a job"
        for kind, now in self._identity.items():
            before = state["identity"][kind]
            for name in sorted({*before, *now}):
                if before.get(name) != now.get(name):
                    return f"{self.path} is of a job whose {name} is {before.get(name)!r}, not {now.get(name)!r}"
        if self._results.size() < state["results"]:
            return f"{self.path} is of a longer {self._results.path.name} than there is"
        return None


def _attributes(algorithm: nn.Module) -> dict[str, Any]:
    """The state that an algorithm's attributes hold besides its `state_dict()`; see `Resume`."""
    attributes = {}
    for name, value in vars(algorithm).items():
        if name in _OF_EVERY_MODULE or isinstance(value, nn.Module):
            continue
        if hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
            attributes[name] = {"state_dict": value.state_dict()}
        elif _is_plain(value):
            attributes[name] = {"value": value}
    return attributes


def _set_attributes(algorithm: nn.Module, attributes: dict[str, Any]) -> None:
    for name, entry in attributes.items():
        if "state_dict" in entry:
            getattr(algorithm, name).load_state_dict(entry["state_dict"])
        else:
            setattr(algorithm, name, entry["value"])


def _is_plain(value: object) -> bool:
    """Whether `torch.load` reads the value in its safe mode."""
    if isinstance(value, dict):
        return all(_is_plain(item) for pair in value.items() for item in pair)
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):  # not a named tuple, which safe mode refuses
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
