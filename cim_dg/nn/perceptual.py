"""Multi-scale structural similarity (MS-SSIM), and the two similarities of CIM's triplet in one pass.

Definition (Wang, Simoncelli, Bovik, "Multiscale structural similarity for image quality assessment", 2003; the local
statistics are those of Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment", 2004). With a Gaussian window of
standard deviation 1.5, applied only where it lies inside the image, giving local means mu, variances sigma^2 and
covariance sigma_xy, and C1 = (0.01 L)^2, C2 = (0.03 L)^2 for pixels in a range of length L,

    l  = (2 mu_x mu_y + C1) / (mu_x^2 + mu_y^2 + C1)                        luminance
    cs = (2 sigma_xy + C2) / (sigma_x^2 + sigma_y^2 + C2)                   contrast and structure
    MS-SSIM = mean over channels of   mean(l cs at scale M)^w_M  *  prod over j < M of mean(cs at scale j)^w_j

where mean() is over pixels, each scale has half the side of the one before (the average of 2x2 pixels; an odd side is
padded with one row or column of zeros first), and a mean below 0 counts as 0. pytorch-msssim computes the same for the
sizes that it accepts.

The number of scales and the window depend on the size, so that every image from 7x7 up has a value
(`scales_and_window`). With s the smaller side:

    s > 160      11 pixels and 5 scales: the published setting
    s <= 160     7 pixels and as many scales, 1 to 5, as leave the coarsest image a side of at least 7

The weights w are the five published ones, as printed (they sum to 1.0001); for M < 5 scales, the first M of them,
divided by their sum.

The factor x^w has an infinite slope at 0, and means at or below 0 do occur (an image against its inverse). Below 1e-6
it is therefore replaced by the straight line through 0 that meets it there, and by 0 for x < 0, so that the gradient is
finite everywhere.

Between photographs, many means are at or below 0 and give no gradient. With `normalize="simple"`, as it is called in
torchmetrics, (1 + m) / 2 takes the place of every mean m, which has a gradient everywhere. The value is then a monotone
similarity in [0, 1], but not the published MS-SSIM.

The means of cs and l cs, with their analytic gradient, are in cim_dg/nn/local_similarity.py for CPUs and in
cim_dg/nn/pyramid_similarity.py for GPUs; benchmarks/perceptual.py compares the speed with pytorch-msssim's on a CPU,
benchmarks/gpu on a GPU.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from cim_dg.errors import UserError
from cim_dg.nn.local_similarity import halve, local_similarity
from cim_dg.nn.pyramid_similarity import pyramid_similarity
from cim_dg.nn.scale_product import scale_product

__all__ = ["ms_ssim", "pair_similarities", "scales_and_window", "triplet_ms_ssim"]

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
K1, K2 = 0.01, 0.03
SMALL_WINDOW, FULL_WINDOW = 7, 11
FULL_SIDE = (FULL_WINDOW - 1) * 2 ** (len(WEIGHTS) - 1)  # 160: five halvings of a larger side hold 11 pixels
FLOOR = 1e-6  # where x^w gives way to a straight line
BACKENDS = ("native", "pytorch_msssim")
NORMALIZE = ("relu", "simple")


def ms_ssim(
    x: Tensor,
    y: Tensor,
    data_range: float = 1.0,
    *,
    window: int | None = None,
    scales: int | None = None,
    backend: str = "native",
    normalize: str = "relu",
) -> Tensor:
    """MS-SSIM of each image of `x` to the one at its place in `y` (equation in the module's docstring).

    Differentiable once in both; deterministic. Half-precision images are compared in float32, under autocast too.

    Args:
        x, y: (N, C, H, W), floating point, pixels in an interval of length `data_range`.
        window, scales: override `scales_and_window`: an odd width of at least 3, and 1 to 5. The coarsest image must
            hold the window.
        backend: "native", or "pytorch_msssim" for that library: sides over 16 * (window - 1) only, and a gradient
            without bound where a factor is near 0.
        normalize: "relu", the definition, or "simple" (see the module's docstring; backend "native" only).

    Returns:
        (N,) similarities in [0, 1] (up to rounding), 1 for equal images; float64 if the images are, else float32.

    Raises:
        UserError: a shape, type or option that is not as above.
    """
    if x.shape != y.shape:
        raise UserError(f"images of shapes {tuple(x.shape)} and {tuple(y.shape)}: ms_ssim compares equal shapes")
    x, y = _as_comparable(x, y)
    window, scales = _checked_options(x, data_range, window, scales, backend, normalize)
    if backend == "pytorch_msssim":
        return _by_pytorch_msssim(x, y, data_range, window, scales)
    index = torch.arange(len(y), device=y.device).unsqueeze(0)
    return _similarities(x, y, index, data_range, window, scales, normalize)[0][0]


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
    normalize: str = "relu",
) -> tuple[Tensor, Tensor]:
    """MS-SSIM of `morphed[i]` to `images[positive[i]]` and to `images[negative[i]]`: CIM's two terms in one pass.

    Equal to two calls of `ms_ssim`, and faster (measured on CPUs). Differentiable once, in `morphed` and `images`;
    never waits for a GPU. The gradient to `images` adds up rows with `index_add_`, which on a GPU is deterministic only
    under `torch.use_deterministic_algorithms`.

    Args:
        morphed: (A, C, H, W), the anchors; pixels as in `ms_ssim`.
        images: (N, C, H, W), the images to compare them with.
        positive, negative: (A,) int64, rows of `images`, or -1 for none. Other values are not checked, since a check
            would wait for the GPU.
        window, scales, backend, normalize: as in `ms_ssim`.

    Returns:
        Two (A,) similarities, as in `ms_ssim`. For an index of -1 the similarity is 0 and has no gradient.

    Raises:
        UserError: a shape, type or option that is not as above.
    """
    _check_shapes(morphed, images)
    for name, rows in (("positive", positive), ("negative", negative)):
        if rows.shape != morphed.shape[:1] or rows.dtype != torch.int64:
            raise UserError(
                f"{name} has shape {tuple(rows.shape)} and type {rows.dtype}: "
                f"accepted is int64 of shape ({len(morphed)},), one row for each morphed image"
            )
    index = torch.stack([positive, negative])
    values, _ = pair_similarities(
        morphed, images, index, data_range, window=window, scales=scales, backend=backend, normalize=normalize
    )
    positives, negatives = values
    return positives, negatives


def pair_similarities(
    morphed: Tensor,
    images: Tensor,
    index: Tensor,
    data_range: float = 1.0,
    *,
    window: int | None = None,
    scales: int | None = None,
    backend: str = "native",
    normalize: str = "relu",
) -> tuple[Tensor, Tensor]:
    """The similarities of `morphed[a]` to `images[index[k, a]]`; see `triplet_ms_ssim`, which has two rows k.

    Args:
        morphed, images, data_range, window, scales, backend, normalize: as there.
        index: (K, A) int64, rows of `images`, or -1 for none.

    Returns:
        (K, A) similarities as `normalize` determines, and (K, A), without gradient unless it is the same, MS-SSIM as
        published. Both are 0 for an index of -1.

    Raises:
        UserError: a shape, type or option that is not accepted.
    """
    _check_shapes(morphed, images)
    if len(morphed) and not len(images):
        raise UserError("images is empty: at least one image is needed to compare with")
    morphed, images = _as_comparable(morphed, images)
    window, scales = _checked_options(morphed, data_range, window, scales, backend, normalize)
    # For -1, row 0 is compared and dropped below: selecting the other rows would wait for the GPU.
    rows = index.clamp(min=0)
    if backend == "pytorch_msssim":
        similarities = [_by_pytorch_msssim(morphed, images[row], data_range, window, scales) for row in rows]
        values = published = torch.stack(similarities)
    else:
        if len(images) > rows.numel() and _is_on_cpu(images):  # a large pool of images: only those in use
            images = images.index_select(0, rows.flatten())
            rows = torch.arange(rows.numel(), device=rows.device).view_as(rows)
        values, published = _similarities(morphed, images, rows, data_range, window, scales, normalize)
    exists = index >= 0
    masked = values * exists
    return masked, masked if published is values else published * exists


def scales_and_window(height: int, width: int) -> tuple[int, int]:
    """Number of scales (1 to 5) and width of the window (7 or 11 pixels) for an image of this size.

    Raises:
        UserError: the smaller side is under 7 pixels.
    """
    side = min(height, width)
    if side < SMALL_WINDOW:
        raise UserError(
            f"images of {height}x{width} pixels are too small for MS-SSIM: sides of at least 7 are accepted"
        )
    window = FULL_WINDOW if side > FULL_SIDE else SMALL_WINDOW
    return _most_scales(side, window), window


def _most_scales(side: int, window: int) -> int:
    """The largest number of scales whose coarsest image holds the window, at least 1."""
    return max(n for n in range(1, len(WEIGHTS) + 1) if n == 1 or _coarsest(side, n) >= window)


def _coarsest(side: int, scales: int) -> int:
    """The side of the coarsest image; half an odd side is rounded up."""
    return -(-side // 2 ** (scales - 1))


def _weights(scales: int) -> list[float]:
    """The exponents of the factors; see the module's docstring."""
    total = 1.0 if scales == len(WEIGHTS) else sum(WEIGHTS[:scales])
    return [weight / total for weight in WEIGHTS[:scales]]


def _check_shapes(morphed: Tensor, images: Tensor) -> None:
    if morphed.ndim != 4 or images.ndim != 4 or morphed.shape[1:] != images.shape[1:]:
        raise UserError(
            f"morphed {tuple(morphed.shape)} and images {tuple(images.shape)}: accepted are (A, C, H, W) and "
            "(N, C, H, W) with the same C, H and W"
        )


def _as_comparable(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64 if one of them is, else in float32, after checks of shape and type."""
    for images in (x, y):
        if images.ndim != 4 or images.shape[1] == 0:
            raise UserError(
                f"images of shape {tuple(images.shape)}: accepted is (N, C, H, W) with at least one channel"
            )
        if not images.is_floating_point():
            raise UserError(f"images of type {images.dtype}: a floating point type is accepted")
    dtype = torch.float64 if torch.float64 in (x.dtype, y.dtype) else torch.float32
    return x.to(dtype).contiguous(), y.to(dtype).contiguous()


def _checked_options(
    images: Tensor, data_range: float, window: int | None, scales: int | None, backend: str, normalize: str
) -> tuple[int, int]:
    height, width = images.shape[-2:]
    side = min(height, width)
    if backend not in BACKENDS:
        raise UserError(f"backend {backend!r} is not known: accepted are {', '.join(BACKENDS)}")
    if normalize not in NORMALIZE or (normalize != "relu" and backend != "native"):
        accepted = "relu, or simple with backend 'native'"
        raise UserError(f"normalize {normalize!r} with backend {backend!r}: accepted is {accepted}")
    if not (math.isfinite(data_range) and data_range > 0):
        raise UserError(f"data_range is {data_range}: accepted is a finite number above 0")
    if scales is not None and not (isinstance(scales, int) and 1 <= scales <= len(WEIGHTS)):
        raise UserError(f"scales is {scales}: accepted is 1 to {len(WEIGHTS)}")
    if window is None:
        _, window = scales_and_window(height, width)
    elif not (isinstance(window, int) and window >= 3 and window % 2 == 1):
        raise UserError(f"window is {window}: accepted is an odd number of pixels, at least 3")
    scales = _most_scales(side, window) if scales is None else scales
    if _coarsest(side, scales) < window:
        raise UserError(
            f"a window of {window} pixels does not fit images of {height}x{width} halved {scales - 1} times: "
            "accepted is a smaller window, fewer scales or larger images"
        )
    return window, scales


def _similarities(
    x: Tensor, y: Tensor, index: Tensor, data_range: float, window: int, scales: int, normalize: str
) -> tuple[Tensor, Tensor]:
    """(K, A): similarities of x[a] to y[index[k, a]] for x (A, C, H, W), y (N, C, H, W), index (K, A); and MS-SSIM."""
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    if _is_on_cpu(x):
        each = []
        for scale in range(scales):
            if scale:
                x, y = halve(x), halve(y)
            each.append(local_similarity(x, y, index, window, c1, c2, with_luminance=scale == scales - 1))
        means = torch.stack(each)
    else:
        means = pyramid_similarity(x, y, index, window, scales, c1, c2)
    if not _is_on_cpu(means):
        return scale_product(means, _weights(scales), FLOOR, simple=normalize == "simple")
    if normalize == "relu":
        values = _product(means)
        return values, values
    return _product(0.5 + 0.5 * means), _product(means.detach())


def _product(means: Tensor) -> Tensor:
    """(K, A): the means (S, K, A, C), each to its scale's power, multiplied over scales and averaged over channels."""
    factors = [_power(mean, weight) for mean, weight in zip(means, _weights(len(means)), strict=True)]
    return functools.reduce(torch.mul, factors).mean(-1)


def _is_on_cpu(images: Tensor) -> bool:
    return images.device.type == "cpu"


def _power(base: Tensor, exponent: float) -> Tensor:
    """base^exponent above FLOOR, the straight line from 0 to there below it, 0 for a negative base."""
    curve = base.clamp(min=FLOOR) ** exponent
    line = torch.relu(base) * FLOOR ** (exponent - 1)
    return torch.where(base > FLOOR, curve, line)


def _by_pytorch_msssim(x: Tensor, y: Tensor, data_range: float, window: int, scales: int) -> Tensor:
    """The same by the package pytorch-msssim, in float32 under autocast too."""
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
