"""`cim-dg wilds digits`: real digits in the on-disk format of Waterbirds, for a trial of the whole path in minutes.

The class is whether a digit is below 5 ("landbird") or not ("waterbird"). The place is the texture behind it: vertical
("land") or horizontal stripes ("water"). In training the place is correlated with the class as in Waterbirds; in
validation and test it is not.
"""

from __future__ import annotations

import argparse
import csv
import io
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Any

from cim_dg.errors import UserError
from cim_dg.runtime.bounds import SEED, whole

FOLDER = "waterbirds_v1.0"
# Images per split and group; groups are in the order (y, place) = (0, 0), (0, 1), (1, 0), (1, 1). The training groups
# have the shares of Waterbirds' 3498, 184, 56 and 1057.
SIZES = {"train": (1751, 92, 28, 529), "val": (100, 100, 100, 100), "test": (200, 200, 200, 200)}
DIGIT, SIDE = 22, 28  # pixels
SPREAD = 15.0  # largest angle of the stripes to the vertical or horizontal, in degrees
DARKEST, STRENGTH = 0.2, 0.5  # of the stripes: weak enough that the digits are learnt too


def add_parser(subparsers: Any) -> None:
    """Add the command `digits`."""
    parser = subparsers.add_parser(
        "digits", help="write digits in the format of Waterbirds, to try things out", allow_abbrev=False
    )
    parser.add_argument("--root_dir", required=True, help=f"folder in which {FOLDER} is made")
    parser.add_argument("--seed", type=whole(0, SEED), default=0, help="of which digits are where, and of the textures")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the dataset and say how to train on it."""
    if arguments.seed < 0:
        raise UserError(f"seed is {arguments.seed}; accepted is a whole number of at least 0")
    folder = write_digits(arguments.root_dir, arguments.seed)
    print(f"{sum(map(sum, SIZES.values()))} digits are in {folder}; to train on them:")
    print(
        f"cim-dg wilds train --dataset waterbirds --defaults digits --root_dir {shlex.quote(str(arguments.root_dir))} "
        "--algorithm CIM --log_dir logs/digits-CIM"
    )
    return 0


def write_digits(root_dir: str | Path, seed: int = 0) -> Path:
    """Create ROOT_DIR/waterbirds_v1.0, completely or not at all. The same seed gives the same images.

    Raises:
        UserError: it exists already, or cannot be written.
    """
    target = Path(root_dir) / FOLDER
    if target.exists():
        raise UserError(f"{target} exists already; remove it or choose another root_dir")
    try:
        Path(root_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root_dir, prefix=".digits-") as work:
            folder = Path(work) / FOLDER
            _write(folder, seed)
            shutil.move(folder, target)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error}") from None
    return target


def _write(folder: Path, seed: int) -> None:
    # numpy, torch and scikit-learn: only for who draws.
    import numpy as np
    from PIL import Image

    from cim_dg.data import digits

    rng = np.random.RandomState(seed)
    images, labels = digits.load_digits()
    rows, chosen = [], []
    for y in (0, 1):
        pool = rng.permutation(np.flatnonzero((labels >= 5) == bool(y)))
        for split, name in reversed(list(enumerate(SIZES))):
            # No digit is in two splits. val and test have each digit on both places; train repeats the others as often
            # as it takes.
            sizes = SIZES[name][2 * y : 2 * y + 2]
            own, pool = (pool[: sizes[0]], pool[sizes[0] :]) if name != "train" else (pool, pool[:0])
            places = np.repeat((0, 1), sizes)
            chosen += np.resize(own, len(places)).tolist()
            rows += [{"y": y, "split": split, "place": int(place)} for place in places]
    opacities = digits.enlarge(images[chosen], DIGIT, SIDE)
    places = np.array([row["place"] for row in rows])
    angles = np.deg2rad(90.0 * places + rng.uniform(-SPREAD, SPREAD, size=len(rows)))
    pictures = digits.compose(opacities, DARKEST + STRENGTH * digits.stripes(rng, angles, SIDE))
    (folder / "images").mkdir(parents=True)
    table = io.StringIO()
    writer = csv.DictWriter(table, ["img_id", "img_filename", "y", "split", "place"], lineterminator="\n")
    writer.writeheader()
    for index, (row, picture) in enumerate(zip(rows, pictures, strict=True)):
        name = f"images/{index:04d}.jpg"
        pixels = np.rint(255 * picture.transpose(1, 2, 0)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name, quality=95, subsampling=0)  # strokes are thin
        writer.writerow({"img_id": index + 1, "img_filename": name, **row})
    (folder / "metadata.csv").write_text(table.getvalue(), encoding="utf-8")
    (folder / "RELEASE_v1.0.txt").write_text(
        "Handwritten digits over stripes in the format of Waterbirds, made by `cim-dg wilds digits`; not Waterbirds.\n",
        encoding="utf-8",
    )
