"""Loaders with fewer processes give what torch's give, to the bit, and leave the generators where those leave them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, TensorDataset

from cim_dg.domainbed import shared_loaders
from cim_dg.domainbed.shared_loaders import SharedDataLoader

PROCESSES, DRAWN = 4, 11


class Endless:
    """As DomainBed's sampler: batches without an end."""

    def __init__(self, batches: BatchSampler) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        while True:
            yield from self.batches


class _SplitDataset(Dataset[Any]):
    """As DomainBed's, by whose name it is known."""

    def __init__(self, underlying_dataset: Any, keys: list[int]) -> None:
        self.underlying_dataset, self.keys = underlying_dataset, keys

    def __getitem__(self, key: int) -> Any:
        return self.underlying_dataset[self.keys[key]]

    def __len__(self) -> int:
        return len(self.keys)


class Augmented(Dataset[Any]):
    """Items with random numbers of each of the generators that augmentation may use."""

    def __getitem__(self, key: int) -> Any:
        return torch.rand(2), random.random(), np.random.random(), key

    def __len__(self) -> int:
        return 20


def in_memory() -> Any:
    return TensorDataset(torch.arange(120.0).view(20, 2, 3).permute(0, 2, 1), torch.arange(20))


def split_twice() -> Any:
    return _SplitDataset(_SplitDataset(in_memory(), list(range(19, 1, -1))), [3, 0, 5, 7, 11, 2, 9])


def load(kind: type[DataLoader[Any]], dataset: Any, endless: bool = True) -> tuple[list[Any], torch.Tensor]:
    """Some minibatches of a loader of 4 processes, and the random number that follows."""
    torch.manual_seed(3)
    sampler: Any = BatchSampler(RandomSampler(dataset), batch_size=3, drop_last=False)
    loader = kind(dataset, num_workers=PROCESSES, batch_sampler=Endless(sampler) if endless else sampler)
    return list(itertools.islice(loader, DRAWN)), torch.rand(1)


def same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second) and first.dtype == second.dtype and first.stride() == second.stride()
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return type(first) is type(second) and first == second


@pytest.mark.parametrize("endless", [True, False])
@pytest.mark.parametrize("make", [in_memory, split_twice])
def test_data_in_memory_need_no_process(
    make: Callable[[], Any], endless: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load(DataLoader, make(), endless)
    monkeypatch.setattr(torch.utils.data.dataloader, "_MultiProcessingDataLoaderIter", None)
    for one, other in zip(load(SharedDataLoader, make(), endless), expected, strict=True):
        assert same(one, other)


@pytest.mark.parametrize(("threads", "processes"), [(1, 1), (3, 2), (64, 4)])
def test_random_items_are_those_of_as_many_processes_as_there_were(
    threads: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    dataset = Augmented()
    assert SharedDataLoader(dataset, num_workers=PROCESSES, batch_sampler=[[0]]).num_workers == processes
    expected = load(DataLoader, dataset)
    assert len(expected[0]) == DRAWN
    assert all(map(same, load(SharedDataLoader, dataset), expected))


def test_other_loaders_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    loader = SharedDataLoader(Augmented(), 3, True, num_workers=PROCESSES)
    assert (loader.num_workers, type(loader.dataset)) == (PROCESSES, Augmented)
    assert SharedDataLoader(Augmented(), batch_sampler=[[0]]).num_workers == 0


def test_the_name_in_torch_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.utils.data, "DataLoader", torch.utils.data.DataLoader)
    shared_loaders.share_loaders()
    assert torch.utils.data.DataLoader is SharedDataLoader
