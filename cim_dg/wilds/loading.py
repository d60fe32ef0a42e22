"""Batches of images that the cache keeps, made by threads: no processes start, and nothing is copied between them."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cim_dg.images.levels import normalise
from cim_dg.nn.pixels import NAMED
from cim_dg.wilds.subset import ReadableSubset

PART = 8  # images that a thread loads at a time
AHEAD = 2  # batches that are being loaded while the network has another

Item = tuple[Tensor, Tensor, Tensor]
Batch = tuple[list[int], list[Any], Tensor]
"""Positions in the split, what was drawn for each, and the images."""


class ThreadedLoader:
    """The batches (x, y, metadata) of a DataLoader, to the bit, and the same numbers drawn from torch's generators.

    A DataLoader's process number w loads every batch whose number is w modulo `num_workers`, and draws from a generator
    of its own, seeded by the sum of w and a number from the training's generator. Here the same is drawn before threads
    load the images.

    Args:
        loader: gives the batches' positions, the number of threads (`num_workers`), and whether memory is pinned.
        split: the split, which has `decoded` images.
    """

    def __init__(self, loader: Any, split: ReadableSubset) -> None:
        self.batch_sampler: Any = loader.batch_sampler
        self.num_workers: int = loader.num_workers
        self._generator = loader.generator
        self._pin_memory = loader.pin_memory and torch.cuda.is_available()  # as in a DataLoader
        assert split.decoded is not None
        self._split, self._shape = split, split.decoded.shape
        normalisation = np.array(NAMED[split.transform.space], dtype=np.float32)
        self._mean, self._std = (values.reshape(-1, 1, 1) for values in normalisation)
        self._labels, self._metadata = split.y_array, split.metadata_array

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Item]:
        seed = int(torch.empty((), dtype=torch.int64).random_(generator=self._generator).item())
        if self.num_workers == 0:
            for positions in self.batch_sampler:
                batch = self._begin(positions)
                yield self._finish(batch, self._fill(*batch))
            return
        states = [torch.Generator().manual_seed(seed + worker).get_state() for worker in range(self.num_workers)]
        threads = ThreadPoolExecutor(self.num_workers, thread_name_prefix="loader")
        begun: deque[tuple[Batch, list[Future[bool]]]] = deque()
        try:
            for number, positions in enumerate(self.batch_sampler):
                with _drawing_from(states, number % self.num_workers):
                    batch = self._begin(positions)
                begun.append((batch, [threads.submit(self._fill, *part) for part in _parts(*batch)]))
                if len(begun) > AHEAD:
                    yield self._await(*begun.popleft())
            while begun:
                yield self._await(*begun.popleft())
        finally:
            threads.shutdown(cancel_futures=True)

    def _begin(self, positions: list[int]) -> Batch:
        """A batch with its random numbers, and without its images."""
        drawn = [self._split.draw(position) for position in positions]
        return [*positions], drawn, torch.empty(len(positions), *self._shape, pin_memory=self._pin_memory)

    def _fill(self, positions: list[int], drawn: list[Any], x: Tensor) -> bool:
        """Put the images into `x`, (N, 3, H, W); whether all have this size."""
        for position, numbers, out in zip(positions, drawn, x.numpy(), strict=True):
            pixels = self._split.pixels(position, numbers)
            if pixels.shape != self._shape:
                return False
            normalise(pixels, self._mean, self._std, out)
        return True

    def _finish(self, batch: Batch, is_filled: bool) -> Item:
        positions, drawn, x = batch
        places = torch.as_tensor(positions)
        y, metadata = self._labels[places], self._metadata[places]
        if not is_filled:  # all have another size, or it is an error
            images = map(self._image, positions, drawn)
            return self._split.collate(list(zip(images, y, metadata, strict=True)))
        return x, y.pin_memory() if self._pin_memory else y, metadata

    def _await(self, batch: Batch, parts: list[Future[bool]]) -> Item:
        return self._finish(batch, all([part.result() for part in parts]))

    def _image(self, position: int, drawn: Any) -> Tensor:
        pixels = self._split.pixels(position, drawn)
        out = np.empty(pixels.shape, dtype=np.float32)
        normalise(pixels, self._mean, self._std, out)
        return torch.from_numpy(out)


@contextlib.contextmanager
def _drawing_from(states: list[Tensor], worker: int) -> Iterator[None]:
    """Torch's global generator has the state of a worker, which goes on; afterwards it is as before."""
    before = torch.get_rng_state()
    torch.set_rng_state(states[worker])
    try:
        yield
    finally:
        states[worker] = torch.get_rng_state()
        torch.set_rng_state(before)


def _parts(positions: list[int], drawn: list[Any], x: Tensor) -> Iterator[Batch]:
    for start in range(0, len(positions), PART):
        part = slice(start, start + PART)
        yield positions[part], drawn[part], x[part]
