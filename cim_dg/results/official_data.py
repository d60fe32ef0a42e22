"""Which datasets are those of the papers' tables: others in their format, told by their size, get another name."""

from __future__ import annotations

# WILDS' name of a dataset -> its name in the tables, and its number of test images.
_OFFICIAL = {
    "waterbirds": ("Waterbirds", 5_794),
    "celebA": ("CelebA", 19_962),
    "backgrounds": ("BackgroundChallenge", 4_050),
}
_WILDS_NAMES = {name.lower(): name for name in _OFFICIAL}  # SubpopBench writes others in capitals


def official_name(name: str, test_images: int) -> str:
    """The name of the dataset that a harness calls `name` and tests on `test_images` images."""
    known = _WILDS_NAMES.get(name.lower())
    if known is None:
        return name
    official, size = _OFFICIAL[known]
    return official if test_images == size else f"{known} format ({test_images} test images)"
