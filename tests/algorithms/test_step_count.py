"""What a training step of each method costs a GPU, counted on the device `meta` against ERM's."""

from __future__ import annotations

import contextlib
from functools import cache

import pytest
import torch
from kernel_count import KernelCount

from benchmarks.step import make
from cim_dg.algorithms import Batch

IMAGES = 96


@pytest.mark.parametrize(
    ("name", "kernels", "bytes_"),
    [
        ("CIM", 1.4, 1.10),
        pytest.param("CIM_VIB", 1.5, 1.10, marks=pytest.mark.slow),
        pytest.param("VIB", 1.1, 1.01, marks=pytest.mark.slow),
        pytest.param("SCL", 1.2, 1.01, marks=pytest.mark.slow),
    ],
)
def test_a_step_with_resnet_50_at_224_pixels(
    monkeypatch: pytest.MonkeyPatch, name: str, kernels: float, bytes_: float
) -> None:
    """The optimiser is Adam on lists of tensors, as on a GPU by default."""
    for module in (torch, torch.amp):  # which `meta` does not have
        monkeypatch.setattr(module, "autocast", lambda *_, **__: contextlib.nullcontext())
    erm, count = count_step("ERM"), count_step(name)
    ratios = count[0] / erm[0], count[1] / erm[1]
    print(f"\n{name}: {count[0]} kernels, {count[1] / 1e9:.1f} GB; to ERM {ratios[0]:.3f}, {ratios[1]:.3f}", end="")
    assert ratios[0] <= kernels and ratios[1] <= bytes_


@cache
def count_step(name: str) -> tuple[int, int]:
    method = make(name).to("meta")
    batch = Batch(
        torch.empty(IMAGES, 3, 224, 224, device="meta"), *torch.empty(2, IMAGES, dtype=torch.int64, device="meta")
    )
    optimizer = torch.optim.Adam(method.parameters(), foreach=True)

    def step() -> None:
        output = method(batch)
        optimizer.zero_grad()
        output.terms["loss"].backward()
        optimizer.step()
        method.after_step()
        torch.stack([term.detach().float() for term in output.terms.values()])

    step()  # makes the optimiser's state, and constants
    with KernelCount() as count:
        step()
    return count.kernels, count.bytes
