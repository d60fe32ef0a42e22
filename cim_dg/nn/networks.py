"""The small networks that the methods use besides a featurizer and a classifier."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cim_dg.errors import UserError
from cim_dg.nn.working_size import average_to

LARGEST_SMALL_SIDE = 64
"""The side in pixels up to which images count as small: those of digits, not of photographs."""


class TransformationNetwork(nn.Module):
    """CIM's convolutional autoencoder from an image to a weight for every pixel (the TN of Taghanaki et al. 2021).

    Two convolutions of stride 2, then upsampling and a convolution at half the image's side, which gives the mask's
    logits; these are interpolated to the full side. (A transposed convolution would leave a checkerboard, and another
    convolution at full size would cost as much as all the others.) The last layer is initialised so that the mask is
    nearly constant at `initial`: close to the identity, so that a pretrained featurizer still gets natural images.

    A weight depends on the 19 x 19 pixels around it. With `side`, these are pixels of the averaged image, so that the
    part of a large image that decides a weight, and the cost, do not depend on the image's size.

    Args:
        in_channels: C of the images.
        mask_channels: 1 for a mask shared by all channels, or C for one per channel.
        width: channels after the first convolution; twice as many in the middle.
        initial: the mask's value at initialisation, in (0, 1).
        side: images whose smaller side has more pixels are area-averaged to it first, at least 8; None for none.

    Shape:
        (N, C, H, W) in [0, 1], any H and W -> (N, mask_channels, H, W) in (0, 1).
    """

    def __init__(
        self,
        in_channels: int,
        mask_channels: int = 1,
        width: int = 16,
        initial: float = 0.9,
        side: int | None = None,
    ) -> None:
        super().__init__()
        self.side = side
        self.down1 = _convolution(in_channels, width, stride=2)
        self.down2 = _convolution(width, 2 * width, stride=2)
        self.up = _convolution(2 * width, width)
        self.head = nn.Conv2d(width, mask_channels, 3, padding=1)
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias.fill_(math.log(initial / (1 - initial)))  # type: ignore[union-attr]
        # Few channels over many pixels: channels_last takes half the time on a CPU.
        self.to(memory_format=torch.channels_last)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] -> masks (N, mask_channels, H, W) in (0, 1)."""
        half = self.down1(average_to(pixels, self.side).contiguous(memory_format=torch.channels_last))
        quarter = self.down2(half)
        # To the exact sizes of the way down, so that odd sides are restored.
        up = self.up(F.interpolate(quarter, size=half.shape[-2:], mode="nearest"))
        return torch.sigmoid(F.interpolate(self.head(up), size=pixels.shape[-2:], mode="bilinear"))


def _convolution(n_in: int, n_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)
    )


class GaussianBottleneck(nn.Module):
    r"""The encoder :math:`q(z|x) = N(\mu(x), \mathrm{diag}\,\sigma^2(x))` of a variational information bottleneck.

    Training samples z by the reparametrisation :math:`z = \mu + \sigma \epsilon`; evaluation takes the mean
    (Alemi et al. 2016, arXiv 1612.00410). The scale is softplus(s - 5), as in that paper's experiments, plus 1e-6, so
    that the closed-form KL never takes the logarithm of 0.

    Args:
        n_in: length of the features.
        n_out: length of the code z; also the attribute `n_outputs`.

    Shape:
        (N, n_in) features -> z (N, n_out), and the KL divergence of q(z|x) to N(0, I) per row, (N,), in nats.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.encode = nn.Linear(n_in, 2 * n_out)
        self.n_outputs = n_out

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(N, n_in) -> z (N, n_out) and the KL divergence of each row (N,), both float32 at least."""
        mean, scale = self.encode(features).float().chunk(2, dim=1)
        scale = F.softplus(scale - 5.0) + 1e-6
        z = mean + scale * torch.randn_like(scale) if self.training else mean
        return z, kl_to_standard_normal(mean, scale)


