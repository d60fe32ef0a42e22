"""Featurizers of the stand-in, and where the weights of its ResNets come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from domainbed import networks
from torch import nn

from cim_dg.errors import UserError

HPARAMS = {"resnet18": True, "resnet50_augmix": False, "resnet_dropout": 0.0, "freeze_bn": False}
HPARAMS |= {"vit": False, "dinov2": False}


def _resnet(channels: int = 3, **hparams: Any) -> networks.ResNet:
    return networks.Featurizer((channels, 224, 224), {**HPARAMS, **hparams})


@pytest.fixture(autouse=True)
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torchvision"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "timm"), raising=False)


@pytest.mark.parametrize("augmix", [False, True])
@pytest.mark.parametrize("eighteen", [False, True])
def test_augmix_overrides_resnet18(augmix: bool, eighteen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = []
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights: requests.append(name) or nn.Sequential())
    with pytest.raises(AttributeError):  # an empty network has no last layer
        _resnet(weights="random", resnet50_augmix=augmix, resnet18=eighteen)
    assert requests == ["resnet18" if eighteen and not augmix else "resnet50"]


def test_resnet_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = torchvision.models.resnet18(weights=None)
    torch.save(reference.state_dict(), tmp_path / "weights.pt")
    featurizer = _resnet(weights=str(tmp_path / "weights.pt"), resnet_dropout=0.5)
    assert featurizer.weights == str(tmp_path / "weights.pt")
    assert featurizer.n_outputs == 512
    reference.fc = nn.Identity()
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(featurizer.eval()(x), reference.eval()(x))
    features = featurizer.train()(x)
    assert 0.3 < (features == 0).float().mean() < 0.7, "no dropout in training"


def test_channels_repeat_the_pretrained_filters(tmp_path: Path) -> None:
    reference = torchvision.models.resnet18(weights=None)
    torch.save(reference.state_dict(), tmp_path / "weights.pt")
    five = _resnet(channels=5, weights=str(tmp_path / "weights.pt")).network.conv1.weight
    assert five.requires_grad
    assert torch.equal(five, reference.conv1.weight[:, [0, 1, 2, 0, 1]])


def test_frozen_batch_normalisation() -> None:
    x = torch.randn(2, 3, 64, 64)
    for freeze in (False, True):
        featurizer = _resnet(weights="random", freeze_bn=freeze)
        before = featurizer.network.bn1.running_mean.clone()
        featurizer.train()(x)
        assert torch.equal(featurizer.network.bn1.running_mean, before) == freeze


def test_default_weights_are_found_in_torchvisions_cache(tmp_path: Path) -> None:
    reference = torchvision.models.resnet18(weights=None)
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    (tmp_path / "torchvision" / "checkpoints").mkdir(parents=True)
    torch.save(reference.state_dict(), tmp_path / "torchvision" / "checkpoints" / Path(url).name)
    featurizer = _resnet()
    assert featurizer.weights == "IMAGENET1K_V1"
    assert torch.equal(featurizer.network.conv1.weight, reference.conv1.weight)


@pytest.mark.parametrize(
    ("hparams", "complaint"),
    [
        ({}, 'the resnet18 weights IMAGENET1K_V1 are not at .*resnet18-.*: put https://.*"random"'),
        ({"resnet50_augmix": True}, 'the weights resnet50.ram_in1k are not in timm\'s cache.*"random"'),
        ({"weights": "nonesuch"}, "'nonesuch' are neither a file nor known for resnet18 .*IMAGENET1K_V1"),
        ({"vit": True}, "'vit' is true, which needs the real DomainBed"),
    ],
)
def test_weights_that_cannot_be_had(hparams: dict[str, Any], complaint: str) -> None:
    pytest.importorskip("huggingface_hub")
    with pytest.raises(UserError, match=complaint):
        _resnet(**hparams)


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match=r"weights.pt cannot be read"):
        _resnet(weights=str(file))
    torch.save([1], file)
    with pytest.raises(UserError, match="no state_dict but a list"):
        _resnet(weights=str(file))
    torch.save({"conv1.weight": torch.zeros(3)}, file)
    with pytest.raises(UserError, match="not those of a resnet18"):
        _resnet(weights=str(file))


def test_other_shapes() -> None:
    with pytest.raises(NotImplementedError, match="28x28 and 224x224"):
        networks.Featurizer((3, 96, 96), HPARAMS)
    with pytest.raises(UserError, match="'weights' is for images of 224x224"):
        networks.Featurizer((3, 28, 28), {**HPARAMS, "weights": "random"})


def test_classifier() -> None:
    assert isinstance(networks.Classifier(8, 3), nn.Linear)
    nonlinear = networks.Classifier(8, 3, is_nonlinear=True)
    assert [tuple(layer.weight.shape) for layer in nonlinear if isinstance(layer, nn.Linear)] == [
        (4, 8),
        (2, 4),
        (3, 2),
    ]
