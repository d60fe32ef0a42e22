"""`domainbed.scripts.train` gives the real DomainBed's figures (golden/protocol.json), and only by its protocol."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from domainbed.lib import environments, fast_data_loader
from domainbed.scripts import train
from golden_checks import check_first_loss, check_run
from precision import computing_in
from standin_samples import RUNS, results_of, run_flags

pytestmark = pytest.mark.figures


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(name: str, mnist: str, *flags: str, dtype: torch.dtype = torch.float64) -> list[dict[str, Any]]:
    """The records of the run `name`."""
    with computing_in(dtype):
        assert train.main([*run_flags(name), "--data_dir", mnist, "--output_dir", "job", *flags]) == 0
    return results_of(Path("job"))


@pytest.mark.parametrize("name", RUNS)
def test_same_seeds_same_results_as_the_real_one(name: str, mnist: str, golden: dict[str, Any]) -> None:
    check_run(run(name, mnist), golden["runs"][name])


@pytest.mark.parametrize("name", RUNS)
def test_same_first_loss_in_float32(name: str, mnist: str, golden: dict[str, Any]) -> None:
    check_first_loss(run(name, mnist, "--steps", "1", dtype=torch.float32), golden["runs"][name])


def _plant_wrong_split(monkeypatch: pytest.MonkeyPatch) -> None:
    split = environments.split_dataset
    monkeypatch.setattr(environments, "split_dataset", lambda data, n, seed: split(data, n, seed + 1))


def _plant_swapped_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second and the third step change places, which are in the same mean of losses."""
    steps = fast_data_loader.InfiniteDataLoader.__iter__

    def swapped(self: Any) -> Iterator[Any]:
        iterator = steps(self)
        first, second, third = (next(iterator) for _ in range(3))
        yield from (first, third, second)
        yield from iterator

    monkeypatch.setattr(fast_data_loader.InfiniteDataLoader, "__iter__", swapped)


def _plant_wrong_learning_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda parameters, lr, **rest: adam(parameters, lr * 1.01, **rest))


@pytest.mark.parametrize("plant", [_plant_wrong_split, _plant_swapped_batches, _plant_wrong_learning_rate])
def test_another_protocol_gives_other_figures(
    plant: Any, mnist: str, golden: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    records, expected = run("adapting", mnist), golden["runs"]["adapting"]
    assert records[-1]["loss"] != pytest.approx(expected["records"][-1]["loss"], rel=1e-4)
    with pytest.raises(AssertionError):
        check_run(records, expected)
