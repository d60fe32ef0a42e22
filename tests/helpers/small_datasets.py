"""Tiny datasets in the on-disk formats that the package `wilds` reads. Images are noise about a colour per class."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

SIDE = 16
IN9_VARIANTS = ("original", "mixed_same", "mixed_rand", "only_bg_t")
WATERBIRDS_GROUPS = [(0, 0), (0, 1), (1, 0), (1, 1)]  # (y, place)
# Whole runs at a tiny size: one convolution's worth of work per batch.
QUICK = [
    "--model",
    "small-cnn",
    "--model_kwargs",
    "width=8",
    "--transform",
    "image_base",
    "--target_resolution",
    "16",
    "16",
]
QUICK += [
    "--batch_size",
    "8",
    "--n_epochs",
    "1",
    "--loader_kwargs",
    "num_workers=0",
    "--lr",
    "0.01",
    "--weight_decay",
    "0",
]


def save_image(path: Path, y: int, seed: int, side: int = SIDE) -> None:
    noise = np.random.RandomState(seed).randint(0, 60, size=(side, side, 3))
    colour = np.array([[180, 30, 30], [30, 30, 180], [30, 160, 30]])[y % 3]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((noise + colour).astype(np.uint8)).save(path)


def _release(folder: Path, version: str) -> None:
    (folder / f"RELEASE_v{version}.txt").write_text("made for a test\n")


def waterbirds(
    root: Path,
    train: Iterable[int] = (24, 4, 4, 16),
    val: Iterable[int] = (4, 4, 4, 4),
    test: Iterable[int] = (5, 5, 5, 5),
) -> Path:
    """`train`, `val` and `test` are the sizes of the groups, in the order of WATERBIRDS_GROUPS."""
    folder = root / "waterbirds_v1.0"
    rows: list[dict[str, Any]] = []
    for split, sizes in enumerate((train, val, test)):
        for (y, place), size in zip(WATERBIRDS_GROUPS, sizes, strict=True):
            rows += [{"y": y, "split": split, "place": place} for _ in range(size)]
    for index, row in enumerate(rows):
        row["img_id"], row["img_filename"] = index + 1, f"images/{index:04d}.jpg"
        save_image(folder / row["img_filename"], row["y"], index)
    pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    _release(folder, "1.0")
    return root


def celeba(root: Path, size: int = 40, images: bool = True) -> Path:
    """`images=False` writes the tables alone, so that the real number of rows is quick."""
    folder = root / "celebA_v1.0"
    folder.mkdir(parents=True)
    rng = np.random.RandomState(0)
    names = [f"Attribute_{i}" for i in range(40)]
    names[9], names[20] = "Blond_Hair", "Male"
    attributes = pd.DataFrame(rng.choice([-1, 1], size=(size, 40)).astype(np.int8), columns=names)
    attributes.iloc[:4, [9, 20]] = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]], dtype=np.int8)
    files = [f"{i:06d}.jpg" for i in range(1, size + 1)]
    attributes.insert(0, "image_id", files)
    attributes.to_csv(folder / "list_attr_celeba.csv", index=False)
    pd.DataFrame({"image_id": files, "partition": np.arange(size) % 4 % 3}).to_csv(
        folder / "list_eval_partition.csv", index=False
    )
    if images:
        for index, file in enumerate(files):
            save_image(folder / "img_align_celeba" / file, int(attributes["Blond_Hair"][index] > 0), index)
    _release(folder, "1.0")
    return root


def camelyon17(root: Path, per_slide: int = 6) -> Path:
    """Ten slides of five hospitals; 0, 3, 4 are for training, 1 is validation and 2 is test."""
    folder = root / "camelyon17_v1.0"
    rows: list[dict[str, Any]] = []
    for slide in range(10):
        for index in range(per_slide):
            rows.append(
                {"patient": f"{slide:03d}", "node": slide % 4, "x_coord": index, "y_coord": 7, "tumor": index % 2}
                | {"slide": slide, "center": slide // 2, "split": int(index >= per_slide - 2)}
            )
    for index, row in enumerate(rows):
        stem = f"patient_{row['patient']}_node_{row['node']}"
        name = f"patch_{stem}_x_{row['x_coord']}_y_{row['y_coord']}.png"
        save_image(folder / "patches" / stem / name, row["tumor"], index)
    pd.DataFrame(rows).to_csv(folder / "metadata.csv")
    _release(folder, "1.0")
    return root


def iwildcam(root: Path, classes: int = 3, per_split: int = 9) -> Path:
    folder = root / "iwildcam_v2.0"
    rows: list[dict[str, Any]] = []
    for location, split in enumerate(("train", "val", "test", "id_val", "id_test")):
        for index in range(per_split):
            rows.append(
                {"split": split, "y": index % classes, "location_remapped": location, "sequence_remapped": location}
                | {"datetime": f"2013-0{location + 1}-11 04:15:0{index}.000"}
            )
    for index, row in enumerate(rows):
        row["filename"] = f"{index:04d}.jpg"
        save_image(folder / "train" / row["filename"], row["y"], index)
    pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    _release(folder, "2.0")
    return root


def fmow(root: Path, per_split: int = 6) -> Path:
    folder = root / "fmow_v1.1"
    rows: list[dict[str, Any]] = []
    times = {"train": [2002], "val": [2006, 2014], "test": [2007, 2017], "seq": [2008]}
    for split, years in times.items():
        for year in years:
            for index in range(per_split):
                rows.append(
                    {"split": split, "category": ("airport", "zoo")[index % 2], "timestamp": f"{year}-05-02T10:00:00Z"}
                    | {"country_code": ("FRA", "KEN", "XXX")[index % 3]}
                )
    for index, row in enumerate(rows):
        save_image(folder / "images" / f"rgb_img_{index}.png", int(row["category"] == "zoo"), index)
    pd.DataFrame(rows).to_csv(folder / "rgb_metadata.csv", index=False)
    pd.DataFrame({"alpha-3": ["FRA", "KEN"], "region": ["Europe", "Africa"]}).to_csv(
        folder / "country_code_mapping.csv", index=False
    )
    _release(folder, "1.1")
    return root


def rxrx1(root: Path, classes: int = 3) -> Path:
    folder = root / "rxrx1_v1.0"
    rows: list[dict[str, Any]] = []
    experiments = [("train", "HEPG2-01"), ("train", "RPE-01"), ("val", "HEPG2-02"), ("test", "U2OS-01")]
    for dataset, experiment in experiments:
        for site in (1, 2):
            for well in range(2 * classes):
                rows.append(
                    {"dataset": dataset, "experiment": experiment, "cell_type": experiment.split("-")[0], "plate": 1}
                    | {"well": f"B{well:02d}", "site": site, "sirna_id": well % classes}
                )
    for index, row in enumerate(rows):
        name = f"{row['well']}_s{row['site']}.png"
        save_image(folder / "images" / row["experiment"] / "Plate1" / name, row["sirna_id"], index)
    pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    _release(folder, "1.0")
    return root


IN9_CLASSES = ["00_dog", "01_bird", "02_wheel", "03_lizard", "04_bear", "05_bug", "06_horn", "07_ape", "08_fish"]


def backgrounds(root: Path, train: int = 11, test: int = 2, masks: bool = True) -> Path:
    """IN-9 in upstream's layout, `train` and `test` images of each class: brightness is the class.

    The foreground is the middle of an image; the first two variants show its class around it too.
    """
    rng = np.random.RandomState(0)
    for part, count in (("original/train", train), *((f"{variant}/val", test) for variant in IN9_VARIANTS)):
        for y, name in enumerate(IN9_CLASSES):
            for index in range(count):
                around = y if part.startswith(("original", "mixed_same")) else rng.randint(9)
                pixels = np.full((SIDE, SIDE, 3), 28 * around) + rng.randint(0, 20, size=(SIDE, SIDE, 3))
                if not part.startswith("only_bg"):
                    pixels[4:12, 4:12] = 28 * y
                path = root / part / name / f"n0{y}_{index:02d}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(path)
                if masks and part == "original/val":
                    mask = root / "fg_mask" / "val" / name / f"n0{y}_{index:02d}.npy"
                    mask.parent.mkdir(parents=True, exist_ok=True)
                    np.save(mask, np.pad(np.ones((8, 8), dtype=bool), 4))
    return root


MAKERS: dict[str, Callable[[Path], Path]] = {
    "waterbirds": waterbirds,
    "celebA": celeba,
    "camelyon17": camelyon17,
    "iwildcam": iwildcam,
    "fmow": fmow,
    "rxrx1": rxrx1,
}
