"""Batches of images that the cache keeps, made by threads: no processes start, and nothing is copied between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cim_dg.images.levels import normalise
from cim_dg.wilds.subset import ReadableSubset

PART = 8  # images that a thread loads at a time
AHEAD = 2  # batches that are being loaded while the network has another

Item = tuple[Tensor, Tensor, Tensor]


class ThreadedLoader:
    """The batches (x, y, metadata) of a DataLoader, to the bit, and the same numbers drawn from torch's generators.

    Args:
        loader: gives the batches' positions, the number of threads (`num_workers`), and whether memory is pinned.
        split: the split; its images are taken from `split.decoded`.
        shape: of the images, (3, H, W).
        normalisation: mean and deviation of each channel, of pixels in [0, 1].
    """

    def __init__(
        self,
        loader: Any,
        split: ReadableSubset,
        shape: tuple[int, ...],
        normalisation: tuple[Sequence[float], Sequence[float]],
    ) -> None:
        self.batch_sampler: Any = loader.batch_sampler
        self.num_workers: int = loader.num_workers
        self._generator, self._pin_memory = loader.generator, loader.pin_memory
        self._split, self._shape = split, shape
        self._mean, self._std = (np.array(values, dtype=np.float32).reshape(-1, 1, 1) for values in normalisation)
        self._labels, self._metadata = split.y_array, split.metadata_array

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Item]:
        # The seed that a DataLoader draws for its processes.
        torch.empty((), dtype=torch.int64).random_(generator=self._generator)
        if self.num_workers == 0:
            yield from map(self._load, self.batch_sampler)
            return
        threads = ThreadPoolExecutor(self.num_workers, thread_name_prefix="loader")
        begun: deque[tuple[list[int], Tensor, list[Future[bool]]]] = deque()
        try:
            for positions in self.batch_sampler:
                x = self._empty(positions)
                begun.append((positions, x, [threads.submit(self._fill, *part) for part in _parts(x, positions)]))
                if len(begun) > AHEAD:
                    yield self._finished(*begun.popleft())
            while begun:
                yield self._finished(*begun.popleft())
        finally:
            threads.shutdown(cancel_futures=True)

    def _load(self, positions: list[int]) -> Item:
        x = self._empty(positions)
        return self._batch(positions, x, self._fill(x, positions))

    def _finished(self, positions: list[int], x: Tensor, parts: list[Future[bool]]) -> Item:
        return self._batch(positions, x, all([part.result() for part in parts]))

    def _batch(self, positions: list[int], x: Tensor, is_filled: bool) -> Item:
        if not is_filled:  # some have another size: all of them, or it is an error
            return self._split.collate([self._split[position] for position in positions])
        places = torch.as_tensor(positions)
        y = self._labels[places]
        return x, y.pin_memory() if self._pin_memory else y, self._metadata[places]

    def _empty(self, positions: list[int]) -> Tensor:
        return torch.empty(len(positions), *self._shape, pin_memory=self._pin_memory)

    def _fill(self, x: Tensor, positions: list[int]) -> bool:
        """Put the images into `x`; whether they have the expected shape."""
        for out, position in zip(x.numpy(), positions, strict=True):
            pixels = self._split.pixels(position)
            if pixels.shape != self._shape:
                return False
            normalise(pixels, self._mean, self._std, out)
        return True


def _parts(x: Tensor, positions: list[int]) -> Iterator[tuple[Tensor, list[int]]]:
    for start in range(0, len(positions), PART):
        yield x[start : start + PART], positions[start : start + PART]
