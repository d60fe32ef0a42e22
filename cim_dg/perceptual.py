"""Multi-scale structural similarity (MS-SSIM), and the two of it that CIM's triplet needs, made to be fast.

Definition (Wang, Simoncelli, Bovik, "Multiscale structural similarity for image quality assessment", 2003; the local
statistics are those of Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment", 2004). With a Gaussian window of
standard deviation 1.5, applied only where it lies inside the image, giving local means mu, variances sigma^2 and
covariance sigma_xy, and C1 = (0.01 L)^2, C2 = (0.03 L)^2 for pixels in a range of length L,

    l  = (2 mu_x mu_y + C1) / (mu_x^2 + mu_y^2 + C1)                        luminance
    cs = (2 sigma_xy + C2) / (sigma_x^2 + sigma_y^2 + C2)                   contrast and structure
    MS-SSIM = mean over channels of   mean(l cs at scale M)^w_M  *  prod over j < M of mean(cs at scale j)^w_j

where mean() is over pixels, each scale has half the side of the one before (the average of 2x2 pixels; an odd side is
padded with one row or column of zeros first), and a mean below 0 counts as 0. This is what pytorch-msssim computes,
wherever it can run.

Scales and window follow the image, so that every size from 8x8 up has a value (`scales_and_window`). With s the
smaller side:

    s > 160      11 pixels and 5 scales: the published setting
    s <= 160     7 pixels and as many scales, 1 to 5, as leave the coarsest image a side of at least 7

The weights w are the published five, as printed (they sum to 1.0001); where M < 5 scales are used, the first M of
them, divided by their sum.

The factor x^w has an infinite slope at 0, and means at or below 0 do occur (an image against its inverse). Below 1e-6
it is therefore replaced by the straight line through 0 that meets it there, and by 0 for x < 0: the value moves by
less than 1e-6^w only where it is next to nothing, and the gradient is finite everywhere.

Speed on a CPU comes from three things. The window is separable and applied by adding shifted images, which, unlike a
convolution with few channels, runs at the speed of the cache. The work is cut into chunks that stay there. And the
gradient is the analytic one, so that a triplet needs 10 filtered maps for a forward and a backward pass: the moments
of the morphed image and of the batch are shared by the two terms, and the adjoint filter is applied once to each kind
of moment and not once per term and image.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from cim_dg.errors import UserError

__all__ = ["ms_ssim", "scales_and_window", "triplet_ms_ssim"]

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SIGMA = 1.5
K1, K2 = 0.01, 0.03
SMALL_WINDOW, FULL_WINDOW = 7, 11
FULL_SIDE = (FULL_WINDOW - 1) * 2 ** (len(WEIGHTS) - 1)  # 160: the largest side that five scales of 11 pixels do not fit
FLOOR = 1e-6  # where x^w gives way to a straight line
CHUNK = 2**18  # pixels that the CPU works on at a time: a few maps of this size fit its cache
BACKENDS = ("native", "pytorch_msssim")


def ms_ssim(
    x: Tensor,
    y: Tensor,
    data_range: float = 1.0,
    *,
    window: int | None = None,
    scales: int | None = None,
    backend: str = "native",
) -> Tensor:
    """MS-SSIM of each image of `x` to the one at its place in `y` (equation in the module's docstring).

    Differentiable once in both; deterministic. Half-precision images are compared in float32, under autocast too.

    Args:
        x, y: (N, C, H, W), floating point, pixels in an interval of length `data_range`.
        window, scales: override `scales_and_window`: an odd width of at least 3, and 1 to 5. The coarsest image must
            hold the window.
        backend: "native", or "pytorch_msssim" to have that library compute it: sides over 16 * (window - 1) only, and
            the gradient is its own, which is not finite where a factor is 0.

    Returns:
        (N,) similarities in [0, 1], 1 for equal images; float64 where the images are, else float32.

    Raises:
        UserError: a shape, type or option that is not as above.
    """
    if x.shape != y.shape:
        raise UserError(f"images of shapes {tuple(x.shape)} and {tuple(y.shape)}: ms_ssim compares equal shapes")
    x, y = _as_comparable(x, y)
    window, scales = _checked_options(x, data_range, window, scales, backend)
    if backend == "pytorch_msssim":
        return _by_pytorch_msssim(x, y, data_range, window, scales)
    index = torch.arange(len(y), device=y.device).unsqueeze(0)
    return _similarities(x, y, index, data_range, window, scales)[0]


def triplet_ms_ssim(
    morphed: Tensor,
    images: Tensor,
    positive: Tensor,
    negative: Tensor,
    data_range: float = 1.0,
    *,
    window: int | None = None,
    scales: int | None = None,
    backend: str = "native",
) -> tuple[Tensor, Tensor]:
    """MS-SSIM of `morphed[i]` to `images[positive[i]]` and to `images[negative[i]]`: CIM's two terms in one pass.

    Equal to two calls of `ms_ssim`, faster. Differentiable once, in `morphed` and in `images`; nothing waits for a GPU.
    The gradient to `images` adds up rows with `index_add_`, which on a GPU is deterministic only under
    `torch.use_deterministic_algorithms`.

    Args:
        morphed: (A, C, H, W), the anchors; pixels as in `ms_ssim`.
        images: (N, C, H, W), what they are compared with.
        positive, negative: (A,) int64, rows of `images`, or -1 for none. Other values are the caller's mistake: they
            are not looked for, as that would wait for the GPU.
        window, scales, backend: as in `ms_ssim`.

    Returns:
        two (A,) similarities in [0, 1]. Where the index is -1 the similarity is 0 and gives no gradient.

    Raises:
        UserError: a shape, type or option that is not as above.
    """
    if morphed.ndim != 4 or images.ndim != 4 or morphed.shape[1:] != images.shape[1:]:
        raise UserError(
            f"morphed {tuple(morphed.shape)} and images {tuple(images.shape)}: accepted are (A, C, H, W) and "
            "(N, C, H, W) with the same C, H and W"
        )
    for name, rows in (("positive", positive), ("negative", negative)):
        if rows.shape != morphed.shape[:1] or rows.dtype != torch.int64:
            raise UserError(
                f"{name} has shape {tuple(rows.shape)} and type {rows.dtype}: accepted is int64 of shape ({len(morphed)},)"
            )
    if len(morphed) and not len(images):
        raise UserError("images is empty: at least one image is needed to compare with")
    morphed, images = _as_comparable(morphed, images)
    window, scales = _checked_options(morphed, data_range, window, scales, backend)
    index = torch.stack([positive, negative])
    # Row 0 stands in where there is none: computing it and dropping it costs less than asking the GPU which rows those are.
    rows = index.clamp(min=0)
    if backend == "pytorch_msssim":
        both = [_by_pytorch_msssim(morphed, images[row], data_range, window, scales) for row in rows]
        values = torch.stack(both)
    else:
        if len(images) > rows.numel():  # a large pool of images: look only at those that are used
            images = images.index_select(0, rows.flatten())
            rows = torch.arange(rows.numel(), device=rows.device).view_as(rows)
        values = _similarities(morphed, images, rows, data_range, window, scales)
    positives, negatives = torch.where(index >= 0, values, 0.0)
    return positives, negatives


def scales_and_window(height: int, width: int) -> tuple[int, int]:
    """Number of scales (1 to 5) and width of the window (7 or 11 pixels) for an image of this size.

    Raises:
        UserError: the smaller side is under 7 pixels.
    """
    side = min(height, width)
    if side < SMALL_WINDOW:
        raise UserError(f"images of {height}x{width} pixels are too small for MS-SSIM: sides of at least 7 are accepted")
    window = FULL_WINDOW if side > FULL_SIDE else SMALL_WINDOW
    return _most_scales(side, window), window


def _most_scales(side: int, window: int) -> int:
    return max(n for n in range(1, len(WEIGHTS) + 1) if n == 1 or _coarsest(side, n) >= window)


def _coarsest(side: int, scales: int) -> int:
    """Side of the coarsest of so many images; a halved odd side is rounded up."""
    return -(-side // 2 ** (scales - 1))


def _weights(scales: int) -> list[float]:
    total = 1.0 if scales == len(WEIGHTS) else sum(WEIGHTS[:scales])
    return [weight / total for weight in WEIGHTS[:scales]]


def _as_comparable(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64 if one is, else in float32."""
    for images in (x, y):
        if images.ndim != 4 or images.shape[1] == 0:
            raise UserError(f"images of shape {tuple(images.shape)}: accepted is (N, C, H, W) with at least one channel")
        if not images.is_floating_point():
            raise UserError(f"images of type {images.dtype}: a floating point type is accepted")
    dtype = torch.float64 if torch.float64 in (x.dtype, y.dtype) else torch.float32
    return x.to(dtype), y.to(dtype)


def _checked_options(
    images: Tensor, data_range: float, window: int | None, scales: int | None, backend: str
) -> tuple[int, int]:
    height, width = images.shape[-2:]
    side = min(height, width)
    if backend not in BACKENDS:
        raise UserError(f"backend {backend!r} is not known: accepted are {', '.join(BACKENDS)}")
    if not (math.isfinite(data_range) and data_range > 0):
        raise UserError(f"data_range is {data_range}: accepted is a finite number above 0")
    if scales is not None and not 1 <= scales <= len(WEIGHTS):
        raise UserError(f"scales is {scales}: accepted is 1 to {len(WEIGHTS)}")
    if window is None:
        _, window = scales_and_window(height, width)
    elif window < 3 or window % 2 == 0:
        raise UserError(f"window is {window}: accepted is an odd number of pixels, at least 3")
    scales = _most_scales(side, window) if scales is None else scales
    if _coarsest(side, scales) < window:
        raise UserError(
            f"a window of {window} pixels does not fit images of {height}x{width} halved {scales - 1} times: "
            "accepted is a smaller window, fewer scales or larger images"
        )
    return window, scales


def _similarities(x: Tensor, y: Tensor, index: Tensor, data_range: float, window: int, scales: int) -> Tensor:
    """(K, A): MS-SSIM of x[a] to y[index[k, a]], for x (A, C, H, W), y (N, C, H, W) and index (K, A)."""
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    product: Tensor | None = None
    for scale, weight in enumerate(_weights(scales)):
        if scale:
            x, y = _Halve.apply(x), _Halve.apply(y)
        coarsest = scale == scales - 1
        factor = _power(_LocalSimilarity.apply(x, y, index, window, c1, c2, coarsest), weight)
        product = factor if product is None else product * factor
    assert product is not None
    return product.mean(-1)


def _power(base: Tensor, exponent: float) -> Tensor:
    """base^exponent above FLOOR, the straight line from 0 to there below it, 0 for a negative base."""
    curve = base.clamp(min=FLOOR) ** exponent
    line = torch.relu(base) * FLOOR ** (exponent - 1)
    return torch.where(base > FLOOR, curve, line)


class _LocalSimilarity(torch.autograd.Function):
    """Mean over the pixels of cs, or at the coarsest scale of l cs, between x[a] and y[index[k, a]]: (K, A, C)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, index: Tensor, window: int, c1: float, c2: float, luminance: bool
    ) -> Tensor:
        mu_x, var_x = _mean_and_variance(x, window)
        mu_y, var_y = _mean_and_variance(y, window)  # once per image, however many anchors look at it
        var_y += c2
        means, saved = [], []
        for rows in index:
            mu = mu_y.index_select(0, rows)
            covariance = _blur(y.index_select(0, rows).mul_(x), window).addcmul_(mu_x, mu, value=-1)
            denominator = var_y.index_select(0, rows).add_(var_x)
            cs = torch.rsub(covariance, c2, alpha=-2).div_(denominator)  # (C2 + 2 covariance) / denominator
            local = _luminance(mu_x, mu, c1)[0] * cs if luminance else cs
            means.append(local.mean((-2, -1)))
            saved += [mu, cs, denominator]
        ctx.save_for_backward(x, y, index, mu_x, mu_y, *saved)
        ctx.options = (window, c1, luminance)
        return torch.stack(means)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """With d = 2 grad / (pixels * denominator), the derivatives by the moments are, summed over k,

            by E[x y]   d            by E[x^2]   -cs d / 2            by mu_x   (cs mu_x - mu_y) d

        and the chain rule through the filter gives, with F its adjoint,

            grad_x = F(by mu_x) + 2 x F(by E[x^2]) + sum over k of y_k F(by E[x y_k]).

        cs is symmetric in x and y, so the gradient to y has the same form. Where l counts, the product rule adds
        the term of dl/dmu_x = 2 (mu_y - l mu_x) / (mu_x^2 + mu_y^2 + C1).
        """
        x, y, index, mu_x, mu_y, *saved = ctx.saved_tensors
        window, c1, luminance = ctx.options
        y_too = ctx.needs_input_grad[1]
        by_mu_x, cs_d_x, grad_x = torch.zeros_like(mu_x), torch.zeros_like(mu_x), torch.zeros_like(x)
        if y_too:
            by_mu_y, cs_d_y, grad_y = torch.zeros_like(mu_y), torch.zeros_like(mu_y), torch.zeros_like(y)
        grad = grad[..., None, None] / mu_x.shape[-2:].numel()
        for k, rows in enumerate(index):
            mu, cs, denominator = saved[3 * k : 3 * k + 3]
            weight = grad[k]
            if luminance:
                l, l_denominator = _luminance(mu_x, mu, c1)
                by_l = 2 * weight * cs / l_denominator
                by_mu_x.addcmul_(mu - l * mu_x, by_l)
                if y_too:
                    by_mu_y.index_add_(0, rows, (mu_x - l * mu) * by_l)
                weight = weight * l
            d = 2 * weight / denominator
            cs_d_x.addcmul_(cs, d)
            by_mu_x.addcmul_(mu, d, value=-1)
            by_cross = _blur(d, window, adjoint=True)
            grad_x.addcmul_(y.index_select(0, rows), by_cross)
            if y_too:
                cs_d_y.index_add_(0, rows, cs * d)
                by_mu_y.index_add_(0, rows, mu_x * d, alpha=-1)
                grad_y.index_add_(0, rows, x * by_cross)
        _add_by_moments(grad_x, x, mu_x, by_mu_x, cs_d_x, window)
        if y_too:
            _add_by_moments(grad_y, y, mu_y, by_mu_y, cs_d_y, window)
        return grad_x, grad_y if y_too else None, None, None, None, None, None


def _add_by_moments(grad: Tensor, images: Tensor, mu: Tensor, by_mu: Tensor, cs_d: Tensor, window: int) -> None:
    """Adds to `grad` what reaches the images through their own mean and mean square."""
    grad += _blur(by_mu.addcmul_(mu, cs_d), window, adjoint=True)
    grad.addcmul_(images, _blur(cs_d, window, adjoint=True), value=-1)


def _mean_and_variance(images: Tensor, window: int) -> tuple[Tensor, Tensor]:
    mu = _blur(images, window)
    return mu, _blur(images * images, window).addcmul_(mu, mu, value=-1)


def _luminance(mu_x: Tensor, mu_y: Tensor, c1: float) -> tuple[Tensor, Tensor]:
    """l, and its denominator."""
    denominator = mu_x**2 + mu_y**2 + c1
    return (2 * mu_x * mu_y + c1) / denominator, denominator


@functools.lru_cache
def _window(width: int) -> list[float]:
    """The Gaussian window's weights, in float32 as in pytorch-msssim, so that both agree in float64 too."""
    offsets = torch.arange(width, dtype=torch.float32) - width // 2
    weights = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    return (weights / weights.sum()).tolist()


def _blur(maps: Tensor, window: int, adjoint: bool = False) -> Tensor:
    """Weighted means under the window, (..., H, W) -> transposed, (..., W - window + 1, H - window + 1).

    `adjoint` is the way back. The pixelwise statistics do not mind that they are held transposed, and sliding along
    the rows' index is fast where sliding along the columns' is not.
    """
    return _slide(_slide(maps, window, adjoint).mT.contiguous(), window, adjoint)


def _slide(maps: Tensor, window: int, adjoint: bool) -> Tensor:
    """One pass of the separable window: (..., H, W) -> (..., H - window + 1, W), or with `adjoint` + window - 1."""
    weights = _window(window)
    height, width = maps.shape[-2:]
    grown = height + (window - 1 if adjoint else 1 - window)
    if maps.device.type == "cpu" and maps.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        # oneDNN's depthwise convolution needs many channels, innermost in memory: the columns serve as such.
        columns = maps.reshape(-1, 1, height, width).permute(0, 3, 1, 2)
        kernel = maps.new_tensor(weights).expand(width, 1, 1, window)
        out = F.conv2d(columns, kernel, padding=(0, window - 1 if adjoint else 0), groups=width)
        return out.permute(0, 2, 3, 1).reshape(*maps.shape[:-2], grown, width)
    if adjoint:
        out = maps.new_zeros(*maps.shape[:-2], grown, width)
        for shift, weight in enumerate(weights):
            out.narrow(-2, shift, height).add_(maps, alpha=weight)
        return out
    out = maps.narrow(-2, 0, grown) * weights[0]
    for shift in range(1, window):
        out.add_(maps.narrow(-2, shift, grown), alpha=weights[shift])
    return out


class _Halve(torch.autograd.Function):
    """Half the side: avg_pool2d(x, 2, padding=(H % 2, W % 2)), several times as fast on a CPU."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        ctx.odd = height % 2, width % 2  # type: ignore[attr-defined]
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


def _by_pytorch_msssim(x: Tensor, y: Tensor, data_range: float, window: int, scales: int) -> Tensor:
    """The same from the package pytorch-msssim, in float32 under autocast too."""
    try:
        from pytorch_msssim import ms_ssim as reference
    except ImportError as error:
        raise UserError("backend 'pytorch_msssim' needs a package: pip install pytorch-msssim") from error
    height, width = x.shape[-2:]
    if min(height, width) <= 16 * (window - 1):
        raise UserError(
            f"backend 'pytorch_msssim' cannot compare images of {height}x{width} with a window of {window} pixels: "
            f"accepted are sides over {16 * (window - 1)}, or backend 'native'"
        )
    with torch.autocast(x.device.type, enabled=False):
        return reference(
            x, y, data_range=data_range, size_average=False, win_size=window, weights=_weights(scales), K=(K1, K2)
        )
