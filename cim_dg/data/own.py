"""The user's own datasets: a folder of domain/class/image or a CSV file becomes a dataset of both harnesses.

`register` lays the images out as DIR/NAME/DOMAIN/CLASS/IMAGE, DomainBed's layout of image folders, with a metadata.csv
for the splits and groups that WILDS needs. A YAML file in the user's configuration folder (or in CIM_DG_DATASETS)
registers the name with the harnesses.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cim_dg.errors import UserError
from cim_dg.runtime import settings
from cim_dg.runtime.files import write_atomically

METADATA = "metadata.csv"
SPLITS = ("train", "val", "test")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True)
class OwnDataset:
    """A registered dataset."""

    name: str
    """The value of --dataset."""
    folder: str
    """The folder of DOMAIN/CLASS/IMAGE and metadata.csv."""
    domains: list[str]
    """Ordered by name, as in DomainBed: test environment 0 is the first."""
    classes: list[str]
    """Ordered by name, which is the order of labels."""
    splits: list[str]
    """WILDS' splits, train and val among them."""
    groups: list[str] = field(default_factory=list)
    """The columns of metadata.csv whose combinations with the class are the groups; none if empty."""


@dataclass(frozen=True)
class Item:
    """An image to register: its file, class, domain, split (None to draw it) and values of the group columns."""

    path: Path
    label: str
    domain: str
    split: str | None = None
    groups: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SplitRule:
    """The rule for drawing splits.

    Attributes:
        shares: the shares of train, val and test, which add up to 1. Test may be 0.
        test_domains: all images of these domains are the split test; val is then drawn from the others.
        stratify: whether each split has the classes in the same shares.
        seed: the seed of the draw.
    """

    shares: tuple[float, float, float] = (0.7, 0.1, 0.2)
    test_domains: Sequence[str] = ()
    stratify: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        train, val, test = self.shares
        if not (train > 0 and val > 0 and test >= 0 and abs(sum(self.shares) - 1) < 1e-9):
            raise UserError(
                f"--split is {train:g} {val:g} {test:g}; accepted are the shares of train, val and test, which add up "
                "to 1, the first two above 0"
            )


def registry() -> Path:
    """The folder of the registered datasets' YAML files: CIM_DG_DATASETS, or the user's configuration folder."""
    folder = settings.get("CIM_DG_DATASETS")
    if folder is not None:
        return Path(folder)
    from platformdirs import user_config_path

    return user_config_path("cim-dg") / "datasets"


def names() -> list[str]:
    """The names of the registered datasets."""
    return sorted(path.stem for path in registry().glob("*.yaml"))


def read(name: str) -> OwnDataset:
    """The registered dataset `name`.

    Raises:
        UserError: there is no such dataset, or its file is invalid.
    """
    from cim_dg.runtime.schema import load_yaml

    path = registry() / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"no dataset {name!r} is registered; there are {', '.join(names()) or 'none'}")
    return load_yaml(path, OwnDataset)


def items_of_folder(folder: Path) -> list[Item]:
    """The images of FOLDER/DOMAIN/CLASS/IMAGE.

    Raises:
        UserError: there is no such folder, or an image is elsewhere in it.
    """
    from cim_dg.images.reading import find_images

    items = []
    for path in find_images(folder):
        parts = path.relative_to(folder).parts
        if len(parts) != 3:
            raise UserError(f"{path} is not in a folder DOMAIN/CLASS below {folder}, where every image must be")
        items.append(Item(path, label=parts[1], domain=parts[0]))
    return items


