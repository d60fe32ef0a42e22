"""The YAML files of datasets: complete, checked, and in agreement with the sweeps, the harnesses and the sources."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from torchvision.datasets import MNIST, CelebA

from cim_dg.data import catalogue
from cim_dg.data.catalogue import Dataset, load, names, of_harness
from cim_dg.data.compare import below
from cim_dg.data.present import command, missing, needed, sentence
from cim_dg.errors import UserError
from cim_dg.sweeps.spec import load as load_sweep
from cim_dg.sweeps.spec import names as sweep_names

DATASETS = [load(name) for name in names()]


def test_every_dataset_that_the_sweeps_can_use_is_there() -> None:
    assert set(names()) == {
        "VLCS", "PACS", "OfficeHome", "TerraIncognita", "DomainNet", "MNIST", "Waterbirds", "CelebA", "Camelyon17",
        "iWildCam", "FMoW", "RxRx1", "ImageNet9", "VLCSMini", "NuisanceDigits",
        "Spirograph",
    }  # fmt: skip


def test_sweeps_and_datasets_name_each_other() -> None:
    """`sweeps` of a YAML file are those whose data it is, or digits in its format."""
    expected: dict[str, set[str]] = {dataset.name: set() for dataset in DATASETS}
    for name in sweep_names():
        sweep = load_sweep(name)
        for used in sweep.datasets:
            dataset = of_harness(sweep.harness, used)
            assert dataset is not None, f"{name} uses {used}, of which there is no file in cim_dg/data/sources"
            if name != "waterbirds-digits":
                expected[dataset.name].add(name)
    assert {dataset.name: set(dataset.sweeps) for dataset in DATASETS} == expected


@pytest.mark.parametrize("dataset", DATASETS, ids=lambda dataset: dataset.name)
def test_counts_agree_with_the_words(dataset: Dataset) -> None:
    """The numbers of the table are those of the manifest."""
    if dataset.manifest is None:
        return
    total = below(dataset.manifest.groups, "")
    if dataset.name == "ImageNet9":
        assert set(dataset.manifest.groups.values()) == {4050}
    else:
        assert dataset.images.startswith(f"{total:,}")
    for part in sorted({group.split("/")[0] for group in dataset.manifest.groups} - {"", "original", "fg_mask"}):
        if dataset.layout not in ("mnist", "backgrounds"):
            assert f"{below(dataset.manifest.groups, part):,}" in dataset.images


@pytest.mark.parametrize("dataset", DATASETS, ids=lambda dataset: dataset.name)
def test_classes_are_in_the_order_of_their_folders(dataset: Dataset) -> None:
    if dataset.layout == "image_folders" and dataset.manifest is not None:
        assert list(dataset.manifest.classes) == sorted(dataset.manifest.classes)
        assert set(dataset.manifest.classes) == set(dataset.classes)
        assert list(dataset.domains) == sorted(dataset.domains)


def test_checksums_are_torchvisions() -> None:
    known = {name: f"md5:{md5}" for name, md5 in MNIST.resources} | {
        name: f"md5:{md5}" for _, md5, name in CelebA.file_list
    }
    checked = 0
    for dataset in DATASETS:
        for source in dataset.sources:
            for file in source.files:
                if file.checksum is not None:
                    assert known[file.name] == file.checksum
                    checked += 1
    assert checked == 11
    assert {file.address.rsplit("/", 1)[0] + "/" for source in load("MNIST").sources for file in source.files} == set(
        MNIST.mirrors
    )


def test_addresses_are_those_of_the_package_wilds() -> None:
    from wilds.datasets.camelyon17_dataset import Camelyon17Dataset
    from wilds.datasets.celebA_dataset import CelebADataset
    from wilds.datasets.fmow_dataset import FMoWDataset
    from wilds.datasets.iwildcam_dataset import IWildCamDataset
    from wilds.datasets.rxrx1_dataset import RxRx1Dataset
    from wilds.datasets.waterbirds_dataset import WaterbirdsDataset

    for kind in (Camelyon17Dataset, CelebADataset, FMoWDataset, IWildCamDataset, RxRx1Dataset, WaterbirdsDataset):
        dataset = of_harness("wilds", kind._dataset_name)
        assert dataset is not None
        (version,) = kind._versions_dict
        file = dataset.sources[0].files[0]
        assert file.address == kind._versions_dict[version]["download_url"]
        assert file.size == kind._versions_dict[version]["compressed_size"]
        assert dataset.version == version and dataset.folder == f"{kind._dataset_name}_v{version}"


@pytest.mark.harness
def test_addresses_are_those_of_domainbeds_script(domainbed_root: Path) -> None:
    script = (domainbed_root / "domainbed" / "scripts" / "download.py").read_text()
    for name in ("VLCS", "PACS", "OfficeHome", "TerraIncognita", "DomainNet"):
        for file in load(name).sources[0].files:
            assert file.address in script or file.name == "domain_net_duplicates.txt"


@pytest.mark.harness
def test_counts_of_vlcs_are_those_of_domainbeds_list(domainbed_root: Path) -> None:
    counts: dict[str, int] = {}
    for line in (domainbed_root / "domainbed" / "misc" / "vlcs_files.txt").read_text().splitlines():
        group = line.split()[1].removeprefix("VLCS/").rstrip("/")
        counts[group] = counts.get(group, 0) + 1
    manifest = load("VLCS").manifest
    assert manifest is not None and counts == manifest.groups
    duplicates = (domainbed_root / "domainbed" / "misc" / "domain_net_duplicates.txt").read_text().splitlines()
    net = load("DomainNet").manifest
    assert net is not None and net.variants[0].groups[""] - net.groups[""] == len(duplicates)


def test_only_what_was_seen_is_marked_as_tried() -> None:
    tried = {dataset.name for dataset in DATASETS for source in dataset.sources if source.tried}
    assert tried == {"VLCSMini"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layout": "pyramid"}, "layout"),
        ({"colour": "red"}, "colour"),
        ({"sources": [{"type": "archive", "tried": False}]}, "files"),
        ({"sources": [{"type": "parts", "tried": False}]}, "note"),
        ({"sources": [{"type": "archive", "tried": False, "files": [{"address": "ftp://a", "name": "a"}]}]}, "address"),
        (
            {"sources": [{"type": "archive", "tried": False, "files": [{"address": "https://a", "name": "../a"}]}]},
            "name",
        ),
        ({"manifest": {"counted": "here", "groups": {"a": -1}}}, "groups"),
        ({"manifest": {"counted": "here", "checksums": {"a": "crc:1"}}}, "checksum"),
        ({"manifest": {"counted": "here", "variants": [{"name": "a", "meaning": "b"}]}}, "variant"),
        ({"domains": {}}, "domains"),
    ],
)
def test_a_wrong_entry_is_one_sentence(change: dict[str, object], words: str, tmp_path: Path) -> None:
    entries = yaml.safe_load((Path(catalogue.__file__).parent / "sources" / "PACS.yaml").read_text())
    path = tmp_path / "PACS.yaml"
    path.write_text(yaml.safe_dump({**entries, **change}))
    with pytest.raises(UserError, match=words) as error:
        catalogue.read(path)
    assert "\n" not in str(error.value)


def test_names_of_the_harnesses_do() -> None:
    assert load("coloredmnist").name == "MNIST" and load("celebA").name == "CelebA"
    assert load("backgrounds").name == "ImageNet9"
    with pytest.raises(UserError, match="there is no dataset 'MNLI'; there are Camelyon17"):
        load("MNLI")
    assert of_harness("domainbed", "Debug28") is None


def test_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    assert missing(load("MNIST"), tmp_path) == [
        f"MNIST/raw/{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
    ]
    assert "fg_mask/val" in missing(load("ImageNet9"), tmp_path)
    assert missing(load("NuisanceDigits"), tmp_path) == []
    folder = tmp_path / "with space"
    assert sentence("domainbed", "RotatedMNIST", folder) == f"`cim-dg data get MNIST --data_dir '{folder}'` gets MNIST"
    assert needed("domainbed", ["NuisanceDigits", "Mine", "VLCS"], None) == [
        "`cim-dg data get VLCS --data_dir DIR` gets VLCS"
    ]
    for domain in load("PACS").domains:
        (tmp_path / "PACS" / domain).mkdir(parents=True)
    assert sentence("domainbed", "PACS", tmp_path) is None
    assert command(load("PACS"), None) == "cim-dg data get PACS --data_dir DIR"


def test_the_docs_have_the_tables() -> None:
    from cim_dg.data.table import markdown

    page = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text()
    for table in markdown().split("\n\n"):
        assert table.strip() in page, "docs/data.md: put in what `python -m cim_dg.data.table` prints"
    for line in page.splitlines():
        assert len(line) <= 140 or line.startswith("|")
