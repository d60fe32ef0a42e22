"""Small look-alikes of what the sources of datasets give: archives and parquet files in the exact layouts."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cim_dg.data.catalogue import Dataset


def image(seed: int, side: tuple[int, int] = (20, 16), ending: str = ".jpg") -> bytes:
    """An image of noise, of its own for each seed."""
    pixels = np.random.RandomState(seed).randint(0, 256, size=(side[1], side[0], 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG" if ending == ".png" else "JPEG")
    return content.getvalue()


def tree(folder: Path, names: Iterable[str], first: int = 0) -> Path:
    """Images at these paths below a folder."""
    for seed, name in enumerate(names, first):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(seed, ending=path.suffix))
    return folder


def domain_names(dataset: Dataset, each: int = 3, top: str = "", classes: Iterable[str] = ()) -> list[str]:
    """Paths of an image-folder dataset: `each` images of every class in every domain."""
    return [
        f"{top}{domain}/{category}/{domain.lower().replace(' ', '_')}_{number:02d}.jpg"
        for domain in dataset.domains
        for category in (classes or dataset.classes)
        for number in range(each)
    ]


def zipped(folder: Path, archive: Path) -> Path:
    """All of a folder in a zip."""
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(folder.rglob("*")):
            packed.write(path, path.relative_to(folder))
    return archive


def tarred(folder: Path, archive: Path, arcname: str = "") -> Path:
    """All of a folder in a tar.gz."""
    with tarfile.open(archive, "w:gz") as packed:
        for path in sorted(folder.iterdir()):
            packed.add(path, arcname=f"{arcname}{path.name}")
    return archive


def parquet(path: Path, rows: list[dict[str, Any]], names: dict[str, list[str]] | None = None) -> Path:
    """A parquet file as the package `datasets` writes it: images as bytes and path, class names in the metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = {"image": {"_type": "Image"}} | {
        column: {"names": of, "_type": "ClassLabel"} for column, of in (names or {}).items()
    }
    table = pa.Table.from_pylist(rows)
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=5)
    return path


def row(seed: int, name: str | None, **columns: Any) -> dict[str, Any]:
    """A row with an image."""
    return {"image": {"bytes": image(seed), "path": name}, **columns}


def idx(values: np.ndarray) -> bytes:
    """An array of uint8 in MNIST's format."""
    return bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">i4").tobytes() + values.tobytes()


def mnist(folder: Path, train: int = 30, test: int = 20) -> Path:
    """MNIST's four .gz files with so many digits, all ten of them."""
    rng = np.random.RandomState(0)
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", train), ("t10k", test)):
        for kind, values in (
            ("images-idx3", rng.randint(0, 256, (count, 28, 28), dtype=np.uint8)),
            ("labels-idx1", (np.arange(count) % 10).astype(np.uint8)),
        ):
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx(values)))
    return folder


def cub(folder: Path, species: Iterable[str], each: int = 6) -> Path:
    """CUB_200_2011 with its segmentations beside it: of each species, two thirds of the birds are for training."""
    photographs, masks = folder / "CUB_200_2011", folder / "segmentations"
    listed: list[str] = []
    division: list[str] = []
    for kind in species:
        for number in range(each):
            name = f"{kind}/{kind.split('.')[1]}_{number:04d}.jpg"
            size = (24 + 2 * number, 20)
            path, mask = photographs / "images" / name, (masks / name).with_suffix(".png")
            for place in (path, mask):
                place.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image(len(listed), size))
            shape = np.zeros((size[1], size[0]), dtype=np.uint8)
            shape[5:15, 8:16] = 255
            Image.fromarray(shape).save(mask)
            listed.append(f"{len(listed) + 1} {name}")
            division.append(f"{len(division) + 1} {int(number % 3 < 2)}")
    (photographs / "images.txt").write_text("\n".join(listed) + "\n")
    (photographs / "train_test_split.txt").write_text("\n".join(division) + "\n")
    return folder


def places(folder: Path, each: int = 30) -> Path:
    """The four places of Places365 that Waterbirds needs, as its archive has them."""
    for start, name in enumerate(("b/bamboo_forest", "f/forest/broadleaf", "o/ocean", "l/lake/natural")):
        tree(folder / "data_large" / name, [f"{number:08d}.jpg" for number in range(each)], 1000 * (start + 1))
    return folder
