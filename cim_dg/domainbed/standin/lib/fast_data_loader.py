"""The minibatches that DomainBed trains and evaluates on, drawn as its own loaders draw them.

DomainBed gives each environment a torch DataLoader of its own. With w workers its sampler runs 2w batches ahead of the
training, and it takes its seeds from torch's global generator: so every later random number of a run depends on w. Here
the samplers run ahead just as far, while the number of processes that really load images is another matter: none for
data in memory or in the image cache, and at most one per core for the rest. Same seed, same batches as DomainBed's, on
any number of cores; only augmentations are drawn otherwise, as DomainBed's are tied to its worker processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, WeightedRandomSampler
from torch.utils.data import default_collate as collate

from cim_dg.runtime.devices import cores

from .misc import Split, Transferable

BATCHES_AHEAD_PER_WORKER = 2  # torch's default prefetch_factor, with which DomainBed runs

Minibatch = tuple[Transferable, torch.Tensor]
Request = list[tuple[int, int, list[int]]]
"""Minibatches to load together: for each the number of its split, a seed for its augmentation, and positions."""


def processes(splits: Sequence[Split], num_workers: int) -> int:
    """How many processes load images: no more than asked for, no more than cores, none where images need no work."""
    if all(split.cached for split in splits):
        return 0
    return min(num_workers, cores())


class _Draws:
    """An endless stream of batches of positions, drawn from torch's global generator `ahead` of their use."""

    def __init__(self, sampler: Sampler[int], batch_size: int, drop_last: bool, ahead: int) -> None:
        self._batches = BatchSampler(sampler, batch_size, drop_last)
        # A DataLoader, too, begins with one number for its workers' augmentations, before it draws its first batch.
        self._seed = int(torch.empty((), dtype=torch.int64).random_().item())
        self._drawn: deque[list[int]] = deque()  # not yet used
        self._taken = 0  # how many of those have been handed out to be loaded
        self._used = 0
        self._generator = torch.get_rng_state()
        self._begin_pass()
        for _ in range(ahead):
            self.draw()

    def _begin_pass(self) -> None:
        self._pass = iter(self._batches)
        self._passed = 0

    def _next(self) -> list[int]:
        while True:
            if self._passed == 0:
                # All that is random about a pass of a sampler is drawn from the generator now, at its first batch.
                self._generator = torch.get_rng_state()
            batch = next(self._pass, None)
            if batch is not None:
                self._passed += 1
                return batch
            self._begin_pass()

    def draw(self) -> None:
        """Draw one batch more."""
        self._drawn.append(self._next())

    def take(self, split: int) -> tuple[int, int, list[int]]:
        """The oldest batch that has been drawn and not taken, as an entry of a Request."""
        batch = self._drawn[self._taken]
        self._taken += 1
        return split, self._seed + self._used + self._taken, batch

    def use(self) -> None:
        """Forget the oldest batch that has been taken: it has arrived."""
        self._drawn.popleft()
        self._taken -= 1
        self._used += 1

    def state(self) -> dict[str, Any]:
        """Where the stream is, as tensors and plain Python; batches that are only taken count as not used."""
        return {
            "seed": self._seed,
            "drawn": list(self._drawn),
            "used": self._used,
            "generator": self._generator,
            "passed": self._passed,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go to where `state` says; moves torch's global generator. Nothing may have been taken."""
        self._seed, self._used, self._drawn = state["seed"], state["used"], deque(state["drawn"])
        torch.set_rng_state(state["generator"].cpu())
        self._begin_pass()
        for _ in range(state["passed"]):
            self._next()


class _Images(Dataset[list[Minibatch]]):
    """Loads what a Request names. An augmentation depends on the seed given there, not on the process that does it."""

    def __init__(self, splits: Sequence[Split]) -> None:
        self._splits = splits
        # Asked here, as a process forked from one that uses CUDA would be told that there is none.
        self._recolour_here = not torch.cuda.is_available()

    def __getitem__(self, request: Request) -> list[Minibatch]:
        return [self._minibatch(self._splits[which], seed, positions) for which, seed, positions in request]

    def _minibatch(self, split: Split, seed: int, positions: list[int]) -> Minibatch:
        keys = [split.keys[position] for position in positions]
        if split.in_memory:
            x, y = split.dataset[keys]
            return x, y
        if split.in_folder:
            images, y = split.dataset.minibatch(keys, seed)
            return images.recoloured() if self._recolour_here else images, y
        with torch.random.fork_rng(devices=[]):
            # The CPU's generator alone: torch.manual_seed would also reset those of the GPUs.
            torch.default_generator.manual_seed(seed)
            x, y = collate([split.dataset[key] for key in keys])
        return x, y


def _load(splits: Sequence[Split], requests: Iterator[Request], num_processes: int) -> Iterator[list[Minibatch]]:
    images = _Images(splits)
    if num_processes == 0:
        return map(images.__getitem__, requests)
    # With batch_size None a "sample" is what one request names. A generator of its own leaves the global one alone.
    workers: DataLoader[Any] = DataLoader(
        images,
        sampler=requests,
        batch_size=None,
        num_workers=num_processes,
        generator=torch.Generator(),
    )
    return iter(workers)


class InfiniteDataLoader:
    """Endless training steps: for every split a minibatch of `batch_size`, drawn with replacement.

    `weights` holds for each split None (uniform) or sampling weights (N,). `num_workers` is how many processes
    DomainBed would start for each split. All splits share one pool of `processes(splits, num_workers)`.
    """

    def __init__(
        self, splits: Sequence[Split], weights: Sequence[torch.Tensor | None], batch_size: int, num_workers: int
    ) -> None:
        self._splits = splits
        self._num_workers = num_workers
        self._draws = []
        for split, weight in zip(splits, weights, strict=True):
            sampler: Sampler[int]
            if weight is None:
                sampler = RandomSampler(split, replacement=True)
            else:
                sampler = WeightedRandomSampler(weight, num_samples=batch_size, replacement=True)  # type: ignore[arg-type]
            self._draws.append(_Draws(sampler, batch_size, True, BATCHES_AHEAD_PER_WORKER * num_workers))

    def __iter__(self) -> Iterator[list[Minibatch]]:
        loaded = _load(self._splits, self._requests(), processes(self._splits, self._num_workers))
        while True:
            for draws in self._draws:
                draws.draw()
            minibatches = next(loaded)
            for draws in self._draws:
                draws.use()
            yield minibatches

    def _requests(self) -> Iterator[Request]:
        while True:
            yield [draws.take(which) for which, draws in enumerate(self._draws)]

    def state(self) -> list[dict[str, Any]]:
        """Where the steps are; see `_Draws.state`."""
        return [draws.state() for draws in self._draws]

    def restore(self, state: list[dict[str, Any]]) -> None:
        """Go to where `state` says, before the first step is taken; moves torch's global generator."""
        for draws, one in zip(self._draws, state, strict=True):
            draws.restore(one)


class FastDataLoader:
    """Each iteration gives all items of a split once, in random order, in minibatches of `batch_size`."""

    def __init__(self, split: Split, batch_size: int, num_workers: int) -> None:
        self._split = split
        self._num_workers = num_workers
        self._length = -(-len(split) // batch_size)
        self._draws = _Draws(RandomSampler(split), batch_size, False, BATCHES_AHEAD_PER_WORKER * num_workers)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Minibatch]:
        requests: list[Request] = []
        for _ in range(self._length):
            self._draws.draw()
            requests.append([self._draws.take(0)])
            self._draws.use()
        workers = processes([self._split], self._num_workers) if self._length > 1 else 0
        for (minibatch,) in _load([self._split], iter(requests), workers):
            yield minibatch

    def state(self) -> dict[str, Any]:
        """Where the order of the next iterations is; see `_Draws.state`."""
        return self._draws.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Go to where `state` says; moves torch's global generator."""
        self._draws.restore(state)
