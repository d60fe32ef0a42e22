r"""How much of a step's gradient is the same in every step.

With g the gradient of a step, mu its mean over steps and Sigma its covariance, the signal-to-noise ratio of a step is

.. math:: SNR = \frac{|\mu|^2}{\operatorname{tr} \Sigma}, \qquad \operatorname{tr} \Sigma = E|g - \mu|^2.

Its inverse is the number of steps whose mean gradient holds as much signal as noise: the simple noise scale of
McCandlish, Kaplan, Amodei et al. 2018, "An Empirical Model of Large-Batch Training" (arXiv 1812.06162), in steps.

The squared norm of a mean of n gradients would be too large by tr(Sigma) / n, and is above 0 without any signal. Here
products of different draws take its place, whose mean is `|mu|^2` (a U-statistic). An estimate can therefore be
below 0.

MS-SSIM has gradients with heavy tails: one draw may hold most of tr(Sigma). The ratio of directions, of gradients that
are each scaled to length 1, does not depend on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEWEST = 4
"""The smallest number of draws that `signal_to_noise` takes."""
DECAY = 0.95
"""Of the weights of `RunningSignal`: as many draws count as in a plain mean of (1 + DECAY) / (1 - DECAY) = 39."""


@dataclass(frozen=True)
class Estimate:
    """An estimate with its 95% interval, and its standard error and degrees of freedom if it has a t interval."""

    value: float
    low: float
    high: float
    error: float = math.nan
    degrees: float = math.nan

    @classmethod
    def of_t(cls, value: float, error: float, degrees: float) -> Estimate:
        """`value` with the t interval of a standard error."""
        from scipy.special import stdtrit  # imported here: every run imports this file

        half = float(stdtrit(degrees, 0.975)) * error
        return cls(value, value - half, value + half, error, degrees)


def signal_to_noise(gradients: Tensor) -> Estimate:
    """The signal-to-noise ratio of gradients (n, P), a row per independent draw, n >= 4; equation in the module.

    `|mu|^2` is the mean of g_i g_j over i != j, tr(Sigma) that of `|g_i - g_j|^2 / 2`. The interval has the standard
    error of their ratio r to first order: that of the U-statistic with kernel `(g_i g_j - r |g_i - g_j|^2 / 2) /
    tr(Sigma)`.

    Raises:
        ValueError: there are fewer than 4 draws.
    """
    n = len(gradients)
    if n < FEWEST:
        raise ValueError(f"there are {n} draws; at least {FEWEST} are needed")
    products = (gradients @ gradients.T).double()
    squares = products.diagonal()
    half_distances = (squares[:, None] + squares[None, :]) / 2 - products
    pairs = n * (n - 1)
    noise = half_distances.sum().item() / pairs
    if noise <= 0:  # all gradients are the same, such as 0
        return Estimate.of_t(0.0, 0.0, n - 1)
    ratio = (products.sum() - squares.sum()).item() / pairs / noise
    return Estimate.of_t(ratio, math.sqrt(u_statistic_variance((products - ratio * half_distances) / noise)), n - 1)


def u_statistic_variance(kernel: Tensor) -> float:
    """The variance of the mean of a symmetric `kernel` (n, n), n >= 4, over its places off the diagonal.

    It is that mean squared, less the mean of k_ij k_kl over four different draws, which is unbiased for the square of
    the expectation. The variance is at least 2 / (n (n - 1)) of the kernel's own, which is its value without a linear
    part (Hoeffding 1948); an estimate below that is raised to it.
    """
    n = len(kernel)
    kernel = kernel - torch.diag(kernel.diagonal())
    pairs = n * (n - 1)
    total, squares = kernel.sum().item(), kernel.square().sum().item()
    sharing_one = kernel.sum(dim=1).square().sum().item() - squares
    of_four = (total**2 - 4 * sharing_one - 2 * squares) / (pairs * (n - 2) * (n - 3))
    mean = total / pairs
    return max(mean**2 - of_four, 2 * (squares / pairs - mean**2) / pairs)


def directions(gradients: Tensor) -> Tensor:
    """Gradients (..., P), each scaled to length 1; zeros stay."""
    return F.normalize(gradients, dim=-1, eps=1e-30)


def flat_gradient(scalar: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """The gradient (P,) of a scalar in `parameters`, float32; their `grad` and the scalar's graph stay as they are."""
    gradients = torch.autograd.grad(scalar, parameters, retain_graph=True)
    return torch.cat([gradient.flatten().float() for gradient in gradients])


class RunningSignal(nn.Module):
    """The signal-to-noise ratio of the directions of a term's gradient in training, from every k-th step.

    The sums over draws have weights that decrease by `DECAY` from draw to draw, so the estimate follows the training.
    The parameters change between draws, which lowers it. It is 0 before the second draw. The sums are part of the state
    dict. Nothing waits for a GPU or draws random numbers.

    Args:
        network: the module in whose parameters the gradient is; it belongs to the module that has this one.
        every: k, at least 1.
    """

    gradient: Tensor
    norm: Tensor
    weight: Tensor
    squared: Tensor

    def __init__(self, network: nn.Module, every: int) -> None:
        super().__init__()
        self.every = every
        self.steps = 0
        # In lists, which the replicas of DataParallel share with the module that they are copies of: its parameters are
        # those of the gradient, and it sums up what all have seen.
        self._network = [network]
        self._seen: list[Tensor] = []
        # Over draws i of weight w_i: the sums of w_i g_i, of w_i |g_i|^2, of w_i, and of w_i^2 |g_i|^2.
        self.register_buffer("gradient", torch.zeros(sum(each.numel() for each in network.parameters())))
        for name in ("norm", "weight", "squared"):
            self.register_buffer(name, torch.zeros(()))

    def see(self, term: Tensor) -> None:
        """Take the gradient of `term`, a scalar, if this step is one of those that count and the term has one."""
        if self.steps % self.every == 0 and term.requires_grad:
            self._seen.append(flat_gradient(term, list(self._network[0].parameters())))

    def after_step(self) -> None:
        """Add the step's draw: the mean of the gradients seen, those of replicas or of accumulated batches."""
        self.steps += 1
        if not self._seen:
            return
        draw = directions(torch.stack([gradient.to(self.gradient.device) for gradient in self._seen]).mean(dim=0))
        self._seen.clear()
        norm = draw.square().sum()
        self.gradient.mul_(DECAY).add_(draw)
        self.norm.mul_(DECAY).add_(norm)
        self.weight.mul_(DECAY).add_(1.0)
        self.squared.mul_(DECAY**2).add_(norm)

    def value(self) -> Tensor:
        """The estimate, a scalar."""
        # The sums of w_i w_j g_i g_j and of w_i w_j |g_i - g_j|^2 / 2 over pairs of different draws.
        square, norms = self.gradient.square().sum(), self.weight * self.norm
        products, distances = square - self.squared, norms - square
        return torch.where(distances > 1e-6 * norms, products / distances, 0.0)

    def get_extra_state(self) -> Tensor:
        """The number of steps, for `state_dict`."""
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Any) -> None:
        """Restore it, for `load_state_dict`."""
        self.steps = int(state)
