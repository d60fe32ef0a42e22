"""The stand-in draws, splits, initialises and loads as the real DomainBed does (golden/protocol.json)."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import pytest
import torch
from domainbed import datasets, hparams_registry, networks
from domainbed.lib import fast_data_loader
from domainbed.lib.fast_data_loader import FastDataLoader, InfiniteDataLoader
from domainbed.lib.misc import Split, accuracy, make_weights_for_balanced_classes, seed_hash, split_dataset
from golden_checks import check_batches, check_hparams, check_network
from standin_samples import fingerprint, shared_protocol
from torch.utils.data import Dataset

from cim_dg.errors import UserError


@pytest.fixture(scope="module")
def ours(mnist: str) -> dict[str, Any]:
    return json.loads(json.dumps(shared_protocol(mnist)))


@pytest.mark.figures
def test_splits(ours: dict[str, Any], golden: dict[str, Any]) -> None:
    assert ours["splits"] == golden["splits"]


@pytest.mark.figures
def test_default_and_random_hparams(ours: dict[str, Any], golden: dict[str, Any]) -> None:
    check_hparams(ours["hparams"], golden["hparams"])


def test_hparams_are_plain_python() -> None:
    for seed in range(20):
        for value in hparams_registry.random_hparams("GroupDRO", "VLCS", seed_hash(seed)).values():
            assert type(value) in (bool, int, float)


@pytest.mark.figures
def test_mnist_cnn(ours: dict[str, Any], golden: dict[str, Any]) -> None:
    check_network(ours, golden)


@pytest.mark.figures
@pytest.mark.parametrize("dataset", ["ColoredMNIST", "RotatedMNIST"])
def test_mnist_images(dataset: str, ours: dict[str, Any], golden: dict[str, Any]) -> None:
    check_batches(ours["images"][dataset], golden["images"][dataset])


@pytest.mark.figures
def test_minibatches_and_the_state_of_the_generator(mnist: str, golden: dict[str, Any]) -> None:
    # The same calls as in make_golden.protocol, where each environment has a loader of its own.
    torch.manual_seed(5)
    coloured = datasets.get_dataset_class("ColoredMNIST")(mnist, [2], {})
    (out, first), (_, second) = split_dataset(coloured[0], 16, 7), split_dataset(coloured[1], 16, 7)
    train = iter(InfiniteDataLoader([first, second], [None, make_weights_for_balanced_classes(second)], 8, 8))
    evaluation = FastDataLoader(out, 6, 8)
    networks.MNIST_CNN((2, 28, 28))
    seen = [fingerprint(next(train)) for _ in range(25)]
    seen += [fingerprint([batch]) for batch in evaluation]
    seen += [fingerprint(next(train)) for _ in range(3)]
    check_batches(seen, golden["batches"])
    assert torch.rand(3).tolist() == golden["random_after"]


class _Noisy(Dataset[Any]):
    """A data set that is read item by item and augmented at random."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((1,), float(index)) + torch.rand(1) / 2, index % 3


def _steps_of_noisy(monkeypatch: pytest.MonkeyPatch, cores: int) -> list[Any]:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    torch.manual_seed(0)
    split = Split(_Noisy(), range(24))
    train, evaluation = InfiniteDataLoader([split], [None], 4, 2), FastDataLoader(split, 5, 2)
    steps = iter(train)
    seen = [next(steps) for _ in range(8)]
    seen += [[batch] for batch in evaluation]
    return [[(x.tolist(), y.tolist()) for x, y in step] for step in seen] + [torch.rand(2).tolist()]


def test_augmentation_does_not_depend_on_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    split = Split(_Noisy(), range(24))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    assert [fast_data_loader.processes([split], asked) for asked in (0, 1, 2, 8)] == [0, 1, 2, 3]
    one, two = (_steps_of_noisy(monkeypatch, cores) for cores in (1, 2))
    with monkeypatch.context() as patch:
        patch.setattr(fast_data_loader, "processes", lambda splits, num_workers: 0)
        none = _steps_of_noisy(monkeypatch, 1)
    assert none == one == two
    fractions = [value % 1 for step in none[:8] for value in np.ravel(step[0][0])]
    assert len(set(fractions)) == len(fractions), "augmentations repeat"


def test_data_in_memory_starts_no_process() -> None:
    debug = datasets.get_dataset_class("Debug28")(None, [0], {})
    assert fast_data_loader.processes([Split(env, range(16)) for env in debug], 8) == 0


def test_balanced_weights_give_every_class_the_same_share() -> None:
    split = Split(torch.utils.data.TensorDataset(torch.zeros(6, 1), torch.tensor([2, 0, 0, 0, 2, 1])), [5, 4, 3, 2, 1])
    assert make_weights_for_balanced_classes(split).tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 9, 1 / 9, 1 / 9])


def test_accuracy_counts_images_not_batches() -> None:
    class Constant(torch.nn.Module):
        def predict(self, x: torch.Tensor) -> torch.Tensor:
            assert not self.training
            return torch.tensor([[0.0, 1.0]]).expand(len(x), 2)

    batches = [(torch.zeros(3, 1), torch.tensor([1, 1, 1])), (torch.zeros(1, 1), torch.tensor([0]))]
    model = Constant()
    assert accuracy(model, batches, "cpu") == 0.75
    assert model.training


def test_a_single_logit_is_refused_as_domainbed_counts_too_much() -> None:
    class Single(torch.nn.Module):
        def predict(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(x), 1)

    with pytest.raises(UserError, match="Single gives one logit per image"):
        accuracy(Single(), [(torch.zeros(4, 1), torch.ones(4))], "cpu")


def test_unknown_algorithm_has_no_hparams() -> None:
    with pytest.raises(UserError, match=r"'IRM'.*ERM, GroupDRO"):
        hparams_registry._space("IRM", "VLCS")


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ("{lr: 1}", "is not JSON"),
        ("[1]", "must be a JSON object"),
        ('{"lrr": 1}', "no hyper-parameter 'lrr'; it has batch_size, .*weights"),
        ('{"lr": "1e-3"}', "lr is '1e-3'; accepted is a number of at least 0"),
        ('{"lr": true}', "lr is True; accepted is a number"),
        ('{"lr": NaN}', "lr is nan; accepted is a number"),
        ('{"lr": -1}', "lr is -1; accepted is a number of at least 0"),
        ('{"batch_size": 8.5}', "batch_size is 8.5; accepted is a whole number"),
        ('{"batch_size": 0}', "batch_size is 0; accepted is a whole number of at least 1"),
        ("[" * 100_000, "is not JSON"),
        ('{"resnet18": 1}', "resnet18 is 1; accepted is true or false"),
    ],
)
def test_wrong_overrides(overrides: str, complaint: str) -> None:
    hparams = hparams_registry.default_hparams("ERM", "VLCS")
    with pytest.raises(UserError, match=complaint):
        hparams_registry.with_overrides(hparams, overrides, "ERM")


def test_overrides() -> None:
    hparams = hparams_registry.default_hparams("ERM", "VLCS")
    changed = hparams_registry.with_overrides(hparams, '{"lr": 1, "weights": "random"}', "ERM")
    assert changed == {**hparams, "lr": 1, "weights": "random"}
    assert hparams_registry.with_overrides(hparams, None, "ERM") == hparams
