"""`cim-dg data get` and `prepare`: from look-alikes of every kind of source to the layout of the harness."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from data_lookalikes import cub, domain_names, image, mnist, parquet, places, row, tarred, tree, zipped
from data_server import Server, serving
from PIL import Image
from small_datasets import IN9_CLASSES, QUICK, backgrounds, camelyon17, celeba, fmow, iwildcam, rxrx1, waterbirds

from cim_dg import cli
from cim_dg.data import catalogue, download
from cim_dg.data.catalogue import Dataset, File, Source, load
from cim_dg.data.recipes import waterbirds as recipe
from cim_dg.wilds.data import load_dataset


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[Path, Server]]:
    """A folder and the server that serves it."""
    folder = tmp_path / "web"
    folder.mkdir()
    with serving(folder) as server:
        yield folder, server


def use(monkeypatch: pytest.MonkeyPatch, name: str, *sources: list[str]) -> Dataset:
    """Let the dataset have sources at these addresses, and no patience between attempts."""
    real = load(name)
    changed = real.model_copy(
        update={
            "sources": tuple(
                Source(
                    type="parquet" if files[0].startswith("hf:") else "archive",
                    files=tuple(
                        File(address=file, name=file.rsplit("/", 1)[-1], checksum=None, size=None) for file in files
                    ),
                    tried=True,
                )
                for files in sources
            )
        }
    )
    monkeypatch.setattr(catalogue, "load", lambda wanted: changed if wanted == name else load(wanted))
    monkeypatch.setattr(download, "WAIT", 0.0)
    return changed


def data(*words: object) -> int:
    return cli.main(["data", *map(str, words)])


def get(name: str, data_dir: Path, *more: object) -> int:
    return data("get", name, "--data_dir", data_dir, "--accept_licence", "--no_verify", *more)


def below(folder: Path) -> set[str]:
    """The files of a folder, but for the fingerprint."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if not name.startswith("cim-dg-")}


# Archives, of the layouts that the download scripts of the harnesses unpack.


