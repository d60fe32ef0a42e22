r"""The means of SSIM's local terms at all scales for a GPU: few kernels, and little memory traffic.

The equations are those of `cim_dg.nn.local_similarity`, which serves CPUs, and the results are the same up to rounding.
Here the window is two products with banded matrices, which a GPU is fast at; the same two products filter all maps of a
scale; operations on single pixels serve all scales at once (`torch._foreach_*`); and one backward pass serves the whole
pyramid. With K images y to each anchor x, the maps are x, y, (x^2 + y^2) / 2 and x y: 1 + 3 K per anchor, since only
the sum of both variances is needed. The backward pass filters 2 + K maps, or 1 + 3 K if y needs a gradient too.

Nothing waits for the device or is copied to it. Products keep float32's precision also if TF32 is allowed, since
variances cancel, and under autocast. `torch.compile` runs it with graph breaks. Tests compare it with the other path
on a CPU and count its kernels against those of two calls of pytorch-msssim on the device `meta`; no GPU has run it yet
(`make bench-gpu` would).
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cim_dg.nn.device_constants import constants, kept
from cim_dg.nn.local_similarity import window_weights

_ALIGNED = 4  # numbers: each scale's maps begin at a multiple of 16 bytes


def pyramid_similarity(x: Tensor, y: Tensor, index: Tensor, window: int, scales: int, c1: float, c2: float) -> Tensor:
    """Means over the pixels of cs, at the coarsest scale of l cs, between x[a] and y[index[k, a]].

    Args:
        x: (A, C, H, W), y: (N, C, H, W), both float32 or float64 and contiguous.
        index: (K, A) rows of `y`.
        window: width of the Gaussian window in pixels, odd; the coarsest image holds it.
        scales: how many, each at half the side of the one before.
        c1, c2: the constants of l and cs.

    Returns:
        (scales, K, A, C). Differentiable once, in `x` and `y`.
    """
    return _Pyramid.apply(x, y, index, window, scales, c1, c2)


class _Pyramid(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, index: Tensor, window: int, scales: int, c1: float, c2: float
    ) -> Tensor:
        (k, n_anchors), (channels, *side) = index.shape, x.shape[1:]
        sides = [(-(-side[0] // 2**scale), -(-side[1] // 2**scale)) for scale in range(scales)]
        band = _band((max(side), window), x)
        # C2 / 2 in numerator and denominator of cs: added to the pixels, where it costs no pass over the filtered maps.
        constant = c2 / 2 / sum(window_weights(window)) ** 2
        maps, start = _allocate(x, [(1 + 3 * k, n_anchors * channels, *side) for side in sides], constant)
        images, squares, products = _split(maps, 1 + k, k, k)
        images[0][0].copy_(x.view_as(images[0][0]))
        rows = images[0][1:].view(k * n_anchors, -1)
        torch.index_select(y.view(len(y), rows.shape[1]), 0, index.flatten(), out=rows)
        for fine, coarse in itertools.pairwise(images):
            torch.ops.aten.avg_pool2d.out(fine, *_pooling(fine), out=coarse)
        image_x, image_y = _split(images, 1, k)
        _set_products(start, products, image_x, image_y)
        _set_products(start, squares, image_y, image_y, 0.5)
        _add_products(squares, image_x, image_x, 0.5)

        filtered = [_filter(each, band, window) for each in maps]
        mu, spread, cs = _split(filtered, 1 + k, k, k)
        mu_x, mu_y = _split(mu, 1, k)
        _add_products(cs, mu_x, mu_y, -1.0)
        _add_products(spread, mu_x, mu_x, -0.5)
        _add_products(spread, mu_y, mu_y, -0.5)
        torch._foreach_div_(cs, spread)
        luminance, denominator = _luminance(mu[-1], c1)
        means = x.new_empty(scales, k, n_anchors, channels)
        for scale, local in enumerate([*cs[:-1], cs[-1] * luminance]):
            torch.mean(local.view(k, n_anchors, channels, -1), dim=-1, out=means[scale])
        ctx.save_for_backward(y, index, band, luminance, denominator, *images, *filtered)
        ctx.options = (window, x.shape)
        return means

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_means: Tensor) -> tuple[Tensor | None, ...]:
        """See `cim_dg.nn.local_similarity` for the derivatives; the gradient of a scale goes on to the finer one."""
        y, index, band, luminance, denominator, *saved = ctx.saved_tensors
        window, shape = ctx.options
        k, scales, to_y = len(index), len(grad_means), ctx.needs_input_grad[1]
        images, filtered = saved[:scales], saved[scales:]
        mu, spread, cs = _split(filtered, 1 + k, k, k)
        mu_x, mu_y = _split(mu, 1, k)
        n_y = k if to_y else 0
        n_square = k if to_y else 1  # for x alone, the derivatives by its square are summed over k

        pixels = [float(each[0, 0].numel()) for each in filtered]
        per_pixel = torch._foreach_div(list(grad_means.contiguous().unbind()), pixels)
        weights = [weight.view(k, -1, 1, 1) for weight in per_pixel]
        by_luminance = weights[-1] * cs[-1] / denominator
        weights[-1] = weights[-1] * luminance
        by_moments, start = _allocate(y, [(1 + n_y + n_square + k, *each.shape[1:]) for each in filtered], 0.0)
        by_mu_x, by_mu_y, by_square, by_product = _split(by_moments, 1, n_y, n_square, k)
        for weight, divisor, quotient in zip(weights, spread, by_product, strict=True):
            torch.div(weight, divisor, out=quotient)
        if to_y:
            _set_products(start, by_square, cs, by_product)
            _set_products(start, by_mu_y, mu_y, by_square)
            _add_products(by_mu_y, mu_x, by_product, -1.0)
        else:
            _set_sum_of_products(start, by_square, cs, by_product)
        _set_sum_of_products(start, by_mu_x, mu_x, by_square)
        for j in range(k):
            _add_products(by_mu_x, _part(mu_y, j), _part(by_product, j), -1.0)
        along_x = torch.addcmul(mu_y[-1], luminance, mu_x[-1], value=-1.0).mul_(by_luminance)
        by_mu_x[-1].add_(along_x.sum(dim=0), alpha=2.0)
        if to_y:
            along_y = torch.addcmul(mu_x[-1], luminance, mu_y[-1], value=-1.0)
            by_mu_y[-1].addcmul_(along_y, by_luminance, value=2.0)

        adjoint = [_filter(each, band, window, adjoint=True) for each in by_moments]
        grad, by_square, by_product = _split(adjoint, 1 + n_y, n_square, k)
        grad_x, grad_y = _split(grad, 1, n_y)
        image_x, image_y = _split(images, 1, k)
        for j in range(n_square):
            _add_products(grad_x, image_x, _part(by_square, j), -1.0)
        for j in range(k):
            _add_products(grad_x, _part(image_y, j), _part(by_product, j))
        if to_y:
            _add_products(grad_y, image_y, by_square, -1.0)
            _add_products(grad_y, image_x, by_product)
        for scale in reversed(range(1, scales)):
            pooled = images[scale - 1][: 1 + n_y]
            grad[scale - 1].add_(torch.ops.aten.avg_pool2d_backward(grad[scale], pooled, *_pooling(pooled)))
        by_y = None
        if to_y:
            by_y = torch.zeros_like(y)
            by_y.view(len(y), -1).index_add_(0, index.flatten(), grad_y[0].reshape(index.numel(), -1))
        return grad_x[0].view(shape), by_y, None, None, None, None, None


Maps = list[Tensor]  # (m, n, h, w) of each scale


def _allocate(like: Tensor, shapes: Sequence[tuple[int, ...]], value: float) -> tuple[Maps, Tensor]:
    """Memory for the maps of each scale, and a tensor of one `value`.

    The scales after the first, which are small, are filled with `value`, so that products can be added for all of them
    at once; the first is not, since `_set_products` writes it.
    """
    sizes = [-(-math.prod(shape) // _ALIGNED) * _ALIGNED for shape in shapes[1:]]
    start, *parts = like.new_full((_ALIGNED + sum(sizes),), value).split([_ALIGNED, *sizes])
    others = [part[: math.prod(shape)].view(shape) for part, shape in zip(parts, shapes[1:], strict=True)]
    return [like.new_empty(shapes[0]), *others], start[:1]


def _split(blocks: Maps, *sizes: int) -> list[Maps]:
    """The blocks (m, n, h, w) of each scale, split along m: maps for each of `sizes`."""
    return [list(parts) for parts in zip(*(block.split(sizes) for block in blocks), strict=True)]


def _part(blocks: Maps, j: int) -> Maps:
    """Map j of every scale, (1, n, h, w)."""
    return [block[j : j + 1] for block in blocks]


def _set_products(start: Tensor, targets: Maps, a: Maps, b: Maps, value: float = 1.0) -> None:
    """Targets from `_allocate` = start + value * a * b; a and b may have one map to several of the target."""
    torch.addcmul(start, a[0], b[0], value=value, out=targets[0])
    _add_products_of_small(targets[1:], a[1:], b[1:], value)


def _set_sum_of_products(start: Tensor, targets: Maps, a: Maps, b: Maps) -> None:
    """Targets (1, n, h, w) from `_allocate` = start + the sum over the maps of a * b; a may have one map."""
    for j in range(len(b[0])):
        a_j, b_j = a if len(a[0]) == 1 else _part(a, j), _part(b, j)
        _add_products(targets, a_j, b_j) if j else _set_products(start, targets, a_j, b_j)


def _add_products(targets: Maps, a: Maps, b: Maps, value: float = 1.0) -> None:
    """Add value * a * b to the targets; a and b may have one map to several of the target."""
    if targets[0].shape == a[0].shape == b[0].shape:
        torch._foreach_addcmul_(targets, a, b, value=value)
        return
    targets[0].addcmul_(a[0], b[0], value=value)
    _add_products_of_small(targets[1:], a[1:], b[1:], value)


def _add_products_of_small(targets: Maps, a: Maps, b: Maps, value: float) -> None:
    """The same for all scales in one kernel, which reads a map once for each target that it is multiplied into."""

    def each(blocks: Maps) -> Maps:
        return [map_ for block, target in zip(blocks, targets, strict=True) for map_ in block.expand_as(target)]

    if targets:
        torch._foreach_addcmul_(each(targets), each(a), each(b), value=value)


def _luminance(mu: Tensor, c1: float) -> tuple[Tensor, Tensor]:
    """l of the first mean and each of the others, (K, n, h, w), and its denominator."""
    constant = constants((c1,), mu)
    denominator = torch.addcmul(constant, mu[1:], mu[1:]).addcmul_(mu[:1], mu[:1])
    return torch.addcmul(constant, mu[:1], mu[1:], value=2.0).div_(denominator), denominator


def _pooling(images: Tensor) -> tuple[list[int], list[int], list[int], bool, bool, None]:
    """The arguments of avg_pool2d that halve the sides; an odd side is padded with zeros, as in `halve`."""
    height, width = images.shape[-2:]
    return [2, 2], [2, 2], [height % 2, width % 2], False, True, None


@kept
def _band(size_and_window: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """(size, size - window + 1), the window along the diagonal; its upper left part is the band of a smaller size."""
    size, window = size_and_window
    band = torch.zeros(size, size - window + 1, dtype=dtype, device=device)
    diagonals = band.as_strided((size - window + 1, window), (size - window + 2, size - window + 1))
    diagonals.copy_(constants(tuple(window_weights(window)), band))
    return band


def _filter(maps: Tensor, band: Tensor, window: int, adjoint: bool = False) -> Tensor:
    """Weighted means under the window, (m, n, H, W) -> (m, n, H - window + 1, W - window + 1), or with `adjoint` back.

    Results are written to existing tensors, since autocast does not change the type of such products.
    """
    m, n, height, width = maps.shape
    margin = (window - 1) * (1 if adjoint else -1)
    new_height, new_width = height + margin, width + margin
    if adjoint:
        rows, columns = band[:new_height, :height], band[:new_width, :width].T
    else:
        rows, columns = band[:height, :new_height].T, band[:width, :new_width]
    half, whole = maps.new_empty(m * n * height, new_width), maps.new_empty(m * n, new_height, new_width)
    with _exact_products():
        torch.mm(maps.view(-1, width), columns, out=half)
        torch.bmm(rows.expand(m * n, -1, -1), half.view(m * n, height, new_width), out=whole)
    return whole.view(m, n, new_height, new_width)


@contextlib.contextmanager
def _exact_products() -> Iterator[None]:
    """Products of float32 without TF32, whatever the process allows; its setting is restored afterwards."""
    matmul = torch.backends.cuda.matmul
    # The older of PyTorch's two settings cannot be read while the newer one is in use.
    name, exact = ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)
    before = getattr(matmul, name)
    if before in (exact, "none"):
        yield
        return
    setattr(matmul, name, exact)
    try:
        yield
    finally:
        setattr(matmul, name, before)
