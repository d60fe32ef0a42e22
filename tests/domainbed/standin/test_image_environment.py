"""Image folders give the same images with the cache and without, and decode each file once with it."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bad_files
import pytest
import torch
from domainbed import datasets
from domainbed.lib import fast_data_loader
from domainbed.lib.fast_data_loader import FastDataLoader, InfiniteDataLoader
from domainbed.lib.misc import Split
from PIL import Image
from torchvision import transforms

from cim_dg.data import image_environment
from cim_dg.errors import UserError
from cim_dg.nn.pixels import NAMED

TEST_ENV = 0
PLAIN = transforms.Compose(
    [transforms.Resize((224, 224)), transforms.ToTensor(), transforms.Normalize(*NAMED["imagenet"])]
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CIM_DG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(photographs: Callable[..., str]) -> str:
    """Three environments of six images of 30x20, as PNG, so that what is decoded is known."""
    return photographs("VLCS", ["C", "L", "S", "V"], size=3)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_data_loader, "processes", lambda splits, num_workers: 0)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets an item for every image that this process decodes."""
    keys: list[int] = []
    decode = image_environment.ImageFolderEnvironment._decode

    def counted(self: Any, key: int) -> Any:
        keys.append(key)
        return decode(self, key)

    monkeypatch.setattr(image_environment.ImageFolderEnvironment, "_decode", counted)
    return keys


def vlcs(root: str) -> Any:
    return datasets.get_dataset_class("VLCS")(root, [TEST_ENV], {"data_augmentation": True})


