"""Image folders are read as DomainBed reads them, and what is not there is told in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from domainbed import datasets
from domainbed.lib.misc import Split
from PIL import Image
from torchvision.transforms import functional

from cim_dg.errors import UserError
from cim_dg.nn.pixels import NAMED

HPARAMS = {"data_augmentation": True}


def _make(name: str, root: str, test_envs: list[int], **hparams: Any) -> Any:
    return datasets.get_dataset_class(name)(root, test_envs, {**HPARAMS, **hparams})


def test_image_folder(photographs: Callable[..., str], tmp_path: Path) -> None:
    vlcs = _make("VLCS", photographs("VLCS", ["VOC2007", "Caltech101", "SUN09", "LabelMe"]), test_envs=[1])
    assert len(vlcs) == 4
    assert vlcs.input_shape == (3, 224, 224)
    assert vlcs.num_classes == 2
    assert (vlcs.CHECKPOINT_FREQ, vlcs.N_STEPS) == (300, 5001)
    image = Image.open(tmp_path / "VLCS" / "LabelMe" / "dog" / "1.png")
    x, y = vlcs[1][3]
    expected = functional.to_tensor(functional.resize(image, [224, 224]))
    expected = functional.normalize(expected, *NAMED["imagenet"])
    assert torch.equal(x, expected)
    assert y == 1
    assert torch.equal(vlcs[1][3][0], x), "a test environment is augmented"
    assert not torch.equal(vlcs[0][3][0], vlcs[0][3][0]), "a training environment is not augmented"
    plain = _make("VLCS", str(tmp_path), test_envs=[1], data_augmentation=False)
    assert torch.equal(plain[0][3][0], plain[0][3][0])
    assert Split(vlcs[0], [3, 0]).labels() == [1, 0]


@pytest.mark.parametrize(
    ("name", "folder", "count"),
    [("PACS", "PACS", 4), ("OfficeHome", "office_home", 4), ("TerraIncognita", "terra_incognita", 4)],
)
def test_folder_names(name: str, folder: str, count: int, photographs: Callable[..., str]) -> None:
    root = photographs(folder, datasets.get_dataset_class(name).ENVIRONMENTS)
    assert len(_make(name, root, [0])) == datasets.num_environments(name) == count


def test_folders_that_are_not_as_they_should_be(photographs: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"there is no folder {tmp_path}/VLCS: VLCS is expected there.*C, L, S, V"):
        _make("VLCS", str(tmp_path), [0])
    photographs("VLCS", ["C", "L", "S"])
    with pytest.raises(UserError, match=r"has 3 folders \(C, L, S\); VLCS needs 4"):
        _make("VLCS", str(tmp_path), [0])
    photographs("VLCS", ["V"], classes=("cat", "dgo"))
    with pytest.raises(UserError, match=r"VLCS/C \(cat, dog\) are not those of .*VLCS/V \(cat, dgo\)"):
        _make("VLCS", str(tmp_path), [0])
    (tmp_path / "PACS").mkdir()
    for environment in "acps":
        (tmp_path / "PACS" / environment).mkdir()
    with pytest.raises(UserError, match="PACS is not as PACS should be"):
        _make("PACS", str(tmp_path), [0])


def test_mnist_that_cannot_be_read(mnist: str, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    with pytest.raises(UserError, match=f"expected in {raw}; there is no .*t10k-labels-idx1-ubyte"):
        _make("ColoredMNIST", str(tmp_path), [0])
    for file in Path(mnist, "MNIST", "raw").iterdir():
        (raw / file.name).write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match=f"files in {raw} cannot be read"):
        _make("ColoredMNIST", str(tmp_path), [0])


def test_colours_agree_with_labels_at_the_environments_rate() -> None:
    torch.manual_seed(0)
    digits = torch.arange(4000) % 10
    images = torch.full((4000, 2, 2), 255, dtype=torch.uint8)
    for rate in datasets.ColoredMNIST.DISAGREEMENT:
        x, y = datasets.ColoredMNIST._coloured(images, digits, rate).tensors
        colour = x.mean(dim=(2, 3)).argmax(1)
        assert torch.equal(x.sum(1), torch.ones(4000, 2, 2))
        assert (colour != y).float().mean().item() == pytest.approx(rate, abs=0.03)
        assert (y != (digits < 5)).float().mean().item() == pytest.approx(0.25, abs=0.03)


def test_names() -> None:
    assert [name for name in datasets.DATASETS if datasets.num_environments(name) < 3] == []
    with pytest.raises(UserError, match=r"no dataset 'MultipleDomainDataset'.*VLCS"):
        datasets.get_dataset_class("MultipleDomainDataset")