def items_of_csv(
    file: Path, images: Path, path: str, label: str, domain: str, split: str | None, groups: Sequence[str]
) -> list[Item]:
    """The images in the rows of a CSV file.

    Args:
        file: the CSV file, with a header.
        images: the base folder of relative paths.
        path, label, domain, split, groups: names of columns; without `split`, the splits are drawn.

    Raises:
        UserError: a column or a file is missing, or a cell is empty.
    """
    import pandas as pd

    try:
        # Every cell as text: a class "01" is not the class "1".
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as CSV: {' '.join(str(error).split())}") from None
    needed = [path, label, domain, *([split] if split else []), *groups]
    for column in needed:
        if column not in table.columns:
            raise UserError(f"{file} has no column {column!r}; it has {', '.join(map(str, table.columns))}")
    items = []
    for number, row in enumerate(table[needed].to_dict("records"), start=2):
        if empty := [column for column in needed if not row[column].strip()]:
            raise UserError(f"{file}, line {number}: {empty[0]} is empty")
        place = images / row[path]
        if not place.is_file():
            raise UserError(f"{file}, line {number}: there is no file {place}")
        chosen = row[split] if split else None
        items.append(Item(place, row[label], row[domain], chosen, {column: row[column] for column in groups}))
    return items


def register(
    name: str,
    items: Sequence[Item],
    data_dir: Path,
    rule: SplitRule | None = None,
    copy: bool = False,
    reserved: Collection[str] = (),
) -> OwnDataset:
    """Lay `items` out below DATA_DIR/NAME and register the dataset as `name`.

    Args:
        name: a Python identifier.
        items: the images; either all of them have a split or none.
        data_dir: the folder of the data. Images that are in DATA_DIR/NAME already stay where they are.
        rule: the rule for drawing the splits of items without one.
        copy: whether to copy files; else they are linked.
        reserved: names that are not accepted, in any case.

    Raises:
        UserError: the name, a domain, a class or a split is not accepted, an image cannot be read, or the folder exists
            and has other content. Nothing is then left behind.
    """
    rule = rule or SplitRule()
    _check_name(name, reserved)
    _check_items(items)
    splits = _splits(items, rule)
    folder = (data_dir / name).resolve()
    described = OwnDataset(
        name=name,
        folder=str(folder),
        domains=sorted({item.domain for item in items}),
        classes=sorted({item.label for item in items}),
        splits=[split for split in SPLITS if split in splits] + sorted(set(splits) - set(SPLITS)),
        groups=sorted({column for item in items for column in item.groups}),
    )
    in_place = all(item.path.resolve().is_relative_to(folder) for item in items)
    if folder.exists() and not in_place:
        raise UserError(f"{folder} exists already; choose another NAME or --data_dir, or remove it")
    try:
        if in_place:
            write_atomically(folder / METADATA, _metadata(described, items, splits, _filenames(items, in_place)))
        else:
            _lay_out(described, items, splits, copy)
        registry().mkdir(parents=True, exist_ok=True)
        write_atomically(registry() / f"{name}.yaml", _as_yaml(described))
    except OSError as error:
        raise UserError(f"the dataset {name} cannot be written: {error.strerror}: {error.filename}") from None
    return described


def unregister(name: str) -> None:
    """Remove the registration; the dataset's folder stays.

    Raises:
        UserError: no such dataset is registered.
    """
    read(name)
    (registry() / f"{name}.yaml").unlink()


def _check_name(name: str, reserved: Collection[str]) -> None:
    if not _NAME.fullmatch(name):
        raise UserError(f"NAME is {name!r}; accepted are letters, digits and _, beginning with a letter")
    if name.lower() in {known.lower() for known in reserved}:
        raise UserError(f"NAME is {name!r}, which is a dataset of the harnesses; choose another")