def evaluated(environment: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    loader = FastDataLoader(Split(environment, range(len(environment))), 4, 0)
    return [(x.to("cpu"), y) for x, y in loader]


def trained(dataset: Any, num_workers: int = 2) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Two steps on the training environments."""
    torch.manual_seed(0)
    splits = [Split(environment, range(len(environment))) for environment in dataset.datasets[TEST_ENV + 1 :]]
    steps = iter(InfiniteDataLoader(splits, [None] * len(splits), 3, num_workers))
    return [(x.to("cpu"), y) for _ in range(2) for x, y in next(steps)]


def assert_same(one: list[Any], other: list[Any]) -> None:
    assert len(one) == len(other) > 0
    for (x, y), (expected_x, expected_y) in zip(one, other, strict=True):
        assert torch.equal(x, expected_x) and torch.equal(y, expected_y)


def test_evaluation_is_torchvisions_to_the_bit_and_decodes_once(root: str, decoded: list[int]) -> None:
    environment = vlcs(root)[TEST_ENV]
    decoded.clear()
    first, second, again = evaluated(environment), evaluated(environment), evaluated(vlcs(root)[TEST_ENV])
    assert decoded == [], "images were decoded although they are in the cache"
    assert_same(first, second)
    assert_same(first, again)
    images = torch.cat([x for x, _ in first])
    paths = [Path(root, "VLCS", "C", label, f"{number}.png") for label in ("cat", "dog") for number in range(3)]
    expected = {PLAIN(Image.open(path)).numpy().tobytes() for path in paths}
    assert {image.numpy().tobytes() for image in images} == expected and len(expected) == 6


@pytest.mark.usefixtures("in_this_process")
def test_no_result_depends_on_the_cache(root: str, decoded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    with_cache = vlcs(root)
    assert sorted(decoded) == sorted([*range(6)] * 4)
    decoded.clear()
    results = evaluated(with_cache[TEST_ENV]), evaluated(with_cache[1]), trained(with_cache)
    assert decoded == []
    monkeypatch.setenv("CIM_DG_CACHE", "0")
    without = vlcs(root)
    for one, other in zip(
        results, (evaluated(without[TEST_ENV]), evaluated(without[1]), trained(without)), strict=True
    ):
        assert_same(one, other)
    assert len(decoded) > 18


def test_augmentation_does_not_depend_on_the_number_of_processes(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = vlcs(root)
    results = []
    for processes in (0, 1, 2):
        with monkeypatch.context() as patch:
            patch.setattr(fast_data_loader, "processes", lambda splits, num_workers, processes=processes: processes)
            results.append(trained(dataset))
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])
    images = torch.cat([x for x, _ in results[0]])
    assert len(images.flatten(1).unique(dim=0)) == len(images), "augmentations repeat"


def test_what_the_cache_holds_needs_no_process_but_augmentation_does(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    dataset = vlcs(root)
    splits = [Split(environment, range(6)) for environment in dataset]
    assert [fast_data_loader.processes([split], 8) for split in splits] == [0, 3, 3, 3]
    monkeypatch.setenv("CIM_DG_CACHE", "0")
    assert fast_data_loader.processes([Split(vlcs(root)[TEST_ENV], range(6))], 8) == 3


def test_a_batch_on_its_way_becomes_the_same_images_wherever_its_colours_change(root: str) -> None:
    images, labels = vlcs(root)[1].minibatch([5, 0, 2], seed=3)
    assert images.pixels.dtype == torch.uint8 and images.colours is not None and labels.tolist() == [1, 0, 0]
    assert images.recoloured().colours is None
    assert torch.equal(images.to("cpu"), images.recoloured().to("cpu"))
    other, _ = vlcs(root)[1].minibatch([5, 0, 2], seed=4)
    assert not torch.equal(other.to("cpu"), images.to("cpu"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_images_on_a_gpu_are_those_on_a_cpu(root: str) -> None:
    dataset = vlcs(root)
    plain, _ = dataset[TEST_ENV].minibatch(range(6), seed=0)
    assert torch.equal(plain.to("cuda").cpu(), plain.to("cpu"))
    augmented, _ = dataset[1].minibatch(range(6), seed=0)
    levels = (augmented.to("cuda").cpu() - augmented.to("cpu")) * 255 * torch.tensor(NAMED["imagenet"][1]).view(3, 1, 1)
    assert levels.abs().max() < 1.01


def test_an_image_that_changes_is_decoded_again(root: str, decoded: list[int]) -> None:
    before = evaluated(vlcs(root)[TEST_ENV])
    path = Path(root, "VLCS", "C", "dog", "1.png")
    Image.new("RGB", (30, 20), (1, 2, 3)).save(path)
    decoded.clear()
    after = evaluated(vlcs(root)[TEST_ENV])
    assert len(decoded) == 6, "of one environment, and of no other"
    assert (before[0][0] != after[0][0]).any() or (before[1][0] != after[1][0]).any()


@pytest.mark.parametrize("processes", [0, 1])
def test_a_corrupt_cache_file_is_made_again_and_costs_no_result(
    root: str, cache: Path, processes: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fast_data_loader, "processes", lambda splits, num_workers: processes)
    expected = trained(vlcs(root))
    dataset = vlcs(root)
    for path in cache.glob("VLCS-L-full-*.pack"):
        good = path.read_bytes()
        with open(path, "r+b") as file:  # in place: it is open and mapped
            file.seek(len(good) - 6 * 1800)
            file.write(b"\0" * 6 * 1800)
    assert_same(trained(dataset), expected)
    err = capfd.readouterr().err
    assert err.count("is damaged") == 1 and err.count("\n") == 1 and "it is made again" in err
    assert path.read_bytes() == good


@pytest.mark.usefixtures("in_this_process")
def test_without_room_the_images_are_decoded_at_every_use(
    root: str, cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = trained(vlcs(root))
    monkeypatch.setenv("CIM_DG_CACHE", str(cache / "small"))
    monkeypatch.setenv("CIM_DG_CACHE_GB", "0.000020")
    assert_same(trained(vlcs(root)), expected)
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "more than CIM_DG_CACHE_GB allows (2e-05)" in err


@pytest.mark.parametrize("content", [b"no image", b"", bad_files.png_header(20_000), bad_files.png_header(100_000)])
def test_a_file_that_is_no_image_is_named(content: bytes, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**10)  # as wilds leaves it
    path = Path(root, "VLCS", "S", "cat", "1.png")
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path} cannot be read as an image"):
        vlcs(root)
    monkeypatch.setenv("CIM_DG_CACHE", "0")
    with pytest.raises(UserError, match=f"{path} cannot be read as an image"):
        vlcs(root)[2][1]


def test_a_link_that_leads_nowhere_is_named(root: str) -> None:
    path = Path(root, "VLCS", "S", "cat", "1.png")
    path.unlink()
    path.symlink_to("nowhere")
    with pytest.raises(UserError, match=f"{path} cannot be read as an image: No such file"):
        vlcs(root)


def test_an_environment_is_sent_to_another_process_without_its_pixels(root: str) -> None:
    environment = vlcs(root)[TEST_ENV]
    message = pickle.dumps(environment)
    assert len(message) < 2000
    assert torch.equal(pickle.loads(message)[4][0], environment[4][0])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' /proc")
def test_memory_of_four_workers_stays_flat(tmp_path: Path) -> None:
    path = Path(__file__).parents[3] / "benchmarks" / "images.py"
    command = [sys.executable, str(path), "--memory", "--json", "--images", "48", "--steps", "110"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(path.parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    finished = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    samples = json.loads(finished.stdout.splitlines()[-1])
    early, late = samples[len(samples) // 3], samples[-1]
    passed = (late["step"] - early["step"]) * 24 * 0.15  # MB of pixels that went from the workers to the training
    assert passed > 200
    for kind in ("own", "shared", "workers' own", "workers' shared"):
        assert late[kind] - early[kind] < passed / 2, f"{kind} memory grows: {samples}"