def test_domainbed_archives_are_laid_out(
    tmp_path: Path, web: tuple[Path, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, server = web
    for name, top, target in (
        ("PACS", "kfold/", "PACS"),
        ("OfficeHome", "OfficeHomeDataset_10072016/", "office_home"),
        ("VLCS", "VLCS/", "VLCS"),
    ):
        names = domain_names(load(name), each=1)
        zipped(tree(tmp_path / name, [top + one for one in names]), folder / f"{name}.zip")
        (tmp_path / name / top / "notes.txt").write_text("no image")
        use(monkeypatch, name, [f"{server.url}/{name}.zip"])
        assert get(name, tmp_path / "data") == 0
        assert below(tmp_path / "data" / target) == set(names)
    assert sorted(path.name for path in (tmp_path / "data").iterdir() if not path.name.startswith(".")) == [
        "PACS", "VLCS", "office_home"
    ]  # fmt: skip


def test_vlcs_with_the_official_splits_is_put_together(tmp_path: Path) -> None:
    names = [
        f"VLCS/{domain}/{split}/{label}/imgs_{number}.jpg"
        for domain in ("CALTECH", "LABELME", "PASCAL", "SUN")
        for split in ("crossval", "test", "train")
        for label in range(5)
        for number in range(2)
    ]
    archive = zipped(tree(tmp_path / "four", names), tmp_path / "four.zip")
    assert get("VLCS", tmp_path / "data", "--from", archive) == 0
    folder = tmp_path / "data" / "VLCS"
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == [
        "Caltech101",
        "LabelMe",
        "SUN09",
        "VOC2007",
    ]
    assert len(below(folder)) == len(names)
    sun = {path.read_bytes() for path in (folder / "SUN09" / "chair").iterdir()}
    assert sun == {(tmp_path / "four" / name).read_bytes() for name in names if "/SUN/" in name and "/2/" in name}


def test_full_and_test_are_all_images_where_there_is_no_train(tmp_path: Path) -> None:
    names = [
        f"{domain}/{split}/{label}/{split}_{number}.jpg"
        for domain in ("CALTECH", "LABELME", "PASCAL", "SUN")
        for split in ("full", "test")
        for label in range(5)
        for number in range(2)
    ]
    assert get("VLCS", tmp_path / "data", "--from", tree(tmp_path / "four", names)) == 0
    assert len(below(tmp_path / "data" / "VLCS")) == len(names)
    assert all((tmp_path / "four" / name).exists() for name in names), "what is the user's is copied, not moved"


def test_vlcs_from_the_originals_by_domainbeds_list(tmp_path: Path) -> None:
    originals = ["101_ObjectCategories/pigeon/image_0001.jpg", "VOCdevkit/VOC2007/JPEGImages/000001.jpg"]
    originals += ["Images/static_sun09_database/a_abbey.jpg", "web/folder/img1.jpg"]
    sources = [*originals[:3], "http://labelme.csail.mit.edu/Images/folder/img1.jpg"]
    domains = ["Caltech101", "VOC2007", "SUN09", "LabelMe"]
    lines = [f"{source} VLCS/{domain}/bird/" for source, domain in zip(sources, domains, strict=True)]
    lines.append(f"{sources[1]} VLCS/VOC2007/person/")  # one photograph in two classes
    (tmp_path / "vlcs_files.txt").write_text("\n".join(lines) + "\n")
    parts = tree(tmp_path / "parts", originals)
    assert (
        data(
            "prepare",
            "VLCS",
            "--data_dir",
            tmp_path / "data",
            "--no_verify",
            "--from",
            parts,
            tmp_path / "vlcs_files.txt",
        )
        == 0
    )
    folder = tmp_path / "data" / "VLCS"
    assert below(folder) == {
        "Caltech101/bird/pigeon_image_0001.jpg",
        "VOC2007/bird/JPEGImages_000001.jpg",
        "VOC2007/person/JPEGImages_000001.jpg",
        "SUN09/bird/static_sun09_database_a_abbey.jpg",
        "LabelMe/bird/folder_img1.jpg",
    }


def test_terra_incognita_from_the_camera_traps(
    tmp_path: Path, web: tuple[Path, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, server = web
    files = [f"{number:02d}.jpg" for number in range(6)]
    tree(tmp_path / "images" / "eccv_18_all_images_sm", files)
    tarred(tmp_path / "images", folder / "images.tar.gz")
    categories = [{"id": 1, "name": "bird"}, {"id": 2, "name": "cat"}, {"id": 3, "name": "car"}]
    tables = tmp_path / "tables" / "eccv_18_annotation_files"
    tables.mkdir(parents=True)
    places = ["38", 46, "100", "43", "7", "38"]  # 7 is none of the four
    labels = [[1], [1, 2], [2, 2], [3, 1], [1], [3]]
    for number, part in enumerate(("cis_test", "cis_val", "train", "trans_test", "trans_val")):
        mine = [place for place in range(6) if place % 5 == number]
        content = {
            "categories": categories,
            "images": [{"id": f"i{n}", "location": places[n], "file_name": files[n]} for n in mine],
            "annotations": [{"image_id": f"i{n}", "category_id": label} for n in mine for label in labels[n]],
        }
        (tables / f"{part}_annotations.json").write_text(json.dumps(content))
    tarred(tmp_path / "tables", folder / "annotations.tar.gz")
    use(monkeypatch, "TerraIncognita", [f"{server.url}/images.tar.gz", f"{server.url}/annotations.tar.gz"])
    assert get("TerraIncognita", tmp_path / "data") == 0
    assert below(tmp_path / "data" / "terra_incognita") == {
        "location_38/bird/00.jpg",
        "location_46/bird/01.jpg",
        "location_46/cat/01.jpg",
        "location_100/cat/02.jpg",
        "location_43/bird/03.jpg",
    }


def test_domain_net_loses_its_duplicates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = domain_names(load("DomainNet"), each=2, classes=["aircraft_carrier", "zebra"])
    archives = []
    for domain in load("DomainNet").domains:
        mine = tree(tmp_path / domain, [name for name in names if name.startswith(f"{domain}/")])
        archives.append(zipped(mine, tmp_path / f"{domain}.zip"))
    doubled = "real/zebra/real_01.jpg"
    (tmp_path / "domain_net_duplicates.txt").write_text(f"{doubled}\nreal/zebra/absent.jpg\n../../outside.jpg\n")
    more = [*archives, tmp_path / "domain_net_duplicates.txt"]
    assert data("prepare", "DomainNet", "--data_dir", tmp_path / "data", "--no_verify", "--from", *more) == 0
    assert below(tmp_path / "data" / "domain_net") == set(names) - {doubled}
    assert data("prepare", "DomainNet", "--data_dir", tmp_path / "other", "--no_verify", "--from", *archives) == 0
    assert "duplicates are still there" in capsys.readouterr().out


def test_mnist_is_unpacked_to_its_raw_files(
    tmp_path: Path, web: tuple[Path, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, server = web
    mnist(folder)
    use(monkeypatch, "MNIST", [f"{server.url}/{path.name}" for path in sorted(folder.iterdir())])
    assert get("MNIST", tmp_path / "data") == 0
    from cim_dg.domainbed.standin.datasets import ColoredMNIST

    assert sum(len(dataset) for dataset in ColoredMNIST(str(tmp_path / "data"), [0], {}).datasets) == 50


@pytest.mark.parametrize("name", ["Waterbirds", "CelebA", "Camelyon17", "iWildCam", "FMoW", "RxRx1"])
def test_archives_of_wilds_are_laid_out(
    name: str, tmp_path: Path, web: tuple[Path, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, server = web
    make: dict[str, Callable[[Path], Path]] = {
        "Waterbirds": waterbirds,
        "CelebA": celeba,
        "Camelyon17": camelyon17,
        "iWildCam": iwildcam,
        "FMoW": fmow,
        "RxRx1": rxrx1,
    }
    made = make[name](tmp_path / "made")
    dataset = load(name)
    (made / dataset.folder / f"RELEASE_v{dataset.version}.txt").unlink()
    tarred(made / dataset.folder, folder / f"{name}.tar.gz", arcname="somewhere/")
    use(monkeypatch, name, [f"{server.url}/{name}.tar.gz"])
    assert get(name, tmp_path / "data") == 0
    loaded = load_dataset(dataset.harnesses["wilds"][0], str(tmp_path / "data"))
    assert len(loaded) and loaded[0][0].size == (16, 16)


def test_celeba_from_its_authors_files(
    tmp_path: Path, web: tuple[Path, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, server = web
    names = [f"{number:06d}.jpg" for number in range(1, 7)]
    zipped(tree(tmp_path / "faces", [f"img_align_celeba/{name}" for name in names]), folder / "img_align_celeba.zip")
    columns = [f"Attribute_{number}" for number in range(40)]
    columns[9], columns[20] = "Blond_Hair", "Male"
    values = np.where(np.random.RandomState(0).rand(6, 40) < 0.5, -1, 1)
    rows = [f"{name}  {' '.join(map(str, line))}" for name, line in zip(names, values.tolist(), strict=True)]
    (folder / "list_attr_celeba.txt").write_text("\n".join(["6", " ".join(columns), *rows]) + "\n")
    (folder / "list_eval_partition.txt").write_text(
        "".join(f"{name} {place % 3}\n" for place, name in enumerate(names))
    )
    use(monkeypatch, "CelebA", [f"{server.url}/{path.name}" for path in sorted(folder.iterdir())])
    assert get("CelebA", tmp_path / "data") == 0
    loaded = load_dataset("celebA", str(tmp_path / "data"))
    assert loaded.y_array.tolist() == [int(line[9] == 1) for line in values.tolist()]
    assert loaded.split_array.tolist() == [0, 1, 2, 0, 1, 2]
    assert loaded[5][0].size == (20, 16)


def test_the_backgrounds_challenge_from_its_two_archives(
    tmp_path: Path, web: tuple[Path, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, server = web
    made = backgrounds(tmp_path / "made")
    training = tmp_path / "in9l" / "in9l"
    training.parent.mkdir()
    (made / "original" / "train").rename(tmp_path / "train")
    training.mkdir()
    (tmp_path / "train").rename(training / "train")
    tree(training / "val", [f"{name}/ignored.JPEG" for name in IN9_CLASSES])  # which upstream says to ignore
    shutil.move(made, tmp_path / "release" / "bg_challenge")
    tarred(tmp_path / "release", folder / "release.tar.gz")
    tarred(training.parent, folder / "in9l.tar.gz")
    use(monkeypatch, "ImageNet9", [f"{server.url}/release.tar.gz", f"{server.url}/in9l.tar.gz"])
    assert get("ImageNet9", tmp_path / "data") == 0
    loaded = load_dataset("backgrounds", str(tmp_path / "data"))
    assert len(loaded) == 9 * 11 + 4 * 9 * 2
    assert not list((tmp_path / "data").rglob("ignored.JPEG"))
    assert len(list((tmp_path / "data" / "fg_mask" / "val").rglob("*.npy"))) == 18


# Parquet, with the columns of the mirrors, from what answers as Hugging Face.


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Server]]:
    folder = tmp_path / "hub"
    repositories = {"flwrlabs/pacs": folder / "pacs", "grodino/waterbirds": folder / "waterbirds"}
    with serving(tmp_path, repositories) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield folder, server


def test_pacs_from_parquet(tmp_path: Path, hub: tuple[Path, Server]) -> None:
    folder, _ = hub
    dataset = load("PACS")
    classes = list(dataset.classes)
    cells = [(domain, label) for domain in dataset.domains for label in range(7)]
    rows = [row(n, f"pic_{n:03d}.jpg", domain=domain, label=label) for n, (domain, label) in enumerate(cells)]
    rows += [row(99, None, domain="photo", label=6), row(98, "pic_000.jpg", domain="art_painting", label=0)]
    half = len(rows) // 2
    parquet(folder / "pacs" / "data" / "train-00000-of-00002.parquet", rows[:half], {"label": classes})
    parquet(folder / "pacs" / "data" / "train-00001-of-00002.parquet", rows[half:], {"label": classes})
    assert get("PACS", tmp_path / "data", "--from", "hf:flwrlabs/pacs") == 0
    target = tmp_path / "data" / "PACS"
    for n, (domain, label) in enumerate(cells):
        assert (target / domain / classes[label] / f"pic_{n:03d}.jpg").read_bytes() == image(n)
    # Two of one name, and one without a name: all are there.
    assert len(below(target)) == len(rows)
    assert image(98) in {path.read_bytes() for path in (target / "art_painting" / "dog").iterdir()}


def test_labels_of_parquet_go_by_their_names(tmp_path: Path) -> None:
    turned = list(reversed(load("PACS").classes))
    file = parquet(tmp_path / "train-0.parquet", [row(0, None, domain="sketch", label=0)], {"label": turned})
    assert get("PACS", tmp_path / "data", "--from", file) == 0
    assert below(tmp_path / "data" / "PACS") == {"sketch/person/000001.jpg"}


def test_waterbirds_from_parquet(tmp_path: Path, hub: tuple[Path, Server]) -> None:
    folder, server = hub
    for number, (split, count) in enumerate((("train", 8), ("validation", 4), ("test", 6))):
        rows = [row(100 * number + n, None, label=n % 2, place=n // 2 % 2) for n in range(count)]
        parquet(
            folder / "waterbirds" / "data" / f"{split}-00000-of-00001.parquet",
            rows,
            {"label": ["landbird", "waterbird"], "place": ["land", "water"]},
        )
    assert get("Waterbirds", tmp_path / "data", "--from", "hf:grodino/waterbirds") == 0
    loaded = load_dataset("waterbirds", str(tmp_path / "data"))
    assert loaded.split_array.tolist() == [0] * 8 + [1] * 4 + [2] * 6
    assert loaded.y_array.tolist() == [n % 2 for count in (8, 4, 6) for n in range(count)]
    assert loaded.metadata_array[:, 0].tolist() == [n // 2 % 2 for count in (8, 4, 6) for n in range(count)]
    assert any(name.endswith(".parquet") for name, _ in server.requests)
    words = ["wilds", "train", "--dataset", "waterbirds", "--algorithm", "ERM", "--root_dir", str(tmp_path / "data")]
    assert cli.main([*words, "--log_dir", str(tmp_path / "log"), *QUICK]) == 0


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"label": 0}, "no column 'domain'"),
        ({"label": 0, "domain": "clay"}, "domain 'clay'"),
        ({"label": 9, "domain": "photo"}, "a label 9"),
    ],
)
def test_parquet_that_is_not_the_dataset_is_refused(
    columns: dict[str, object], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = parquet(tmp_path / "train-0.parquet", [row(0, None, **columns)], {"label": list(load("PACS").classes)})
    assert get("PACS", tmp_path / "data", "--from", file) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "data" / "PACS").exists()


# From parts.

SPECIES = ["001.Black_footed_Albatross", "002.Laysan_Albatross", "010.Red_winged_Blackbird", "073.Blue_Jay"]


def test_waterbirds_from_cub_and_places_as_the_recipe_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = [cub(tmp_path / "cub", SPECIES, each=60), places(tmp_path / "places", each=80)]
    assert data("prepare", "Waterbirds", "--data_dir", tmp_path / "data", "--no_verify", "--from", *parts) == 0
    assert "drawn anew" in capsys.readouterr().out
    folder = tmp_path / "data" / "waterbirds_v1.0"
    with (folder / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    groups: dict[tuple[int, ...], int] = {}
    for entry in rows:
        key = tuple(int(entry[name]) for name in ("split", "y", "place"))
        groups[key] = groups.get(key, 0) + 1
    # Of 120 birds a class 80 are for training, of which a fifth, 16, is for validation.
    assert groups == {
        (0, 0, 0): 61, (0, 0, 1): 3, (0, 1, 0): 3, (0, 1, 1): 61,
        (1, 0, 0): 8, (1, 0, 1): 8, (1, 1, 0): 8, (1, 1, 1): 8,
        (2, 0, 0): 20, (2, 0, 1): 20, (2, 1, 0): 20, (2, 1, 1): 20,
    }  # fmt: skip
    assert {entry["y"] for entry in rows if "Albatross" in entry["img_filename"]} == {"1"}
    assert all(("ocean" in r["place_filename"] or "lake" in r["place_filename"]) == (r["place"] == "1") for r in rows)
    assert len({entry["place_filename"] for entry in rows}) == len(rows)
    loaded = load_dataset("waterbirds", str(tmp_path / "data"))
    assert loaded[0][0].size == Image.open(tmp_path / "cub" / "CUB_200_2011" / "images" / rows[0]["img_filename"]).size


def test_the_official_table_gives_the_official_pairs(tmp_path: Path) -> None:
    parts = [cub(tmp_path / "cub", SPECIES, each=2), places(tmp_path / "places", each=3)]
    table = tmp_path / "metadata.csv"
    table.write_text(
        "img_id,img_filename,y,split,place,place_filename\n"
        "1,001.Black_footed_Albatross/Black_footed_Albatross_0000.jpg,1,0,1,/o/ocean/00000002.jpg\n"
        "2,073.Blue_Jay/Blue_Jay_0001.jpg,0,2,0,/f/forest/broadleaf/00000001.jpg\n"
    )
    assert data("prepare", "Waterbirds", "--data_dir", tmp_path / "data", "--no_verify", "--from", *parts, table) == 0
    folder = tmp_path / "data" / "waterbirds_v1.0"
    assert (folder / "metadata.csv").read_text() == table.read_text()
    assert len(list(folder.rglob("*.jpg"))) == 2


def test_a_bird_is_put_before_its_place_by_its_mask(tmp_path: Path) -> None:
    bird, place = np.full((20, 30, 3), 200, np.uint8), np.full((50, 60, 3), 40, np.uint8)
    mask = np.zeros((20, 30), np.uint8)
    mask[5:10, 5:10], mask[15, :] = 255, 102
    for name, pixels in (("bird", bird), ("mask", mask), ("place", place)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    got = np.asarray(recipe.compose(*(tmp_path / f"{name}.png" for name in ("bird", "mask", "place"))))
    expected = np.full((20, 30, 3), 40)
    expected[5:10, 5:10] = 200
    expected[15, :] = 200 * 102 / 255 + 40 * 153 / 255  # 80 + 24
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("source", [(60, 50), (10, 50), (50, 10), (7, 9), (30, 20), (31, 20)])
def test_a_place_is_cropped_about_its_centre_to_the_birds_shape(source: tuple[int, int]) -> None:
    """A plane that rises to the right and downwards keeps its middle in the middle, and is not stretched."""
    width, height = source
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    pixels = np.stack([128 + 2 * (x - width / 2), 128 + 2 * (y - height / 2), np.zeros_like(x)], axis=-1)
    fitted = np.asarray(recipe.fit(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), (30, 20))).astype(float)
    assert fitted.shape == (20, 30, 3)
    assert abs(fitted[..., 0].mean() - 128) < 4 and abs(fitted[..., 1].mean() - 128) < 4
    slopes = np.diff(fitted[5:-5, 5:-5, 0], axis=1).mean(), np.diff(fitted[5:-5, 5:-5, 1], axis=0).mean()
    scale = max(30 / width, 20 / height)
    assert slopes == pytest.approx((2 / scale, 2 / scale), rel=0.25, abs=0.2)


def test_in9l_from_an_imagenet_copy(tmp_path: Path) -> None:
    release = backgrounds(tmp_path / "bg_challenge")
    shutil.rmtree(release / "original" / "train")
    ids = [f"n{number:08d}" for number in (1440764, 2084071, 2085620, 1503061, 9999999)]
    imagenet = tree(tmp_path / "ILSVRC" / "train", [f"{one}/{one}_{n}.JPEG" for one in ids for n in range(2)])
    # Indices count ids in their order: 1440764, 1503061, 2084071, 2085620, 9999999.
    (tmp_path / "in_to_in9.json").write_text(json.dumps({"0": 8, "1": 1, "2": 0, "3": 0, "4": -1}))
    arguments = [release, imagenet, tmp_path / "in_to_in9.json"]
    assert data("prepare", "ImageNet9", "--data_dir", tmp_path / "data", "--no_verify", "--from", *arguments) == 0
    training = tmp_path / "data" / "original" / "train"
    assert {path.name: len(list(path.iterdir())) for path in training.iterdir()} == {
        "00_dog": 4,
        "01_bird": 2,
        "08_fish": 2,
    }
    assert (training / "00_dog" / "n02085620_1.JPEG").read_bytes() == (
        imagenet / "n02085620" / "n02085620_1.JPEG"
    ).read_bytes()


def test_an_imagenet_copy_without_all_classes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imagenet = tree(tmp_path / "train", ["n01440764/a.JPEG"])
    (tmp_path / "in_to_in9.json").write_text(json.dumps({"0": 8, "1": 1}))
    assert (
        data("prepare", "ImageNet9", "--data_dir", tmp_path / "data", "--from", imagenet, tmp_path / "in_to_in9.json")
        == 2
    )
    assert "1 class folders" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in catalogue.names() if catalogue.load(name).sources])
def test_a_folder_of_something_else_is_refused_in_one_sentence(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tree(tmp_path / "other", ["holiday/beach/1.jpg"])
    assert get(name, tmp_path / "data", "--from", other) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert os.listdir(tmp_path / "data") in ([], [f".cim-dg-{name}"])


# Terms, and what is there already.


def test_terms_that_must_be_accepted_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = waterbirds(tmp_path / "made")
    words = ["get", "Waterbirds", "--data_dir", tmp_path / "data", "--no_verify", "--from", made]
    assert data(*words) == 2
    shown = capsys.readouterr()
    assert "non-commercial" in shown.out and "--accept_licence" in shown.err
    assert not (tmp_path / "data").exists()
    assert data(*words, "--accept_licence") == 0


def test_what_is_there_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = load("VLCSMini").manifest
    assert manifest is not None
    whole = [f"VLCSMini/{place}/{number}.jpg" for place, count in manifest.groups.items() for number in range(count)]
    tree(tmp_path, [*whole, *domain_names(load("VLCS"), each=1, top="VLCS/")])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert get("VLCSMini", tmp_path) == 0
    assert "already, not verified" in capsys.readouterr().out
    assert get("VLCS", tmp_path) == 2  # a copy with one image of each class
    assert "is not VLCS as it should be: Caltech101/bird has 1 images, 237 expected" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    (tmp_path / "MNIST").mkdir()
    assert get("MNIST", tmp_path) == 2
    assert "move it away" in capsys.readouterr().err


def test_the_origin_is_written_beside_the_data(tmp_path: Path) -> None:
    made = waterbirds(tmp_path / "made")
    assert get("Waterbirds", tmp_path / "data", "--from", made) == 0
    content = json.loads((tmp_path / "data" / "waterbirds_v1.0" / "cim-dg-Waterbirds.json").read_text())
    assert content["origin"] == str(made) and content["dataset"] == "Waterbirds"