def _check_items(items: Sequence[Item]) -> None:
    from tqdm import tqdm

    from cim_dg.images.reading import read_image

    if len(classes := {item.label for item in items}) < 2:
        raise UserError(f"there is one class, {', '.join(classes)}; a dataset needs at least two")
    for kind, values in (("class", classes), ("domain", {item.domain for item in items})):
        for value in sorted(values):
            if value in (".", "..") or "/" in value or "\0" in value or value.startswith("."):
                raise UserError(f"a {kind} is called {value!r}; its images are to lie in a folder of that name")
    with_split = sum(item.split is not None for item in items)
    if with_split not in (0, len(items)):
        raise UserError(f"{with_split} of {len(items)} images have a split; accepted are all or none")
    repeated = [path for path, count in Counter(item.path.resolve() for item in items).items() if count > 1]
    if repeated:
        raise UserError(f"{repeated[0]} is there {sum(i.path.resolve() == repeated[0] for i in items)} times")
    for item in tqdm(items, desc="reading images", leave=False):
        read_image(item.path)


def _splits(items: Sequence[Item], rule: SplitRule) -> list[str]:
    """The split of every item."""
    if items[0].split is not None:
        splits = [str(item.split) for item in items]
        for required in ("train", "val"):
            if required not in splits:
                raise UserError(
                    f"no image is in the split {required!r}; the splits are {', '.join(sorted(set(splits)))}"
                )
        return splits
    domains = {item.domain for item in items}
    if unknown := sorted(set(rule.test_domains) - domains):
        raise UserError(f"--test_domains has {unknown[0]!r}; accepted are {', '.join(sorted(domains))}")
    if set(rule.test_domains) == domains:
        raise UserError("--test_domains names every domain; one must be left to train on")
    splits = ["test" if item.domain in rule.test_domains else "" for item in items]
    remaining = [index for index, split in enumerate(splits) if not split]
    train, val, test = rule.shares
    if not rule.test_domains and test:
        remaining, drawn = _draw(remaining, items, test, rule)
        for index in drawn:
            splits[index] = "test"
    _, drawn = _draw(remaining, items, val / (train + val), rule)
    for index in remaining:
        splits[index] = "train"
    for index in drawn:
        splits[index] = "val"
    return splits


def _draw(indices: list[int], items: Sequence[Item], share: float, rule: SplitRule) -> tuple[list[int], list[int]]:
    """The remaining indices and the drawn ones."""
    from sklearn.model_selection import train_test_split

    labels = [items[index].label for index in indices] if rule.stratify else None
    try:
        remaining, drawn = train_test_split(indices, test_size=share, random_state=rule.seed, stratify=labels)
    except ValueError as error:
        raise UserError(f"the splits cannot be drawn: {' '.join(str(error).split())}") from None
    return remaining, drawn


def _filenames(items: Sequence[Item], in_place: bool) -> list[str]:
    """The path of each image below the dataset's folder."""
    width = len(str(len(items)))
    return [
        f"{item.domain}/{item.label}/"
        + (item.path.name if in_place else f"{number:0{width}d}_{item.path.stem[:80]}{item.path.suffix}")
        for number, item in enumerate(items)
    ]


def _lay_out(dataset: OwnDataset, items: Sequence[Item], splits: Sequence[str], copy: bool) -> None:
    """Create the folder atomically, from a temporary one next to it."""
    folder = Path(dataset.folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    filenames = _filenames(items, in_place=False)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{dataset.name}.") as scratch:
        new_folder = Path(scratch, dataset.name)
        for item, name in zip(items, filenames, strict=True):
            target = new_folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if copy:
                shutil.copy(item.path, target)
            else:
                os.symlink(item.path.resolve(), target)
        write_atomically(new_folder / METADATA, _metadata(dataset, items, splits, filenames))
        os.rename(new_folder, folder)


def _metadata(dataset: OwnDataset, items: Sequence[Item], splits: Sequence[str], filenames: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["filename", "class", "domain", "split", *dataset.groups])
    for item, split, filename in zip(items, splits, filenames, strict=True):
        writer.writerow([filename, item.label, item.domain, split, *(item.groups[column] for column in dataset.groups)])
    return text.getvalue()


def _as_yaml(dataset: OwnDataset) -> str:
    import yaml

    content: dict[str, Any] = dataclasses.asdict(dataset)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
