"""Small parts of the protocol: seeds, splits, accuracy, and output that goes to the terminal and to a file."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
import torch
from torch.utils.data import Dataset, TensorDataset

from cim_dg.errors import UserError
from cim_dg.hparams import seed_hash as seed_hash
from cim_dg.results.fixed_width import format_row


class Split(Dataset[Any]):
    """The items of a data set at `keys`, in that order. A split of a split refers to the data set itself."""

    def __init__(self, dataset: Any, keys: Sequence[int]) -> None:
        nested = isinstance(dataset, Split)
        self.dataset: Any = dataset.dataset if nested else dataset
        self.keys: list[int] = [dataset.keys[key] for key in keys] if nested else list(keys)

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, position: int) -> Any:
        return self.dataset[self.keys[position]]

    @property
    def in_memory(self) -> bool:
        """Whether the items are rows of tensors, which need no reading and have no random augmentation."""
        return isinstance(self.dataset, TensorDataset)

    @property
    def in_folder(self) -> bool:
        """Whether the items are files of an image folder, which loads whole minibatches."""
        return hasattr(self.dataset, "minibatch")

    @property
    def cached(self) -> bool:
        """Whether minibatches are in memory or in the cache, so that no worker process is needed."""
        return self.in_memory or getattr(self.dataset, "cached", False)

    def labels(self) -> list[int]:
        """The class of every item. If the data set lists its labels, no image is decoded."""
        if self.in_memory:
            known: Sequence[Any] | None = self.dataset.tensors[1].tolist()
        else:
            known = getattr(self.dataset, "targets", None)
        if known is None:
            return [int(self[position][1]) for position in range(len(self))]
        return [int(known[key]) for key in self.keys]


def split_dataset(dataset: Any, n: int, seed: int = 0) -> tuple[Split, Split]:
    """Shuffle with `seed` and split: the first `n` items, and the rest."""
    keys = list(range(len(dataset)))
    np.random.RandomState(seed).shuffle(keys)
    return Split(dataset, keys[:n]), Split(dataset, keys[n:])


def make_weights_for_balanced_classes(split: Split) -> torch.Tensor:
    """Sampling weights (N,) that sum to 1 and give every class that occurs the same share."""
    labels = split.labels()
    counts = Counter(labels)
    return torch.tensor([1 / (counts[label] * len(counts)) for label in labels])


class Transferable(Protocol):
    """Images that can be moved to a device as a tensor: a tensor, or an `ImageBatch`."""

    def to(self, device: str | torch.device, /) -> torch.Tensor:
        """The images on the device."""
        ...


class Predictor(Protocol):
    """The methods of an algorithm that `accuracy` needs."""

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        ...

    def eval(self) -> Any:
        """Turn on evaluation mode."""

    def train(self) -> Any:
        """Turn on training mode."""


def accuracy(
    algorithm: Predictor,
    batches: Iterable[tuple[Transferable, torch.Tensor]],
    device: str | torch.device,
    kept: list[tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> float:
    """The share of images that `algorithm` classifies correctly in eval mode. It leaves `algorithm` in train mode.

    The logits (on the device) and labels of each minibatch are appended to `kept`, if given.

    Raises:
        UserError: there is one logit per image. DomainBed compares every logit with every label then, and gives 4.0
            for four correct images.
    """
    correct = torch.zeros((), dtype=torch.int64, device=device)
    total = 0
    algorithm.eval()
    with torch.no_grad():
        for x, y in batches:
            logits = algorithm.predict(x.to(device))
            if logits.shape[1] == 1:
                raise UserError(
                    f"{type(algorithm).__name__} gives one logit per image; accepted are one per class, since "
                    "DomainBed's accuracy of a single logit can exceed 1"
                )
            if kept is not None:
                kept.append((logits, y))
            correct += (logits.argmax(1) == y.to(device)).sum()
            total += len(y)
    algorithm.train()
    return correct.item() / total


def print_row(row: Iterable[object], colwidth: int = 10, latex: bool = False) -> None:
    """Print one row of a table, every cell cut or padded to `colwidth`."""
    print(format_row(row, colwidth, latex))


class Tee(io.TextIOBase):
    """A text stream that writes to another stream and to a file. A full disk costs lines of the file, not the run."""

    def __init__(self, stream: TextIO, path: str | Path, mode: str = "a") -> None:
        self.stream = stream
        self.file = open(path, mode, encoding="utf-8")  # noqa: SIM115 - closed by close()

    def write(self, text: str) -> int:
        """Write to both; returns the number of characters."""
        self.stream.write(text)
        with contextlib.suppress(OSError):
            self.file.write(text)
        self.flush()
        return len(text)

    def flush(self) -> None:
        """Flush both."""
        self.stream.flush()
        with contextlib.suppress(OSError):
            if not self.file.closed:
                self.file.flush()

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self.stream.isatty()

    def close(self) -> None:
        """Close the file; the stream stays open."""
        with contextlib.suppress(OSError):
            self.file.close()
        super().close()
