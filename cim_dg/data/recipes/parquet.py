"""Tables of images in parquet files, as Hugging Face serves them. Images are written unchanged, byte for byte."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from cim_dg.data.catalogue import Dataset
from cim_dg.data.recipes.inputs import Inputs, by_name, is_image, plain
from cim_dg.data.recipes.tables import release
from cim_dg.errors import UserError
from cim_dg.runtime.files import write_atomically

ROWS = 64
WATERBIRDS = ("img_id", "img_filename", "y", "split", "place", "place_filename")
_SPLITS = {"train": 0, "validation": 1, "valid": 1, "val": 1, "test": 2}
_SPLIT = re.compile(r"(?:^|[/_.-])(train|validation|valid|val|test)(?=[/_.-])")
_ENDINGS = {b"\xff\xd8\xff": ".jpg", b"\x89PN": ".png", b"RIF": ".webp", b"BM": ".bmp"}


def image_folders(dataset: Dataset, files: list[Path], inputs: Inputs, target: Path) -> None:
    """FOLDER/DOMAIN/CLASS/image from a table with the columns image, domain and label.

    Raises:
        UserError: a column is missing, or the dataset does not have a domain or label.
    """
    domains = {way: name for name, others in dataset.domains.items() for way in by_name(name, others)}
    classes = {way: name for name, others in dataset.classes.items() for way in by_name(name, others)}
    names: dict[str, int] = {}
    for file in files:
        labels = _names(file, "label")
        for row in _rows(file, ("image", "domain", "label"), dataset.name):
            label = row["label"]
            if isinstance(label, int):
                label = _at(labels or list(dataset.classes), label, file)
            domain, category = domains.get(plain(str(row["domain"]))), classes.get(plain(label))
            if domain is None or category is None:
                raise UserError(
                    f"{dataset.name}: {file.name} has an image of domain {row['domain']!r} and class {label!r}; "
                    f"accepted are {', '.join(dataset.domains)} and {', '.join(dataset.classes)}"
                )
            class_folder = target / domain / category
            class_folder.mkdir(parents=True, exist_ok=True)
            _write(row["image"], class_folder, names)


def waterbirds(dataset: Dataset, files: list[Path], inputs: Inputs, target: Path) -> None:
    """metadata.csv and images/ as WILDS reads Waterbirds, from splits with the columns image, label and place.

    Raises:
        UserError: a column is missing, a file's name says no split, or a value is neither 0 nor 1.
    """
    table = io.StringIO()
    writer = csv.DictWriter(table, WATERBIRDS, lineterminator="\n")
    writer.writeheader()
    number = 0
    (target / "images").mkdir(parents=True)
    for file in sorted(files, key=lambda path: (_SPLITS[_split(path)], path)):
        label_names, place_names = _names(file, "label"), _names(file, "place")
        for row in _rows(file, ("image", "label", "place"), dataset.name):
            number += 1
            name = f"{_split(file)}_{number:05d}"
            entry = {
                "img_id": number,
                "img_filename": f"images/{_write(row['image'], target / 'images', {}, name)}",
                "y": _binary(row["label"], label_names, "water", file),
                "split": _SPLITS[_split(file)],
                "place": _binary(row["place"], place_names, "water", file),
                "place_filename": "",
            }
            writer.writerow(entry)
    write_atomically(target / "metadata.csv", table.getvalue())
    release(dataset, target)


def _rows(file: Path, columns: tuple[str, ...], content: str) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError(f"pyarrow is needed to read {file.name}: pip install 'cim-dg[data]'") from None
    try:
        with ParquetFile(file) as table:
            missing = [name for name in columns if name not in table.schema_arrow.names]
            if missing:
                raise UserError(
                    f"{content}: {file} has no column {missing[0]!r}; it has {', '.join(table.schema_arrow.names)}, "
                    f"and {', '.join(columns)} are needed"
                )
            with tqdm(total=table.metadata.num_rows, desc=file.name, leave=False, disable=None) as bar:
                for batch in table.iter_batches(ROWS, columns=list(columns)):
                    yield from batch.to_pylist()
                    bar.update(batch.num_rows)
    except ArrowException as error:
        raise UserError(f"{content}: {file} cannot be read as parquet: {' '.join(str(error).split())[:200]}") from None
    except OSError as error:
        raise UserError(f"{content}: {file} cannot be read: {' '.join(str(error).split())[:200]}") from None


def _names(file: Path, column: str) -> list[str] | None:
    """The names of a column's classes, which Hugging Face keeps in the file's metadata."""
    from pyarrow import ArrowException
    from pyarrow.parquet import read_schema

    try:
        features = json.loads((read_schema(file).metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[column]["names"]]
    except (KeyError, ValueError, TypeError, OSError, ArrowException):
        return None


def _at(names: list[str], label: int, file: Path) -> str:
    if not 0 <= label < len(names):
        raise UserError(f"{file} has a label {label}; it has {len(names)} classes, from 0")
    return names[label]


def _binary(value: Any, names: list[str] | None, positive: str, file: Path) -> int:
    """1 for water, by the class' name if there are names."""
    if isinstance(value, int) and names is not None:
        value = _at(names, value, file)
    if isinstance(value, str) and not value.isdigit():
        return int(positive in value.lower())
    if str(value) not in ("0", "1"):
        raise UserError(f"{file} has the value {value!r} where 0 (land) or 1 (water) is needed")
    return int(value)


def _split(file: Path) -> str:
    matches = _SPLIT.findall(f"{file.parent.name}/{file.name}")
    if not matches:
        raise UserError(f"the name of {file} says no split: needed is train, validation or test in it")
    return matches[-1]


def _write(image: Any, folder: Path, names: dict[str, int], name: str | None = None) -> str:
    """Write an image under its own name if it has one, else under a number; returns the name."""
    if not isinstance(image, dict) or not image.get("bytes"):
        raise UserError("an image of the parquet file has no bytes in it (a link to a file elsewhere?)")
    content: bytes = image["bytes"]
    ending = next((end for start, end in _ENDINGS.items() if content.startswith(start)), ".jpg")
    own = PurePosixPath(image.get("path") or "").name
    if name is None and is_image(own) and not (folder / own).exists():
        name = own
    else:
        key = str(folder)
        names[key] = names.get(key, 0) + 1
        name = f"{name or f'{names[key]:06d}'}{ending}"
    (folder / name).write_bytes(content)
    return name