def kl_to_standard_normal(mean: Tensor, scale: Tensor) -> Tensor:
    r"""KL(N(mean, diag scale^2) || N(0, I)) of each row, in nats.

    .. math:: \tfrac12 \sum_j \left(\sigma_j^2 + \mu_j^2 - 1\right) - \sum_j \log \sigma_j

    (Kingma & Welling 2013, appendix B.)

    Shape:
        mean, scale (N, D), scale > 0 -> (N,), at least 0.
    """
    return (0.5 * (scale**2 + mean**2 - 1.0) - scale.log()).sum(dim=1)


class ProjectionHead(nn.Module):
    """Maps features to the unit sphere, where a contrastive loss compares them (Khosla et al. 2020, section 3.1).

    Args:
        n_in: length of the features.
        n_out: length of the projection.

    Shape:
        (N, n_in) -> (N, n_out), rows of Euclidean length 1.
    """

    def __init__(self, n_in: int, n_out: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(n_in, n_in), nn.ReLU(inplace=True), nn.Linear(n_in, n_out))

    def forward(self, features: Tensor) -> Tensor:
        """(N, n_in) -> (N, n_out), rows of length 1."""
        return F.normalize(self.layers(features), dim=1)


class DomainGenerator(nn.Module):
    """An image from a code and a domain: a smaller version of DCoDR's generator (Kahana & Hoshen 2022).

    From 4 x 4 it doubles the side four times. After each convolution, adaptive instance normalisation (Huang &
    Belongie 2017, arXiv 1703.06868) sets every channel's mean and scale from a learnt embedding of the domain. The
    domain enters in no other way, so that the code need not hold it.

    Args:
        n_in: length of the code.
        num_domains: how many domains there are.
        out_channels: C of the images.
        width: channels of every layer (256 in the paper).

    Shape:
        (N, n_in) codes, (N,) domains -> (N, C, 64, 64) in (0, 1).
    """

    def __init__(self, n_in: int, num_domains: int, out_channels: int, width: int = 64) -> None:
        super().__init__()
        self.width = width
        self.embedding = nn.Embedding(num_domains, width)
        self.start = nn.Linear(n_in, width * 16)
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(4))
        self.modulations = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(4))
        self.last = nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(self, code: Tensor, domain: Tensor) -> Tensor:
        """(N, n_in) codes, (N,) domains -> images (N, C, 64, 64) in (0, 1)."""
        embedding = self.embedding(domain)
        x = F.leaky_relu(self.start(code)).view(-1, self.width, 4, 4)
        for convolution, modulation in zip(self.convolutions, self.modulations, strict=True):
            x = F.instance_norm(F.leaky_relu(convolution(F.interpolate(x, scale_factor=2.0))))
            scale, shift = modulation(embedding)[:, :, None, None].chunk(2, dim=1)
            x = (1 + scale) * x + shift
        return torch.sigmoid(self.last(x))


def freeze_batch_norm(network: nn.Module) -> None:
    """Make batch normalisation use its running statistics. `train()` undoes it, so call it again after that."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


class SmallCNN(nn.Module):
    """A featurizer for small images of any side from 8 pixels up, quick on a CPU.

    Three convolutions of stride 2 with group normalisation, which, unlike batch normalisation, does not mix the domains
    of a batch; then averages over a grid of 4 x 4, which keep coarse positions.

    Args:
        in_channels: C of the images.
        width: channels after the first convolution, a multiple of 8; each further convolution doubles them.

    Shape:
        (N, C, H, W) -> (N, n_outputs), n_outputs = 64 * width.

    Raises:
        UserError: another width, or one above 4096.
    """

    def __init__(self, in_channels: int, width: int = 16) -> None:
        super().__init__()
        if width not in range(8, 4097, 8):
            raise UserError(f"width is {width!r}; accepted is a multiple of 8 from 8 to 4096")
        widths = [in_channels, width, 2 * width, 4 * width]
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            layers += [nn.Conv2d(n_in, n_out, 3, stride=2, padding=1), nn.GroupNorm(8, n_out), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.n_outputs = 16 * widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> features (N, n_outputs)."""
        return self.layers(x)
