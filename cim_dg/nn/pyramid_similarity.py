r"""The means of SSIM's local terms at all scales for a GPU: few kernels, and little memory traffic.

The equations are those of `cim_dg.nn.local_similarity`, which serves CPUs, and the results are the same up to rounding.
Here the window is two products with banded matrices, which a GPU is fast at; the same two products filter all maps of a
scale; and one backward pass serves the whole pyramid. With K images y to each anchor x, the maps are x, y,
(x^2 + y^2) / 2 and x y: 1 + 3 K per anchor, since only the sum of both variances is needed. The backward pass filters
2 + K maps, or 1 + 3 K if y needs a gradient too.

Nothing waits for the device or is copied to it. Products keep float32's precision also if TF32 is allowed, since
variances cancel, and under autocast. `torch.compile` runs it with graph breaks. Tests compare it with the other path
on a CPU and count its kernels (a third of those of two calls of pytorch-msssim); no GPU has run it yet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cim_dg.nn.local_similarity import window_weights


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
        (k, n_anchors), (channels, height, width) = index.shape, x.shape[1:]
        band = _band(x, max(height, width), window)
        # C2 / 2 in numerator and denominator of cs: added to the pixels, where it costs no pass over the filtered maps.
        constant = x.new_full((), c2 / 2 / sum(window_weights(window)) ** 2)
        means = x.new_empty(scales, k, n_anchors, channels)
        saved: list[Tensor] = []
        for scale in range(scales):
            maps = x.new_empty(1 + 3 * k, n_anchors * channels, height, width)
            images, squares, products = maps.split([1 + k, k, k])
            if scale == 0:
                images[0].copy_(x.view_as(images[0]))
                rows = images[1:].view(k * n_anchors, -1)
                torch.index_select(y.view(len(y), rows.shape[1]), 0, index.flatten(), out=rows)
            else:
                previous = saved[-4]
                torch.ops.aten.avg_pool2d.out(previous, *_pooling(previous), out=images)
            image_x, image_y = images[0], images[1:]
            torch.addcmul(constant, image_x, image_y, out=products)
            torch.addcmul(constant, image_y, image_y, value=0.5, out=squares)
            squares.addcmul_(image_x, image_x, value=0.5)
            filtered = _filter(maps, band, window)
            mu, spread, cs = filtered.split([1 + k, k, k])
            cs.addcmul_(mu[0], mu[1:], value=-1)
            spread.addcmul_(mu[0], mu[0], value=-0.5).addcmul_(mu[1:], mu[1:], value=-0.5)
            cs.div_(spread)
            local = cs * _luminance(mu, c1)[0] if scale == scales - 1 else cs
            torch.mean(local.view(k, n_anchors, channels, -1), dim=-1, out=means[scale])
            saved += [images, mu, spread, cs]
            height, width = -(-height // 2), -(-width // 2)
        ctx.save_for_backward(y, index, band, *saved)
        ctx.options = (window, scales, c1, x.shape)
        return means

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_means: Tensor) -> tuple[Tensor | None, ...]:
        """See `cim_dg.nn.local_similarity` for the derivatives; the gradient of a scale goes on to the finer one."""
        y, index, band, *saved = ctx.saved_tensors
        window, scales, c1, shape = ctx.options
        k, to_y = len(index), ctx.needs_input_grad[1]
        grad: Tensor | None = None
        for scale in reversed(range(scales)):
            images, mu, spread, cs = saved[4 * scale : 4 * scale + 4]
            weight = grad_means[scale].view(k, -1, 1, 1) / cs[0, 0].numel()
            scale_c1 = c1 if scale == scales - 1 else None
            by_moments, n_mu = _by_moments(mu, spread, cs, weight, scale_c1, to_y)
            filtered = _filter(by_moments, band, window, adjoint=True)
            fine, by_square, by_product = filtered.split([n_mu, len(filtered) - n_mu - k, k])
            for part in by_square:
                fine[0].addcmul_(images[0], part, value=-1)
            for image, part in zip(images[1:], by_product, strict=True):
                fine[0].addcmul_(image, part)
            if to_y:
                fine[1:].addcmul_(images[1:], by_square, value=-1).addcmul_(images[0], by_product)
            if grad is not None:
                pooled = images[: len(fine)]
                fine.add_(torch.ops.aten.avg_pool2d_backward(grad, pooled, *_pooling(pooled)))
            grad = fine
        assert grad is not None
        grad_y = None
        if to_y:
            grad_y = torch.zeros_like(y)
            grad_y.view(len(y), -1).index_add_(0, index.flatten(), grad[1:].reshape(index.numel(), -1))
        return grad[0].view(shape), grad_y, None, None, None, None, None


def _by_moments(
    mu: Tensor, spread: Tensor, cs: Tensor, weight: Tensor, c1: float | None, to_y: bool
) -> tuple[Tensor, int]:
    """The maps (m, n, h, w) that the filter's adjoint is applied to, and how many of them are derivatives by means.

    The others are cs d, summed over k if only x needs a gradient, and d, with d = weight / spread. `c1` is given at the
    coarsest scale, where l counts.
    """
    k, n_mu = len(cs), len(mu) if to_y else 1
    maps = mu.new_empty(n_mu + (k if to_y else 1) + k, *mu.shape[1:])
    by_mu, by_square, d = maps.split([n_mu, len(maps) - n_mu - k, k])
    mu_x, mu_y = mu[0], mu[1:]
    luminance = None
    if c1 is not None:
        luminance, denominator = _luminance(mu, c1)
        by_luminance = 2 * weight * cs / denominator
        weight = weight * luminance
    torch.div(weight, spread, out=d)
    if to_y:
        torch.mul(cs, d, out=by_square)
        torch.mul(mu_y, by_square, out=by_mu[1:]).addcmul_(mu_x, d, value=-1)
        torch.mul(mu_x, by_square.sum(dim=0), out=by_mu[0])
    else:
        torch.mul(cs[0], d[0], out=by_square[0])
        for each_cs, each_d in zip(cs[1:], d[1:], strict=True):
            by_square[0].addcmul_(each_cs, each_d)
        torch.mul(mu_x, by_square[0], out=by_mu[0])
    for mean, part in zip(mu_y, d, strict=True):
        by_mu[0].addcmul_(mean, part, value=-1)
    if luminance is not None:
        by_mu[0].add_(((mu_y - luminance * mu_x) * by_luminance).sum(dim=0))
        if to_y:
            by_mu[1:].addcmul_(mu_x - luminance * mu_y, by_luminance)
    return maps, n_mu


def _luminance(mu: Tensor, c1: float) -> tuple[Tensor, Tensor]:
    """l of the first mean and each of the others, (K, n, h, w), and its denominator."""
    denominator = (mu[1:] ** 2).addcmul_(mu[0], mu[0]).add_(c1)
    return (2 * mu[0] * mu[1:]).add_(c1).div_(denominator), denominator


def _pooling(images: Tensor) -> tuple[list[int], list[int], list[int], bool, bool, None]:
    """The arguments of avg_pool2d that halve the sides; an odd side is padded with zeros, as in `halve`."""
    height, width = images.shape[-2:]
    return [2, 2], [2, 2], [height % 2, width % 2], False, True, None


def _band(like: Tensor, size: int, window: int) -> Tensor:
    """(size, size - window + 1), the window along the diagonal; its upper left part is the band of a smaller size."""
    band = like.new_zeros(size, size - window + 1)
    for offset, weight in enumerate(window_weights(window)):
        band.diagonal(-offset).fill_(weight)
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
