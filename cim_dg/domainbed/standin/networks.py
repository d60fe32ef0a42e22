"""Featurizers and classifiers, with DomainBed's architectures and parameter names."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from cim_dg.errors import UserError
from cim_dg.nn import efficientnet
from cim_dg.nn.networks import freeze_batch_norm


class MNIST_CNN(nn.Module):
    """DomainBed's CNN for 28x28 images: (N, C, 28, 28) -> (N, 128).

    Four 3x3 convolutions (the second halves the side), each followed by ReLU and group normalisation, then the mean
    over all positions. The order in which layers are created fixes a seed's initial weights; names fix the state_dict.
    """

    n_outputs = 128

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(input_shape[0], 64, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(64, 128, kernel_size=3, padding=1, stride=2)
        self.conv3 = nn.Conv2d(128, 128, kernel_size=3, padding=1)
        self.conv4 = nn.Conv2d(128, 128, kernel_size=3, padding=1)
        self.bn0 = nn.GroupNorm(num_groups=8, num_channels=64)
        self.bn1 = nn.GroupNorm(num_groups=8, num_channels=128)
        self.bn2 = nn.GroupNorm(num_groups=8, num_channels=128)
        self.bn3 = nn.GroupNorm(num_groups=8, num_channels=128)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (N, 128) of images (N, C, 28, 28)."""
        stages = ((self.conv1, self.bn0), (self.conv2, self.bn1), (self.conv3, self.bn2), (self.conv4, self.bn3))
        for convolution, norm in stages:
            x = norm(F.relu(convolution(x)))
        return F.adaptive_avg_pool2d(x, 1).flatten(1)


class ResNet(nn.Module):
    """torchvision's ResNet-18 or ResNet-50 without its last layer: (N, C, 224, 224) -> (N, 512 or 2048).

    hparams: `resnet50_augmix` (a ResNet-50 that starts from timm's resnet50.ram_in1k, whatever `resnet18` says),
    `resnet18`, `weights` (see `pretrained`), `resnet_dropout`, `freeze_bn`. Pretrained filters of the first layer are
    repeated for images of other than 3 channels.

    Raises:
        UserError: the weights cannot be loaded.
    """

    def __init__(self, input_shape: tuple[int, ...], hparams: dict[str, Any]) -> None:
        super().__init__()
        import torchvision.models  # imported here: it takes seconds, and jobs on small images do not need it

        from . import pretrained

        eighteen = hparams["resnet18"] and not hparams["resnet50_augmix"]
        architecture = "resnet18" if eighteen else "resnet50"
        self.network: Any = torchvision.models.get_model(architecture, weights=None)
        self.n_outputs: int = self.network.fc.in_features
        self.network.fc = nn.Identity()
        default = pretrained.AUGMIX if hparams["resnet50_augmix"] else pretrained.TORCHVISION_DEFAULT
        self.weights = str(hparams.get("weights", default))
        if self.weights != pretrained.RANDOM:
            pretrained.load(self.network, architecture, self.weights)
        if input_shape[0] != 3:
            self._adapt_to_channels(input_shape[0])
        self.dropout = nn.Dropout(hparams["resnet_dropout"])
        self._freeze_bn = hparams["freeze_bn"]
        self.train()

    def _adapt_to_channels(self, channels: int) -> None:
        filters = self.network.conv1.weight.data
        first = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        first.weight.data = filters[:, [channel % 3 for channel in range(channels)]].clone()
        self.network.conv1 = first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (N, n_outputs) of images (N, C, 224, 224)."""
        return self.dropout(self.network(x))

    def train(self, mode: bool = True) -> ResNet:
        """As nn.Module.train, but with `freeze_bn` batch normalisation keeps using its running statistics."""
        super().train(mode)
        if self._freeze_bn:
            freeze_batch_norm(self.network)
        return self


def Featurizer(input_shape: tuple[int, ...], hparams: dict[str, Any]) -> nn.Module:
    """The featurizer for images (C, H, W): a module with `n_outputs`, (N, C, H, W) -> (N, n_outputs).

    Raises:
        NotImplementedError: there is no featurizer for that shape here.
        UserError: `hparams` select one that only the real DomainBed has.
    """
    side = tuple(input_shape[1:])
    if "weights" in hparams and side != (224, 224):
        raise UserError(f"hyper-parameter 'weights' is for images of 224x224; these inputs are {tuple(input_shape)}")
    if side == (28, 28):
        return MNIST_CNN(input_shape)
    if side == (224, 224):
        for name in ("vit", "dinov2"):
            if hparams[name]:
                raise UserError(
                    f"hyper-parameter {name!r} is true, which needs the real DomainBed: this stand-in has ResNets"
                )
        if hparams.get("weights") == efficientnet.NAME:
            return _efficientnet(input_shape, hparams)
        return ResNet(input_shape, hparams)
    raise NotImplementedError(
        f"there is no featurizer for inputs of shape {tuple(input_shape)}: this stand-in for DomainBed serves images "
        "of 28x28 and 224x224"
    )


def _efficientnet(input_shape: tuple[int, ...], hparams: dict[str, Any]) -> nn.Module:
    if input_shape[0] != 3:
        raise UserError(f"weights {efficientnet.NAME!r} are for images of 3 channels, not {input_shape[0]}")
    return efficientnet.EfficientNetLite0(hparams)


def Classifier(in_features: int, out_features: int, is_nonlinear: bool = False) -> nn.Module:
    """(N, in_features) -> logits (N, out_features): linear, or with two hidden layers, each half of its input."""
    if not is_nonlinear:
        return nn.Linear(in_features, out_features)
    half, quarter = in_features // 2, in_features // 4
    return nn.Sequential(
        nn.Linear(in_features, half), nn.ReLU(), nn.Linear(half, quarter), nn.ReLU(), nn.Linear(quarter, out_features)
    )
