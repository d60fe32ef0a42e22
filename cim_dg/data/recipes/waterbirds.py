"""Waterbirds from its parts: birds of CUB-200-2011, cut out by their segmentations, in front of places of Places365.

The published recipe (Sagawa et al. 2020, appendix C.1; github.com/kohpangwei/group_DRO, generate_waterbirds.py): a
fifth of CUB's training birds is for validation. In training 95% of the birds are in front of their own kind of place,
in validation and test half of them. A place is shrunk and cropped to the bird's photograph, and the bird is put over it
by its mask. The pairs of birds and places were drawn without a known seed. If the official archive's metadata.csv is
given, the pairs are the official ones. Otherwise they are drawn here from a fixed seed, in the same numbers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import RandomState
from PIL import Image
from tqdm import tqdm

from cim_dg.data.catalogue import Dataset
from cim_dg.data.recipes.inputs import Inputs, images
from cim_dg.data.recipes.parquet import WATERBIRDS
from cim_dg.data.recipes.tables import release
from cim_dg.errors import UserError
from cim_dg.runtime.devices import cores
from cim_dg.runtime.files import write_atomically

STRENGTH = 0.95
VALIDATION = 0.2
OFFICIAL = {4615: 933, 1379: 266}
"""The numbers of CUB's training land birds and water birds in the official validation split."""

SEED = 0
PLACES = (("bamboo_forest", "forest/broadleaf"), ("ocean", "lake/natural"))
"""Places365's categories of land and water."""

WATER = (
    "albatross", "auklet", "cormorant", "frigatebird", "fulmar", "gull", "jaeger", "kittiwake", "pelican", "puffin",
    "tern", "gadwall", "grebe", "mallard", "merganser", "guillemot", "pacific_loon",
)  # fmt: skip
"""A species whose name contains one of these is a water bird. (As in the official dataset, this includes three land
birds whose names contain 'tern': 'Eastern Towhee' and two 'Western' ones.)"""


@dataclass(frozen=True)
class Bird:
    """A photograph of CUB, its class (1 for water), split (0, 1, 2), place (1 for water) and the place's file."""

    number: int
    file: str
    y: int
    split: int
    place: int
    place_file: str


def lay_out(dataset: Dataset, inputs: Inputs, target: Path) -> None:
    """Build the dataset in `target`.

    Raises:
        UserError: a part is missing, or one of its files cannot be read.
    """
    listed, division = inputs.file("images.txt"), inputs.file("train_test_split.txt")
    photographs = inputs.folder("CUB_200_2011/images") or (listed.parent / "images" if listed is not None else None)
    masks = inputs.folder("segmentations")
    if listed is None or division is None or photographs is None or not photographs.is_dir() or masks is None:
        raise UserError(
            f"{dataset.name}: needed are CUB_200_2011 (images.txt, train_test_split.txt, images/) and its "
            f"segmentations/; not all of them are in {inputs}"
        )
    places = {name: _place(dataset, inputs, name) for kind in PLACES for name in kind}
    table = inputs.file("metadata.csv")
    if table is None:
        inputs.notes.append(
            "no metadata.csv of the official archive was given: which bird is before which place is drawn anew, so "
            "that figures are comparable with published ones only up to that"
        )
        birds = draw(_pairs(listed), _pairs(division), {name: list(images(path)) for name, path in places.items()})
    else:
        birds = _official(table)
    target.mkdir(parents=True)

    def build(bird: Bird) -> None:
        kind, name = bird.place_file.strip("/").rsplit("/", 1)
        image = compose(
            photographs / bird.file, (masks / bird.file).with_suffix(".png"), places[_plain_place(kind)] / name
        )
        path = target / bird.file
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)

    with ThreadPoolExecutor(cores()) as threads:
        for _ in tqdm(threads.map(build, birds), total=len(birds), desc="Waterbirds", leave=False, disable=None):
            pass
    _write(target / "metadata.csv", birds)
    release(dataset, target)


