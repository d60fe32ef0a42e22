"""The filter, its adjoint and the halving that MS-SSIM is made of, against PyTorch's own and against definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cim_dg.nn import local_similarity
from cim_dg.nn.local_similarity import halve

SIZES = [(8, 8), (9, 13), (16, 11), (37, 40)]


@pytest.mark.parametrize("size", SIZES)
def test_halving_is_average_pooling_with_padding(size: tuple[int, int]) -> None:
    mine, theirs = (torch.rand(2, 3, *size, dtype=torch.float64, generator=seeded(0)).requires_grad_() for _ in "xy")
    height, width = size
    small = halve(mine)
    pooled = F.avg_pool2d(theirs, 2, padding=(height % 2, width % 2))
    torch.testing.assert_close(small, pooled)
    weights = torch.rand(small.shape, dtype=torch.float64, generator=seeded(1))
    (small * weights).sum().backward()
    (pooled * weights).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


@pytest.mark.parametrize("window", [3, 7, 11])
@pytest.mark.parametrize("onednn_from", [0, 10**9], ids=["convolved", "shifted"])
def test_blur_is_the_gaussian_mean(window: int, onednn_from: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_similarity, "ONEDNN_PIXELS", onednn_from)
    maps = torch.rand(2, 3, 12, 19, generator=seeded(0))
    offsets = torch.arange(window) - window // 2
    line = torch.exp(-(offsets**2) / 4.5)
    kernel = torch.outer(line, line) / line.sum() ** 2
    expected = F.conv2d(maps.double().flatten(0, 1).unsqueeze(1), kernel.double()[None, None]).squeeze(1)
    blurred = local_similarity._blur(maps, window)
    torch.testing.assert_close(blurred.mT.flatten(0, 1).double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("onednn_from", [0, 10**9], ids=["convolved", "shifted"])
def test_adjoint_of_the_blur(onednn_from: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """<blur(a), b> = <a, adjoint(b)>."""
    monkeypatch.setattr(local_similarity, "ONEDNN_PIXELS", onednn_from)
    a, b = torch.rand(4, 15, 20, generator=seeded(0)), torch.rand(4, 14, 9, generator=seeded(1))
    forward, back = local_similarity._blur(a, 7), local_similarity._blur(b, 7, adjoint=True)
    assert forward.shape == b.shape and back.shape == a.shape
    torch.testing.assert_close((forward * b).sum(), (a * back).sum())


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
