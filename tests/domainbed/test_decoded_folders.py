"""Image folders with the cache of decoded images give the images that they give without it, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from real_domainbed import RealDomainBed, write_photographs
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import ColorJitter, Compose, Normalize, RandomResizedCrop, Resize, ToTensor

from cim_dg.domainbed import decoded_folders
from cim_dg.domainbed.decoded_folders import DecodedFolder, use_cache
from cim_dg.domainbed.shared_loaders import SharedDataLoader
from cim_dg.images.cache import ImageCache

NORMALISED = (ToTensor(), Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
PLAIN = Compose([Resize((224, 224)), *NORMALISED])
AUGMENTED = Compose([RandomResizedCrop(24), ColorJitter(0.3, 0.3, 0.3, 0.3), *NORMALISED])
SMALLER = Compose([Resize((32, 32)), *NORMALISED])

SCRIPT = """
import hashlib, itertools, os, sys
import torch
from domainbed import datasets
from domainbed.lib import misc
from domainbed.lib.fast_data_loader import FastDataLoader, InfiniteDataLoader
if sys.argv[2] == "shared":
    from cim_dg.domainbed.shared_loaders import share_loaders
    share_loaders()
torch.manual_seed(0)
dataset = datasets.VLCS(sys.argv[1], [1], {"data_augmentation": True})
print([type(environment).__name__ for environment in dataset])
digest = hashlib.sha256()
for environment in (dataset[0], dataset[1]):
    out, in_ = misc.split_dataset(environment, 2, 0)
    trained = itertools.islice(InfiniteDataLoader(in_, None, 4, dataset.N_WORKERS), 12)
    for x, y in itertools.chain(trained, FastDataLoader(out, 64, dataset.N_WORKERS)):
        digest.update(x.numpy().tobytes() + y.numpy().tobytes())
print(digest.hexdigest(), torch.rand(1).item())
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CIM_DG_CACHE", str(tmp_path / "cache"))
    write_photographs(tmp_path, "VLCS")
    return tmp_path / "VLCS" / "SUN09"


def both(folder: Path, transform: Any) -> tuple[ImageFolder, DecodedFolder]:
    environments: list[Any] = [ImageFolder(str(folder), transform=transform)]
    use_cache(environments)
    assert type(environments[0]) is DecodedFolder
    return ImageFolder(str(folder), transform=transform), environments[0]


def batches(dataset: Any, workers: int, kind: Any = DataLoader) -> list[Any]:
    torch.manual_seed(1)
    loader = kind(dataset, num_workers=workers, batch_sampler=[[3, 1, 2], [0, 7], [5, 6, 4]])
    return [*loader, torch.rand(1)]


@pytest.mark.parametrize("transform", [PLAIN, AUGMENTED, SMALLER, None])
def test_items_are_the_same(folder: Path, transform: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    without, cached = both(folder, transform)
    assert cached.classes == without.classes and cached.samples == without.samples
    with monkeypatch.context() as patch:
        patch.setattr(ImageFolder, "__getitem__", None)  # nothing is decoded again
        torch.manual_seed(1)
        actual = [cached[index] for index in range(len(cached))]
    torch.manual_seed(1)
    for (x, y), (expected, target) in zip(actual, (without[index] for index in range(len(without))), strict=True):
        assert y == target
        assert torch.equal(x, expected) if transform else (x.mode, x.tobytes()) == (expected.mode, expected.tobytes())


@pytest.mark.parametrize("kind", [DataLoader, SharedDataLoader])
@pytest.mark.parametrize("transform", [PLAIN, AUGMENTED])
def test_processes_of_loaders_read_the_same(folder: Path, transform: Any, kind: Any) -> None:
    without, cached = both(folder, transform)
    for actual, expected in zip(batches(cached, 2, kind), batches(without, 2), strict=True):
        assert all(map(torch.equal, actual, expected))


def test_other_files_and_transforms_are_read_as_without_the_cache(folder: Path) -> None:
    without, cached = both(folder, PLAIN)
    assert cached.is_a_copy_of_memory
    for environment in (without, cached):
        environment.samples = environment.samples[::-1]
    assert torch.equal(cached[0][0], without[0][0])
    assert torch.equal(cached.minibatch([0, 2])[0][1], without[2][0])
    without.transform = cached.transform = SMALLER
    assert not cached.is_a_copy_of_memory
    assert torch.equal(cached[1][0], without[1][0])


def test_without_a_cache_or_with_another_loader_folders_stay_as_they_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    of_another_loader: list[Any] = [ImageFolder(str(folder), transform=PLAIN, loader=lambda path: None)]
    use_cache(of_another_loader)
    monkeypatch.setattr(decoded_folders, "image_cache", lambda: ImageCache(folder.parent / "small", limit=0))
    without_room: list[Any] = [ImageFolder(str(folder), transform=PLAIN)]
    use_cache(without_room)
    assert "they are decoded at every use" in capfd.readouterr().err
    monkeypatch.setattr(decoded_folders, "image_cache", lambda: None)
    without_cache: list[Any] = [ImageFolder(str(folder), transform=PLAIN)]
    use_cache(without_cache)
    assert {type(one) for (one,) in (of_another_loader, without_room, without_cache)} == {ImageFolder}


@pytest.mark.harness
@pytest.mark.slow
def test_domainbeds_own_datasets_and_loaders(real: RealDomainBed, tmp_path: Path) -> None:
    write_photographs(tmp_path, "VLCS")
    digests = set()
    for switch, loaders in (("0", "own"), ("0", "shared"), ("1", "own"), ("1", "shared")):
        variables = {"CIM_DG_CACHE_DOMAINBED": switch, "CIM_DG_CACHE": str(tmp_path / "cache")}
        done = real.python("-c", SCRIPT, str(tmp_path), loaders, **variables)
        assert done.returncode == 0, done.stderr
        types, digest = done.stdout.splitlines()
        assert types == str(4 * ["DecodedFolder" if switch == "1" else "ImageFolder"])
        digests.add(digest)
    assert len(digests) == 1
    packs = [path.name for path in (tmp_path / "cache").glob("*.pack")]
    assert len(packs) == 4 and sum("-224-" in name for name in packs) == 1
