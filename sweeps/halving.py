"""Successive halving of a search: which settings train how far, and which of them go on.

All settings of a method on a dataset (and test environment) train to a first part of the full length. The best by the
sweep's selection rule, one of `halving`, go on from their checkpoints to a part `halving` times as long, and so forth,
with the same parts and numbers for every method. It is synchronous: no setting goes on before all of its rung are there
(Karnin et al. 2013, "Almost Optimal Exploration in Multi-Armed Bandits"; Jamieson & Talwalkar 2016, "Non-stochastic
Best Arm Identification and Hyperparameter Optimization"). A setting ranks by its best checkpoint, so that those that
went on stay above those that were stopped: none of these can be selected in the end, and what a rung has decided can be
told from later records.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from cim_dg.errors import UserError
from cim_dg.results.protocols import Choice, Rung
from cim_dg.runtime.halving import VARIABLE, checkpoint_at
from cim_dg.sweeps.jobs import Job
from cim_dg.sweeps.spec import Spec

Cell = tuple[str, str, int | None]  # dataset, method (or variant), test environment (of DomainBed)
Span = tuple[int, int]  # the last step of a job, or its epochs, and how many lie between two checkpoints


@dataclass(frozen=True)
class Place:
    """Where a search is: the rung that its jobs train to, and the jobs that were stopped before."""

    rungs: Sequence[Rung]
    number: int
    stopped: Sequence[Job]

    @property
    def divisor(self) -> int:
        """The current jobs train to 1/this of their length."""
        return self.rungs[self.number].divisor

    @property
    def part(self) -> float:
        """The part of a full training that a job has at this rung, from the one before."""
        before = 1 / self.rungs[self.number - 1].divisor if self.number else 0.0
        return 1 / self.divisor - before

    def __str__(self) -> str:
        place, rung = f"Rung {self.number + 1} of {len(self.rungs)}", self.rungs[self.number]
        length = "the full length" if self.divisor == 1 else f"1/{self.divisor} of the length"
        return f"{place}: {rung.settings} settings of each to {length}; {len(self.stopped)} jobs were stopped early."


def rungs(spec: Spec, spans: Mapping[str, Span]) -> list[Rung]:
    """The rungs of a search, the last of which is the full length: the only one without halving.

    There are as many as leave two settings to the last, and a checkpoint to the first, on every dataset.

    Args:
        spec: the sweep.
        spans: the span of each dataset's jobs; not used without halving.

    Raises:
        UserError: a dataset has too few checkpoints for any rung.
    """
    if spec.halving is None:
        return [Rung(1, spec.n_hparams)]
    for dataset, (last, interval) in spans.items():
        if last < spec.halving * interval:
            raise UserError(
                f"halving is {spec.halving}; accepted on {dataset} is at most {last // interval}, the number of its "
                "checkpoints in training"
            )
    shortest, divisors = min(last // interval for last, interval in spans.values()), [1]
    while (following := divisors[0] * spec.halving) <= shortest and spec.n_hparams // following >= 2:
        divisors.insert(0, following)
    return [Rung(divisor, spec.n_hparams // (divisors[0] // divisor)) for divisor in divisors]


def best(ranked: Mapping[Cell, Sequence[Choice]], count: int) -> dict[Cell, list[int]]:
    """The hparams seeds of the `count` best settings of each cell."""
    return {cell: [choice.hparams_seed for choice in choices[:count]] for cell, choices in ranked.items()}


def goes_on(job: Job, chosen: Mapping[Cell, Sequence[int]]) -> bool:
    """Whether a job is one of the chosen settings, in any of its test environments."""
    cells = [(job.dataset, job.algorithm, env) for env in job.args.get("test_envs", [None])]
    return any(job.args["hparams_seed"] in chosen.get(cell, ()) for cell in cells)


def in_full_jobs(spec: Spec, spans: Mapping[str, Span]) -> dict[str, float]:
    """What the search of a cell of each dataset takes, in jobs of full length."""
    every = rungs(spec, spans)
    parts = {
        dataset: [0.0, *(checkpoint_at(rung.divisor, *span) / span[0] for rung in every[:-1]), 1.0]
        for dataset, span in spans.items()
    }
    return {
        dataset: sum(rung.settings * (now - before) for rung, (before, now) in zip(every, pairwise(of), strict=True))
        for dataset, of in parts.items()
    }


@contextlib.contextmanager
def told(place: Place | None) -> Iterator[None]:
    """Tell the jobs that start inside where to pause, by an environment variable that every launcher passes on."""
    if place is not None and place.divisor > 1:
        os.environ[VARIABLE] = str(place.divisor)
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)
