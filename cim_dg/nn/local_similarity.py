"""Means of SSIM's local terms between images and rows of a batch, with their analytic gradient, fast on a CPU.

With local means E[.] under a Gaussian window that lies inside the image, mu = E[x], sigma_x^2 = E[x^2] - mu_x^2 and
sigma_xy = E[x y] - mu_x mu_y (Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to
structural similarity", 2004),

    l  = (2 mu_x mu_y + C1) / (mu_x^2 + mu_y^2 + C1)
    cs = (2 sigma_xy + C2) / (sigma_x^2 + sigma_y^2 + C2).

The window's filter dominates the cost. For a triplet (K = 2), the forward and backward pass filter 10 maps here, and 16
in two separate SSIM: all terms share the moments of x and of each row of y, and the adjoint filter is applied once to
each kind of moment. On a CPU, filtering a map this way is several times as fast as a convolution over three channels
(see `_slide`).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

SIGMA = 1.5  # of the window, in pixels
ONEDNN_PIXELS = 2**16  # the smallest map for which oneDNN is worth its overhead
CPU_PIXELS = 2**20  # filtered at a time on a CPU: the memory of larger arrays returns to the operating system after use


def local_similarity(
    x: Tensor, y: Tensor, index: Tensor, window: int, c1: float, c2: float, *, with_luminance: bool
) -> Tensor:
    """Mean over the pixels of cs, or of l cs `with_luminance`, between x[a] and y[index[k, a]].

    Args:
        x: (A, C, H, W), y: (N, C, H, W), both float32 or float64 and contiguous, H and W at least `window`.
        index: (K, A) rows of `y`.
        window: width of the Gaussian window in pixels, odd.
        c1, c2: the constants of l and cs.

    Returns:
        (K, A, C). Differentiable once, in `x` and `y`.
    """
    return _LocalSimilarity.apply(x, y, index, window, c1, c2, with_luminance)


def halve(images: Tensor) -> Tensor:
    """(..., H, W) at half the side: avg_pool2d(images, 2, padding=(H % 2, W % 2)), several times as fast on a CPU."""
    return _Halve.apply(images)


class _LocalSimilarity(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, index: Tensor, window: int, c1: float, c2: float, with_luminance: bool
    ) -> Tensor:
        size = _images_at_a_time(x)
        # The moments of y are computed once per image, for any number of anchors.
        moments = [_mean_and_variance(part, window) for part in y.split(size)]
        mu_y, var_y = (torch.cat(maps) for maps in zip(*moments, strict=True))
        half_var_y_c2 = var_y.add_(c2).mul_(0.5)
        means = x.new_empty(*index.shape, x.shape[1])
        saved = []
        for part, part_index, part_means in zip(x.split(size), index.split(size, 1), means.split(size, 1), strict=True):
            mu_x, var_x = _mean_and_variance(part, window)
            saved.append(mu_x)
            for k, rows in enumerate(part_index):
                mu = mu_y.index_select(0, rows)
                covariance = _blur(y.index_select(0, rows).mul_(part), window).addcmul_(mu_x, mu, value=-1)
                spread = half_var_y_c2.index_select(0, rows).add_(var_x, alpha=0.5)
                cs = covariance.add_(c2 / 2).div_(spread)
                local = _luminance(mu_x, mu, c1)[0] * cs if with_luminance else cs
                part_means[k] = local.mean((-2, -1))
                saved += [cs, spread]
        ctx.save_for_backward(x, y, index, mu_y, *saved)
        ctx.options = (window, c1, with_luminance)
        return means

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """With cs = (sigma_xy + C2 / 2) / spread and d = grad / (pixels * spread), the derivatives by the moments are

            by E[x y]   d            by E[x^2]   -cs d / 2            by mu_x   (cs mu_x - mu_y) d

        and the chain rule through the filter gives, with F its adjoint and sums over k,

            grad_x = F(sum by mu_x) + 2 x F(sum by E[x^2]) + sum of y_k F(by E[x y_k]).

        cs is symmetric in x and y, so the gradient to y has the same form. With luminance, the product rule adds
        the term of dl/dmu_x = 2 (mu_y - l mu_x) / (mu_x^2 + mu_y^2 + C1).
        """
        x, y, index, mu_y, *tensors = ctx.saved_tensors
        window, c1, with_luminance = ctx.options
        saved = iter(tensors)
        grad_x, grad_y = torch.zeros_like(x), None
        if ctx.needs_input_grad[1]:
            grad_y, by_mu_y, cs_d_y = torch.zeros_like(y), torch.zeros_like(mu_y), torch.zeros_like(mu_y)
        grad = grad[..., None, None] / mu_y.shape[-2:].numel()
        size = _images_at_a_time(x)
        for part, part_index, part_grad, part_grad_x in zip(
            x.split(size), index.split(size, 1), grad.split(size, 1), grad_x.split(size), strict=True
        ):
            mu_x = next(saved)
            by_mu_x, cs_d_x = torch.zeros_like(mu_x), torch.zeros_like(mu_x)
            for rows, weight in zip(part_index, part_grad, strict=True):
                cs, spread, mu = next(saved), next(saved), mu_y.index_select(0, rows)
                if with_luminance:
                    luminance, l_denominator = _luminance(mu_x, mu, c1)
                    by_l = 2 * weight * cs / l_denominator
                    by_mu_x.addcmul_(mu - luminance * mu_x, by_l)
                    if grad_y is not None:
                        by_mu_y.index_add_(0, rows, (mu_x - luminance * mu) * by_l)
                    weight = weight * luminance
                d = weight / spread
                cs_d_x.addcmul_(cs, d)
                by_mu_x.addcmul_(mu, d, value=-1)
                by_product = _blur(d, window, adjoint=True)
                part_grad_x.addcmul_(y.index_select(0, rows), by_product)
                if grad_y is not None:
                    cs_d_y.index_add_(0, rows, cs * d)
                    by_mu_y.index_add_(0, rows, mu_x * d, alpha=-1)
                    grad_y.index_add_(0, rows, part * by_product)
            _add_by_own_moments(part_grad_x, part, mu_x, by_mu_x, cs_d_x, window)
        if grad_y is not None:
            _add_by_own_moments(grad_y, y, mu_y, by_mu_y, cs_d_y, window)
        return grad_x, grad_y, None, None, None, None, None


def _images_at_a_time(images: Tensor) -> int:
    """The number of images to compare at a time: few enough that the next ones reuse their memory."""
    pixels = max(1, images[0].numel()) if len(images) else 1
    return max(1, CPU_PIXELS // pixels)


def _add_by_own_moments(grad: Tensor, images: Tensor, mu: Tensor, by_mu: Tensor, cs_d: Tensor, window: int) -> None:
    """Add to `grad` the gradient through the images' own mean and mean square."""
    grad += _blur(by_mu.addcmul_(mu, cs_d), window, adjoint=True)
    grad.addcmul_(images, _blur(cs_d, window, adjoint=True), value=-1)


