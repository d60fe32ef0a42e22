"""Spirograph: drawings whose every factor is known, for invariance to nuisances and for regression of the factors.

The data of Foster, Pukdee & Rainforth 2021 (arXiv 2010.09515): a pen at distance h from the centre of a wheel of radius
b, which rolls inside a ring of radius a = m + b - h, leaves dots of width sigma, in one colour over another. All
random numbers come from a stream or a seed that the caller passes; no global random state is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from numpy.random import RandomState
from torch import Tensor

from cim_dg.errors import UserError
from cim_dg.runtime.seeding import check_seed

SIDE = 32
EXTENT = 6.0  # the grid is [-6, 6] in both directions
POINTS = 40  # of the curve, t from 0 to 2 pi with both ends
CLASSES = 5  # equal bins of m's range

Range = tuple[float | tuple[float, ...], float | tuple[float, ...]]
"""Lowest and highest value; of a colour one number for all channels, or one for each."""

RANGES: dict[str, Range] = {
    "m": (2.0, 5.0),
    "b": (0.1, 1.1),
    "h": (0.5, 2.5),
    "sigma": (0.25, 1.0),
    "fore": (0.4, 1.0),
    "back": (0.0, 0.6),
}
"""The paper's ranges, in which every factor is uniform."""

ENVIRONMENTS: dict[str, dict[str, Range]] = {
    "thin": {"sigma": (0.25, 0.5), "fore": ((0.8, 0.4, 0.4), (1.0, 0.6, 0.6)), "back": (0.0, 0.2)},
    "middle": {"sigma": (0.5, 0.75), "fore": ((0.4, 0.8, 0.4), (0.6, 1.0, 0.6)), "back": (0.2, 0.4)},
    "thick": {"sigma": (0.75, 1.0), "fore": ((0.4, 0.4, 0.8), (0.6, 0.6, 1.0)), "back": (0.4, 0.6)},
}
"""Nuisances by environment: red thin lines on the darkest background, green ones, blue thick ones on the brightest. The
thirds of sigma's and of the background's range do not overlap; m, b and h have their whole range everywhere."""


@dataclass(frozen=True)
class Parameters:
    """The factors of N drawings: m, b, h and sigma (N,), and the colours fore and back (N, 3) in [0, 1]."""

    m: Tensor
    b: Tensor
    h: Tensor
    sigma: Tensor
    fore: Tensor
    back: Tensor

    def targets(self) -> Tensor:
        """The paper's regression targets, (N, 4): m, b, sigma and the red of the foreground."""
        return torch.stack([self.m, self.b, self.sigma, self.fore[:, 0]], dim=1)

    def classes(self) -> Tensor:
        """Which of `CLASSES` equal bins of m's range each m is in, (N,), int64."""
        low, high = (float(end) for end in RANGES["m"])  # type: ignore[arg-type]
        return ((self.m - low) * (CLASSES / (high - low))).long().clamp(0, CLASSES - 1)


def sample(count: int, rng: RandomState, ranges: Mapping[str, Range] = RANGES) -> Parameters:
    """The factors of `count` drawings, independent and uniform; float32.

    Args:
        count: N.
        rng: the random stream, which NumPy has frozen: a seed always gives the same drawings.
        ranges: the factors' ranges; missing ones are those of `RANGES`.
    """
    values = {}
    for name, (low, high) in {**RANGES, **ranges}.items():
        size = (count, 3) if name in ("fore", "back") else (count,)
        values[name] = torch.from_numpy(rng.uniform(low, high, size=size)).float()
    return Parameters(**values)


def draw(parameters: Parameters, side: int = SIDE) -> Tensor:
    r"""The drawings, differentiable in every factor.

    .. math::
        x(t) = (a - b) \cos t + h \cos\tfrac{t (a - b)}{b}, \quad
        y(t) = (a - b) \sin t - h \sin\tfrac{t (a - b)}{b}, \quad a = m + b - h

        v = \operatorname{mean}_t \exp\left(-\frac{(x - x(t))^2 + (y - y(t))^2}{\sigma}\right), \quad
        \text{image} = \frac{v}{\max v} \mathit{fore} + \left(1 - \frac{v}{\max v}\right) \mathit{back}

    over a grid of side x side points of [-6, 6]^2; columns are x, and rows are y from -6 at the top.

    Shape:
        N drawings -> (N, 3, side, side) in [0, 1] for colours of [0, 1], in the parameters' dtype and on their device.

    Raises:
        UserError: a sigma is not positive, or a b is 0.
    """
    if bool((parameters.sigma <= 0).any()) or bool((parameters.b == 0).any()):
        raise UserError("spirograph: every sigma must be above 0 and every b other than 0")
    options = {"dtype": parameters.m.dtype, "device": parameters.m.device}
    t = torch.linspace(0, 2 * math.pi, POINTS, **options)  # type: ignore[call-overload]
    grid = torch.linspace(-EXTENT, EXTENT, side, **options)  # type: ignore[call-overload]
    b, h, sigma = (parameter[:, None] for parameter in (parameters.b, parameters.h, parameters.sigma))
    a_less_b = parameters.m[:, None] - h
    inner = t * a_less_b / b
    x = a_less_b * t.cos() + h * inner.cos()  # (N, POINTS)
    y = a_less_b * t.sin() - h * inner.sin()
    # exp(-(dx^2 + dy^2) / sigma) is a product: the sum over the points is one matrix product.
    along_x, along_y = (torch.exp(-((grid - parameter[..., None]) ** 2) / sigma[..., None]) for parameter in (x, y))
    v = along_y.transpose(1, 2) @ along_x / POINTS  # (N, rows, columns)
    # A curve outside the grid has v = 0 everywhere: its drawing is the plain background.
    v = (v / v.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(v.dtype).tiny))[:, None]
    fore, back = (parameter[:, :, None, None] for parameter in (parameters.fore, parameters.back))
    return v * fore + (1 - v) * back


def environments(seed: int, count: int) -> dict[str, Parameters]:
    """The factors of `count` drawings in each of `ENVIRONMENTS`. They depend on these arguments only.

    Raises:
        UserError: an argument is out of its range.
    """
    check_seed("spirograph_seed", seed)
    if isinstance(count, bool) or not isinstance(count, int) or count < CLASSES:
        raise UserError(f"spirograph_images is {count!r}; it must be a whole number of at least {CLASSES}")
    return {
        name: sample(count, RandomState([seed, index]), ranges)
        for index, (name, ranges) in enumerate(ENVIRONMENTS.items())
    }
