from __future__ import annotations

from typing import Any

import pytest
import torch

from cim_dg.runtime.device_waits import NoWaiting


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: 1 if (x > 0).any() else 0,
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.where(x > 0),
        lambda x: x.unique(),
        lambda x: torch.equal(x, x),
        lambda x: x.cpu(),
        lambda x: x.to(torch.float64).to("cpu"),
        lambda x: torch.zeros(3).to(x),
        lambda x: x.copy_(torch.zeros(3)),
        lambda x: x.new_tensor([1.0, 2.0]),
        lambda x: torch.tensor(1.0, device=x.device),
        lambda x: x[[0, 1]],
        lambda x: x[torch.tensor([0, 1])],
        lambda x: x + torch.zeros(3),
        lambda x: torch.repeat_interleave(x, torch.ones(3, dtype=torch.int64, device=x.device)),
        lambda x: x.index_put_((x > 0,), x[:2]),
    ],
)
def test_waits_are_found(waits: Any) -> None:
    x = torch.rand(3, device="meta")
    with NoWaiting(), pytest.raises(AssertionError, match=r"wait|mixes"):
        waits(x)


@pytest.mark.parametrize(
    "runs",
    [
        lambda x: torch.where(x > 0, x, 0.0) * 2 + torch.tensor(1.0),
        lambda x: x.masked_fill(x > 0, 0.0),
        lambda x: x.index_put_((x > 0,), x.new_zeros(())),
        lambda x: torch.zeros(3).to(x.device, non_blocking=True),
        lambda x: x.index_select(0, torch.randperm(3, device=x.device)[:2]),
        lambda x: x[torch.randperm(3, device=x.device)],
        lambda x: torch.zeros(3).tolist(),
        lambda x: torch.full((2,), 1.0, device=x.device),
    ],
)
def test_what_does_not_wait_runs(runs: Any) -> None:
    x = torch.rand(3, device="meta")
    with NoWaiting():
        runs(x)
