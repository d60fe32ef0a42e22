"""The path of GPUs: run on a CPU against the CPU's own path, and counted on the device `meta`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from image_pairs import pair, value_and_gradients
from kernel_count import KernelCount
from pytorch_msssim import ms_ssim as reference
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cim_dg.nn import perceptual
from cim_dg.nn.perceptual import ms_ssim, triplet_ms_ssim
from cim_dg.nn.pyramid_similarity import pyramid_similarity
from cim_dg.runtime.device_waits import NoWaiting


@pytest.fixture
def gpu_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the path of GPUs on the CPU."""
    monkeypatch.setattr(perceptual, "_is_on_cpu", lambda images: False)


def triplet(
    anchors: int, size: tuple[int, int, int, int], dtype: torch.dtype, both: bool, **options: Any
) -> list[Tensor]:
    """Similarities and gradients of correlated noise, some anchors without a positive or a negative."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(size, generator=generator, dtype=dtype)
    morphed = 0.7 * images[torch.arange(anchors) % len(images)]
    morphed = morphed + 0.3 * torch.rand(morphed.shape, generator=generator, dtype=dtype)
    morphed.requires_grad_()
    images.requires_grad_(both)
    positive, negative = torch.randint(-1, len(images), (2, anchors), generator=generator)
    weights = torch.rand(2, anchors, generator=generator, dtype=dtype)
    values = triplet_ms_ssim(morphed, images, positive, negative, **options)
    (values[0] @ weights[0] - values[1] @ weights[1]).backward()
    gradients = [tensor.grad for tensor in (morphed, images) if tensor.requires_grad]
    assert all(gradient is not None and gradient.any() for gradient in gradients)
    return [*(value.detach() for value in values), *gradients]  # type: ignore[list-item]


@pytest.mark.parametrize("both", [False, True], ids=["gradient to x", "gradient to both"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize(
    ("anchors", "size", "options"),
    [
        (3, (4, 3, 36, 36), {}),
        (2, (9, 1, 17, 23), {}),
        (2, (3, 3, 7, 7), {}),
        (5, (2, 2, 61, 35), {}),
        (2, (2, 1, 163, 170), {}),
        (3, (4, 3, 30, 21), {"window": 5, "scales": 3}),
    ],
)
def test_equal_to_the_path_of_cpus(
    monkeypatch: pytest.MonkeyPatch,
    anchors: int,
    size: tuple[int, int, int, int],
    options: dict[str, Any],
    dtype: torch.dtype,
    tolerance: float,
    both: bool,
) -> None:
    expected = triplet(anchors, size, dtype, both, **options)
    monkeypatch.setattr(perceptual, "_is_on_cpu", lambda images: False)
    for value, other in zip(triplet(anchors, size, dtype, both, **options), expected, strict=True):
        torch.testing.assert_close(value, other, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("scales", [1, 2])
def test_gradient_by_finite_differences(scales: int) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 1, 9, 8, dtype=torch.float64, requires_grad=True)
    y = torch.rand(3, 1, 9, 8, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([[0, 2], [2, 2], [1, 0]])
    assert torch.autograd.gradcheck(lambda x, y: pyramid_similarity(x, y, index, 3, scales, 1e-4, 9e-4), (x, y))


def test_the_simple_normalisation_is_the_same_on_both_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = pair(3, 2, 30, 26, dtype=torch.float64)
    y[0] = 1 - x[0]
    results = []
    for on_cpu in (True, False):
        monkeypatch.setattr(perceptual, "_is_on_cpu", lambda images, on_cpu=on_cpu: on_cpu)
        results.append(value_and_gradients(lambda a, b: perceptual.ms_ssim(a, b, normalize="simple"), x, y))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-9)


def test_like_pytorch_msssim_and_1_for_equal_images(gpu_path: None) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, 176, 161)
    y = (x + 0.2 * torch.rand_like(x)).clamp(0, 1)
    expected = reference(x, y, data_range=1.0, size_average=False)
    torch.testing.assert_close(ms_ssim(x, y), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ms_ssim(x, x), torch.ones(2), atol=1e-5, rtol=0)


def test_autocast_changes_nothing(gpu_path: None) -> None:
    plain = triplet(3, (4, 3, 36, 36), torch.float32, both=True)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = triplet(3, (4, 3, 36, 36), torch.float32, both=True)
    # The weighted sum in the helper is a product of its own, in bf16: only the similarities are to be equal.
    assert all(torch.equal(*pair) for pair in zip(plain[:2], under_autocast[:2], strict=True))


class PrecisionOfProducts(TorchDispatchMode):
    """Notes the setting of TF32 at each matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.settings: list[Any] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func._schema.name in ("aten::mm", "aten::bmm"):
            self.settings.append(tf32_is_allowed())
        return func(*args, **(kwargs or {}))


def tf32_is_allowed() -> bool:
    matmul = torch.backends.cuda.matmul
    return matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32


@pytest.mark.parametrize("precision", ["high", "medium", "highest"])
def test_tf32_is_off_in_its_products_and_as_it_was_afterwards(precision: str) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        allowed = tf32_is_allowed()
        assert allowed == (precision != "highest")
        with PrecisionOfProducts() as products:
            x, y = torch.rand(2, 1, 8, 8, requires_grad=True), torch.rand(2, 1, 8, 8)
            pyramid_similarity(x, y, torch.tensor([[0, 1]]), 3, 2, 1e-4, 9e-4).sum().backward()
        assert products.settings == [False] * 8, "two products a scale, forward and backward"
        assert tf32_is_allowed() == allowed
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


def on_meta(anchors: int, images: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    morphed = torch.empty(anchors, 3, side, side, device="meta", requires_grad=True)
    return (
        morphed,
        torch.empty(images, 3, side, side, device="meta"),
        torch.empty(anchors, dtype=torch.int64, device="meta"),
    )


def test_it_neither_waits_for_a_gpu_nor_copies_anything_to_it() -> None:
    morphed, images, rows = on_meta(4, 8, 36)
    with NoWaiting():
        positive, negative = triplet_ms_ssim(morphed, images.requires_grad_(), rows, rows)
        (positive - negative).sum().backward()


@pytest.mark.parametrize(
    ("anchors", "images", "side", "most_kernels", "most_gb"), [(32, 96, 224, 130, 3.4), (64, 64, 36, 105, 0.15)]
)
def test_kernels_and_bytes(anchors: int, images: int, side: int, most_kernels: int, most_gb: float) -> None:
    """Of CIM's loss, forward and backward, with the counts of two calls of pytorch-msssim where it can run."""
    morphed, others, rows = on_meta(anchors, images, side)
    triplet_ms_ssim(morphed, others, rows, rows)  # constants are filled in once
    with KernelCount() as ours:
        positive, negative = triplet_ms_ssim(morphed, others, rows, rows)
        (positive - negative).sum().backward()
    print(f"\n{anchors} x 3 x {side} x {side}: ours {ours.kernels} kernels, {ours.bytes / 1e9:.2f} GB", end="")
    assert ours.kernels <= most_kernels
    assert ours.bytes <= most_gb * 1e9
    if side > 160:
        morphed, others, rows = on_meta(anchors, images, side)
        with KernelCount() as theirs:
            pair = [reference(morphed, others[rows], data_range=1.0, size_average=False) for _ in range(2)]
            (pair[0] - pair[1]).sum().backward()
        print(f"; pytorch-msssim {theirs.kernels} kernels, {theirs.bytes / 1e9:.2f} GB", end="")
        assert ours.kernels <= theirs.kernels / 2 and ours.bytes <= theirs.bytes / 2
