"""The minibatches that DomainBed trains and evaluates on, drawn as its own loaders draw them.

DomainBed gives each environment its own torch DataLoader. With w workers, the loader's sampler runs 2w batches ahead of
the training and takes its seeds from torch's global generator, so every later random number of a run depends on w. Here
the samplers run ahead just as far, but fewer processes load images: none for data in memory or in the image cache, and
at most one per core otherwise. The same seed gives the same batches as in DomainBed, on any number of cores. Only the
augmentations differ, because DomainBed's depend on its worker processes.
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
"""Minibatches to load together. Each has the number of its split, a seed for its augmentation, and positions."""


def processes(splits: Sequence[Split], num_workers: int) -> int:
    """The number of processes that load images: at most `num_workers` and the cores; 0 if all images are in memory."""
    if all(split.cached for split in splits):
        return 0
    return min(num_workers, cores())


class _Draws:
    """An endless stream of batches of positions, drawn from torch's global generator `ahead` of their use."""

    def __init__(self, sampler: Sampler[int], batch_size: int, drop_last: bool, ahead: int) -> None:
        self._batches = BatchSampler(sampler, batch_size, drop_last)
        # A DataLoader also draws one number for its workers' augmentations before its first batch.
        self._seed = int(torch.empty((), dtype=torch.int64).random_().item())
        self._drawn: deque[list[int]] = deque()  # not yet used
        self._requested = 0  # how many of those are being loaded
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
                # A sampler draws all random numbers of a pass here, at the first batch of the pass.
                self._generator = torch.get_rng_state()
            batch = next(self._pass, None)
            if batch is not None:
                self._passed += 1
                return batch
            self._begin_pass()

    def draw(self) -> None:
        """Draw one more batch."""
        self._drawn.append(self._next())

    def take(self, split: int) -> tuple[int, int, list[int]]:
        """The oldest batch that has been drawn and not requested, as an entry of a Request."""
        batch = self._drawn[self._requested]
        self._requested += 1
        return split, self._seed + self._used + self._requested, batch

    def use(self) -> None:
        """Remove the oldest requested batch, which has arrived."""
        self._drawn.popleft()
        self._requested -= 1
        self._used += 1

    def state(self) -> dict[str, Any]:
        """The state of the stream, as tensors and plain Python. Requested batches count as unused until they arrive."""
        return {
            "seed": self._seed,
            "drawn": list(self._drawn),
            "used": self._used,
            "generator": self._generator,
            "passed": self._passed,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore `state`, which sets torch's global generator. No batch may have been requested before."""
        self._seed, self._used, self._drawn = state["seed"], state["used"], deque(state["drawn"])
        torch.set_rng_state(state["generator"].cpu())
        self._begin_pass()
        for _ in range(state["passed"]):
            self._next()


class _Images(Dataset[list[Minibatch]]):
    """Loads what a Request names. Augmentations depend on the request's seed, not on the process."""

    def __init__(self, splits: Sequence[Split]) -> None:
        self._splits = splits
        # Checked here: a process forked from one that uses CUDA would not see the GPU.
        self._recolour_here = not torch.cuda.is_available()

    def __getitem__(self, request: Request) -> list[Minibatch]:
        return [self._minibatch(self._splits[split], seed, positions) for split, seed, positions in request]

    def _minibatch(self, split: Split, seed: int, positions: list[int]) -> Minibatch:
        keys = [split.keys[position] for position in positions]
        if split.in_memory:
            x, y = split.dataset[keys]
            return x, y
        if split.in_folder:
            images, y = split.dataset.minibatch(keys, seed)
            return images.recoloured() if self._recolour_here else images, y
        with torch.random.fork_rng(devices=[]):
            # Only the CPU's generator: torch.manual_seed would also reset the GPUs'.
            torch.default_generator.manual_seed(seed)
            x, y = collate([split.dataset[key] for key in keys])
        return x, y


def _load(splits: Sequence[Split], requests: Iterator[Request], num_processes: int) -> Iterator[list[Minibatch]]:
    images = _Images(splits)
    if num_processes == 0:
        return map(images.__getitem__, requests)
    # With batch_size None, a "sample" is the content of one request. A separate generator keeps the global one
    # unchanged.
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
            yield [draws.take(number) for number, draws in enumerate(self._draws)]

    def state(self) -> list[dict[str, Any]]:
        """The state of every split's stream; see `_Draws.state`."""
        return [draws.state() for draws in self._draws]

    def restore(self, state: list[dict[str, Any]]) -> None:
        """Restore `state` before the first step. This sets torch's global generator."""
        for draws, draws_state in zip(self._draws, state, strict=True):
            draws.restore(draws_state)


class FastDataLoader:
    """Each iteration gives all items of a split once, in random order, in minibatches of `batch_size`."""

    def __init__(self, split: Split, batch_size: int, num_workers: int) -> None:
        self._split = split
        self._num_workers = num_workers
        self._length = -(-len(split) // batch_size)
        self.keys: list[int] = []
        """The keys of the items in the order of the last iteration."""
        self._draws = _Draws(RandomSampler(split), batch_size, False, BATCHES_AHEAD_PER_WORKER * num_workers)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Minibatch]:
        requests: list[Request] = []
        for _ in range(self._length):
            self._draws.draw()
            requests.append([self._draws.take(0)])
            self._draws.use()
        self.keys = [self._split.keys[position] for [(_, _, batch)] in requests for position in batch]
        workers = processes([self._split], self._num_workers) if self._length > 1 else 0
        for (minibatch,) in _load([self._split], iter(requests), workers):
            yield minibatch

    def state(self) -> dict[str, Any]:
        """The state of the stream of batches; see `_Draws.state`."""
        return self._draws.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Restore `state`. This sets torch's global generator."""
        self._draws.restore(state)