def _mean_and_variance(images: Tensor, window: int) -> tuple[Tensor, Tensor]:
    mu = _blur(images, window)
    return mu, _blur(images * images, window).addcmul_(mu, mu, value=-1)


def _luminance(mu_x: Tensor, mu_y: Tensor, c1: float) -> tuple[Tensor, Tensor]:
    """l and its denominator."""
    denominator = mu_x**2 + mu_y**2 + c1
    return (2 * mu_x * mu_y + c1) / denominator, denominator


@functools.lru_cache
def window_weights(width: int) -> tuple[float, ...]:
    """The Gaussian window's weights, rounded to float32 as in pytorch-msssim, so that both agree in float64 too."""
    offsets = torch.arange(width, dtype=torch.float32, device="cpu") - width // 2
    weights = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    return tuple((weights / weights.sum()).tolist())


def _blur(maps: Tensor, window: int, adjoint: bool = False) -> Tensor:
    """Weighted means under the window, (..., H, W) -> transposed, (..., W - window + 1, H - window + 1).

    `adjoint` is the transposed map back. Pixelwise statistics may be stored transposed, and sliding along the first
    index is fast where sliding along the second is not.
    """
    return _slide(_slide(maps, window, adjoint).mT.contiguous(), window, adjoint)


def _slide(maps: Tensor, window: int, adjoint: bool) -> Tensor:
    """One pass of the separable window: (..., H, W) -> (..., H - window + 1, W), or with `adjoint` + window - 1."""
    weights = window_weights(window)
    *batch, height, width = maps.shape
    size = height + (window - 1 if adjoint else 1 - window)
    fast = maps.device.type == "cpu" and maps.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    if fast and maps.numel() >= ONEDNN_PIXELS:
        # oneDNN's depthwise convolution is fast for many channels, innermost in memory: the columns are its channels.
        columns = maps.reshape(-1, 1, height, width).permute(0, 3, 1, 2)
        kernel = maps.new_tensor(weights).expand(width, 1, 1, window)
        with torch.autocast("cpu", enabled=False):
            out = F.conv2d(columns, kernel, padding=(0, window - 1 if adjoint else 0), groups=width)
        return out.permute(0, 2, 3, 1).reshape(*batch, size, width)
    # Otherwise, shifted images are added: exact in every type.
    out = maps.new_zeros(*batch, size, width)
    for shift, weight in enumerate(weights):
        if adjoint:
            out.narrow(-2, shift, height).add_(maps, alpha=weight)
        else:
            out.add_(maps.narrow(-2, shift, size), alpha=weight)
    return out


class _Halve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        ctx.odd = height % 2, width % 2
        if height % 2 or width % 2:
            x = F.pad(x, (width % 2, 0, height % 2, 0))
        rows = x[..., 0::2, :] + x[..., 1::2, :]
        return (rows[..., 0::2] + rows[..., 1::2]).mul_(0.25)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        odd_height, odd_width = ctx.odd
        grad = (grad * 0.25).repeat_interleave(2, -1).repeat_interleave(2, -2)
        return grad[..., odd_height:, odd_width:]