def draw(
    photographs: Mapping[int, str], division: Mapping[int, str], places: Mapping[str, Sequence[str]]
) -> list[Bird]:
    """Splits and places for CUB's photographs, drawn from a fixed seed, in the numbers of the published recipe.

    Args:
        photographs: file by number, as in images.txt.
        division: "1" for a training photograph and "0" for a test one by number, as in train_test_split.txt.
        places: file names by place of `PLACES`.

    Raises:
        UserError: there are fewer places than birds.
    """
    rng = RandomState(SEED)
    numbers = np.array(sorted(photographs))
    waterbird = np.array([_is_water(photographs[number]) for number in numbers])
    training = np.flatnonzero([division.get(number) == "1" for number in numbers])
    split = np.full(len(numbers), 2)
    split[training] = 0
    for y in (0, 1):
        # The recipe draws a fifth of both classes together, so their numbers are random. Here they are the official
        # ones, because WILDS' evaluation uses them as group weights.
        members = training[waterbird[training] == y]
        count = OFFICIAL.get(len(members), int(np.round(VALIDATION * len(members))))
        split[rng.choice(members, size=count, replace=False)] = 1
    place = np.zeros(len(numbers), dtype=np.int64)
    for part in range(3):
        for y in (0, 1):
            water = (STRENGTH if y else 1 - STRENGTH) if part == 0 else 0.5
            members = np.flatnonzero((split == part) & (waterbird == y))
            place[rng.choice(members, size=int(np.round(water * len(members))), replace=False)] = 1
    files = np.empty(len(numbers), dtype=object)
    for kind, names in enumerate(PLACES):
        candidates = [f"/{name[0]}/{name}/{file}" for name in names for file in places[name]]
        members = np.flatnonzero(place == kind)
        if len(candidates) < len(members):
            raise UserError(
                f"Waterbirds: {' and '.join(names)} have {len(candidates)} images; {len(members)} are needed"
            )
        files[members] = [candidates[index] for index in rng.permutation(len(candidates))[: len(members)]]
    columns = zip(numbers.tolist(), waterbird.tolist(), split.tolist(), place.tolist(), files, strict=True)
    return [Bird(number, photographs[number], int(y), part, kind, file) for number, y, part, kind, file in columns]


def compose(photograph: Path, mask: Path, place: Path) -> Image.Image:
    """The bird of a photograph in front of a place: mask * photograph + (1 - mask) * place, each term rounded.

    Raises:
        UserError: a file cannot be read, or the mask and the photograph differ in size.
    """
    try:
        bird, opacity, background = (Image.open(path).convert("RGB") for path in (photograph, mask, place))
    except (OSError, SyntaxError) as error:
        raise UserError(f"Waterbirds: a part cannot be read: {error}") from None
    if bird.size != opacity.size:
        raise UserError(f"Waterbirds: {mask} has {opacity.size} pixels and {photograph} {bird.size}")
    share = np.asarray(opacity) / 255
    before = np.around(np.asarray(bird) * share).astype(np.uint8)
    behind = np.around(np.asarray(fit(background, bird.size)) * (1 - share)).astype(np.uint8)
    return Image.fromarray(before + behind)


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """An image cropped about its centre to the shape of `size` (width, height), and resized to it.

    A smaller image is enlarged first, until it covers `size`.
    """
    width, height = image.size
    if width < size[0] or height < size[1]:
        larger = (size[0], int(size[0] / width * height))
        if larger[1] < size[1]:
            larger = (int(size[1] / height * width), size[1])
        image = image.resize(larger, Image.Resampling.LANCZOS)
        width, height = image.size
    if width / height > size[0] / size[1]:
        cut = (width - int(size[0] / size[1] * height)) // 2
        box = (cut, 0, width - cut, height)
    else:
        cut = (height - int(width / (size[0] / size[1]))) // 2
        box = (0, cut, width, height - cut)
    return image.crop(box).resize(size, Image.Resampling.LANCZOS)


def _place(dataset: Dataset, inputs: Inputs, name: str) -> Path:
    folder = inputs.folder(f"{name[0]}/{name}", name)
    if folder is None:
        raise UserError(f"{dataset.name}: there is no folder {name} of Places365 in {inputs}")
    return folder


def _plain_place(kind: str) -> str:
    """'f/forest/broadleaf' -> 'forest/broadleaf'."""
    for names in PLACES:
        for name in names:
            if kind.endswith(name):
                return name
    raise UserError(f"Waterbirds: metadata.csv has a place {kind!r}; accepted are {', '.join(map(', '.join, PLACES))}")


def _is_water(file: str) -> int:
    species = file.split("/")[0].split(".")[-1].lower()
    return int(any(name in species for name in WATER))


def _pairs(path: Path) -> dict[int, str]:
    try:
        return {int(number): value for number, value in map(str.split, path.read_text(encoding="utf-8").splitlines())}
    except ValueError:
        raise UserError(f"Waterbirds: {path} does not have a number and a value in each line") from None


def _official(table: Path) -> list[Bird]:
    try:
        with table.open(newline="", encoding="utf-8") as file:
            return [
                Bird(
                    int(row["img_id"]),
                    row["img_filename"],
                    int(row["y"]),
                    int(row["split"]),
                    int(row["place"]),
                    row["place_filename"],
                )
                for row in csv.DictReader(file)
            ]
    except (KeyError, ValueError, TypeError):
        raise UserError(
            f"Waterbirds: {table} is not the official one; its columns are {', '.join(WATERBIRDS)}"
        ) from None


def _write(path: Path, birds: list[Bird]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(WATERBIRDS)
    writer.writerows((b.number, b.file, b.y, b.split, b.place, b.place_file) for b in birds)
    write_atomically(path, text.getvalue())
