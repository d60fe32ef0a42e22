"""Going on where a killed run stopped, to the same results: one file with all that the rest of a run depends on."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cim_dg.errors import UserError
from cim_dg.runtime import checkpoint

from .environments import Loaders
from .results import Results, identity

NAME = "checkpoint.pt"
SHARE = 20
"""Training between two is at least so many times as long as writing one."""

_PLAIN = (bool, int, float, str, type(None), Tensor)


class Resume:
    """Writes and reads a run's checkpoint. Everything that changes during training is given here, once.

    Args:
        folder: the job's.
        args: its arguments.
        hparams: the hyper-parameters that came of them.
        algorithm: what is trained; besides its `state_dict()`, its attributes with a state_dict of their own
            (optimisers, schedulers) and those of plain values or tensors are kept.
        loaders: what it is trained and evaluated on, as they are before the first step.
        results: where its records go.
        device: where it is trained.
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
        """Bring everything to where the checkpoint is, or results.jsonl to where a run begins if there is none to use.

        Returns the number of steps that have been taken, and the values of those since the last record.
        """
        state = self._read()
        if state is None:
            self._results.start_over()
            self.remove()
            return 0, {}
        self._algorithm.load_state_dict(state["algorithm"])
        _set_attributes(self._algorithm, state["attributes"])
        self._loaders.restore(state["loaders"])
        self._results.cut(state["results"])
        checkpoint.restore_random_state(state["random"])  # last: all that was before has moved it
        if warning := checkpoint.keep_threads(state.get("threads"), self._device):
            print(f"warning: {warning}", file=sys.stderr)
        print(f"Going on after step {state['steps'] - 1}, where this job was stopped")
        return state["steps"], state["since_record"]

    def after_step(self, steps: int, since_record: dict[str, list[float]]) -> None:
        """Write a checkpoint if it is time to. On a disk that is full, the last one stays and the training goes on."""
        if not self._interval.is_due():
            return
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
        with self._interval.writing():
            try:
                checkpoint.save(self.path, state)
            except OSError as error:
                print(f"warning: no checkpoint after step {steps - 1}: {error.strerror}", file=sys.stderr)

    def remove(self) -> None:
        """The run is over, or begins anew: there is nothing to go on from."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any] | None:
        """The checkpoint, or None, with a sentence on stderr if there is one that cannot be used."""
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
        """Why this is not what the job can go on from, if it is not."""
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
    """What an algorithm's own attributes hold that its `state_dict()` does not: see `Resume`."""
    found = {}
    for name, value in vars(algorithm).items():
        if name in _OF_EVERY_MODULE or isinstance(value, nn.Module):
            continue
        if hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
            found[name] = {"state_dict": value.state_dict()}
        elif _is_plain(value):
            found[name] = {"value": value}
    return found


def _set_attributes(algorithm: nn.Module, attributes: dict[str, Any]) -> None:
    for name, kept in attributes.items():
        if "state_dict" in kept:
            getattr(algorithm, name).load_state_dict(kept["state_dict"])
        else:
            setattr(algorithm, name, kept["value"])


def _is_plain(value: object) -> bool:
    """Whether `torch.load` reads such a value in its safe mode."""
    if isinstance(value, dict):
        return all(_is_plain(one) for pair in value.items() for one in pair)
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):  # no named tuple, which is not read
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
