"""DomainBed's data loaders with fewer processes, for jobs that run in parallel: the same minibatches, to the bit.

DomainBed gives each environment's splits loaders of 8 processes each. With w processes, a loader of torch draws the
positions of 2w minibatches ahead from the global generator, and process i loads the minibatches i, i+w, i+2w, ..., with
generators of its own for augmentation. `SharedDataLoader` draws as far ahead. Fewer processes load the minibatches,
each with the generators of the processes that it replaces; data in memory are loaded without any.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset, get_worker_info
from torch.utils.data._utils.worker import _generate_state  # torch has no public name for a process' NumPy seed

AHEAD = 2
"""The minibatches that a loader draws ahead for each process, torch's default `prefetch_factor`."""


def share_loaders() -> None:
    """From here on, in this process, `torch.utils.data.DataLoader` is a `SharedDataLoader`."""
    torch.utils.data.DataLoader = SharedDataLoader  # type: ignore[misc]


class SharedDataLoader(DataLoader[Any]):
    """A DataLoader that, if it is made as DomainBed's are, starts at most as many processes as torch has threads.

    Those loaders have a dataset, a batch sampler and a number of processes. Others are torch's.
    """

    def __init__(self, dataset: Any, *args: Any, **options: Any) -> None:
        self._load: Callable[[list[int]], Any] | None = None
        processes = options.get("num_workers", 0)
        self._ahead = AHEAD * processes
        if processes and not args and options.keys() == {"batch_sampler", "num_workers"}:
            fewer = _divisor(processes, torch.get_num_threads())
            self._load = _loads_in_this_process(dataset)
            if self._load is not None:
                options["num_workers"] = 0
            elif fewer < processes:
                dataset = _Streams(dataset, processes)
                options |= {"num_workers": fewer, "prefetch_factor": self._ahead // fewer}
        super().__init__(dataset, *args, **options)

    def __iter__(self) -> Any:
        if self._load is None:
            return super().__iter__()
        batches = iter(self.batch_sampler)  # type: ignore[arg-type]
        torch.empty((), dtype=torch.int64).random_()  # a loader draws the seed of its processes first
        return _in_this_process(self._load, batches, deque(itertools.islice(batches, self._ahead)))


def _in_this_process(
    load: Callable[[list[int]], Any], batches: Iterator[list[int]], drawn: deque[list[int]]
) -> Iterator[Any]:
    while drawn:
        batch = drawn.popleft()
        drawn.extend(itertools.islice(batches, 1))
        yield load(batch)


def _divisor(number: int, most: int) -> int:
    """The largest divisor of `number` up to `most`, or 1."""
    return next((share for share in range(min(number, most), 0, -1) if number % share == 0), 1)


def _loads_in_this_process(dataset: Any) -> Callable[[list[int]], Any] | None:
    """A function that loads a minibatch of data in memory; None if the data are not in memory, or may be random."""
    keys: torch.Tensor | None = None
    while type(dataset).__name__ == "_SplitDataset":  # DomainBed's
        of_split = torch.tensor(dataset.keys, dtype=torch.int64)
        keys = of_split if keys is None else of_split[keys]
        dataset = dataset.underlying_dataset
    if isinstance(dataset, TensorDataset) and type(dataset).__getitem__ is TensorDataset.__getitem__:
        tensors = dataset.tensors
        return lambda batch: [values[batch if keys is None else keys[batch]].contiguous() for values in tensors]
    if getattr(dataset, "is_a_copy_of_memory", False):
        positions = range(len(dataset)) if keys is None else keys.tolist()
        return lambda batch: dataset.minibatch([positions[place] for place in batch])
    return None


class _Streams(Dataset[Any]):
    """Loads each minibatch with the random numbers of the process that would load it if there were `count` of them."""

    def __init__(self, dataset: Any, count: int) -> None:
        self._dataset, self._count = dataset, count
        self._states: dict[int, tuple[Any, ...]] = {}  # the states of the generators of each replaced process
        self._loaded = 0  # minibatches, by this process

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitems__(self, batch: list[int]) -> list[Any]:
        process = get_worker_info()
        assert process is not None  # for the type checker
        stream = (process.id + process.num_workers * self._loaded) % self._count
        self._loaded += 1
        if stream in self._states:
            of_python, of_numpy, of_torch = self._states[stream]
            random.setstate(of_python)
            np.random.set_state(of_numpy)
            torch.set_rng_state(of_torch)
        else:
            base_seed = process.seed - process.id
            random.seed(base_seed + stream)
            np.random.seed(_generate_state(base_seed, stream))
            torch.manual_seed(base_seed + stream)
        items = [self._dataset[position] for position in batch]
        self._states[stream] = random.getstate(), np.random.get_state(), torch.get_rng_state()
        return items
